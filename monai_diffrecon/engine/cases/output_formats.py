# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The formats that a volume is written in besides NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.errors import DiffReconError, PluginError
from monai_diffrecon.io.atomic import make_folder
from monai_diffrecon.io.nifti_writer import NIfTIWriter
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter


def output_writers(output_format: Any) -> dict[str, VolumeWriter]:
    """Return name -> writer of each format beside NIfTI, which is always written.

    Args:
        output_format: name of a writer, ``{"name": ..., **options}``, or a list of these; ``both`` is ``dicom``.

    Raises:
        PluginError: no writer of that name.
        ConfigError: a mistyped option.
    """
    specs = output_format if isinstance(output_format, (list, tuple)) else [output_format]
    writers = {}
    for spec in ("dicom" if spec == "both" else spec for spec in specs):
        writer: VolumeWriter = registry.build("writers", spec, where="output_format")
        if not isinstance(writer, NIfTIWriter):
            name = spec.get("name") if isinstance(spec, dict) else spec
            writers[name.rpartition(":")[2] if isinstance(name, str) else type(writer).__name__] = writer
    return writers


def write_formats(
    writers: dict[str, VolumeWriter], output: Path, volume: Tensor, geometry: VolumeGeometry, origin: VolumeOrigin
) -> dict[str, Path]:
    """Write a volume in each format and return name -> file or folder.

    A file is ``<case>_recon<suffix>`` beside the NIfTI file; a folder is ``<case>/<name>``.

    Args:
        writers: name -> writer.
        output: the NIfTI file.
        volume: (1, X, Y, Z), real.
        geometry: its geometry.
        origin: what else may be told.

    Raises:
        DiffReconError: a format cannot be written.
    """
    written = {}
    for name, writer in writers.items():
        path = output.parent / origin.case / name
        if writer.suffix:
            path = output.parent / f"{origin.case}_recon{writer.suffix}"
        make_folder(path.parent)
        try:
            writer.write(path, volume.detach().as_subclass(Tensor).clone(), geometry, origin)
        except DiffReconError:
            raise
        except Exception as error:  # a third party's message may contain a path
            raise PluginError(
                f"the writer {name!r} failed: {type(error).__name__}",
                where="output_format",
                mend="report it to the author of the plugin, or omit the format",
            ) from error
        written[name] = path
    return written
