# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The result of a reconstruction in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from monai_diffrecon.api.files import as_tensor, write_volume
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.viewer.layers import KNOWN, CaseLayers, Layer, unit_of
from monai_diffrecon.viewer.notebook import show


@dataclass
class ReconstructionResult(Reconstruction):
    """A reconstructed volume; ``numpy.asarray(result)`` is the array (X, Y, Z).

    Attributes:
        volume: tensor (1, X, Y, Z) in RAS+ order, in the unit of ``report.unit``; of several samples, their mean.
        geometry: its geometry.
        report: the report: options, weights, notices, seconds.
        spread: the spread of several samples, or None for one.
        source: the file or folder it was made from, or None.
    """

    source: Path | None = None

    @property
    def affine(self) -> np.ndarray:
        """Voxel-to-world matrix (4, 4) in mm; diagonal if the orientation is unknown."""
        return affine_of(self.geometry)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.volume.detach().cpu().numpy()[0]
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)

    def save(self, path: str | Path) -> None:
        """Write the volume as NIfTI, atomically; replaces an older result, never the scan.

        Args:
            path: file to write, ``.nii`` or ``.nii.gz``.

        Raises:
            InputError: the scan itself, a complex volume, another suffix, or the folder cannot be written.
        """
        target = path_option(path, "path")
        if self.source is not None and target.exists():
            scan = self.source.resolve()
            if target.samefile(scan) or scan in target.resolve().parents:
                raise InputError("would overwrite the scan", where=target.name, mend="name another file")
        if self.volume.is_complex():
            raise InputError(
                "complex volumes are not written as NIfTI",
                where=target.name,
                mend="write_volume(path, result.volume.abs(), result.geometry), and the angle() beside it",
            )
        write_volume(target, self.volume, self.geometry)

    def view(self, reference: Any = None) -> Any:
        """Return what a notebook shows: the volume, its spread and, with a reference, the error, in three planes.

        A widget if ipyniivue is installed (``pip install 'monai-diffrecon[viewer]'``), else a page in a frame, which
        its ``save(path)`` writes to a file. Of complex volumes, the magnitude.

        Args:
            reference: the truth, array or tensor (X, Y, Z) or (1, X, Y, Z), on the grid of the volume.

        Raises:
            InputError: a reference of another shape.
        """
        volumes = {"recon": self.volume, "truth": None if reference is None else as_tensor(reference, "reference")}
        volumes["std"] = None if self.spread is None else self.spread.std
        shown = {end: volume.as_subclass(Tensor) for end, volume in volumes.items() if volume is not None}
        layers = tuple(
            Layer(*KNOWN[end], (x.abs() if x.is_complex() else x).float().reshape(-1, *x.shape[-3:]))
            for end, x in shown.items()
        )
        unit = self.report.unit if self.report.unit != "arbitrary" else unit_of(layers[0].volume)
        return show(CaseLayers("reconstruction", layers, self.geometry, unit))
