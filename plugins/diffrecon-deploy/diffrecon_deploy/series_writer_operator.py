# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator that writes the derived series."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from monai.deploy.core import Operator, OperatorSpec

from diffrecon_deploy.reconstruction_operator import Reconstructed
from monai_diffrecon.io.atomic import told
from monai_diffrecon.io.dicom.series_writer import write_derived_series
from monai_diffrecon.tracking.provenance import read_record

_DERIVATION = "Reconstructed by monai_diffrecon; for research, not for clinical use"


class SeriesWriterOperator(Operator):
    """Writes a reconstruction as a derived DICOM series, and beside it the volume and its record.

    The files are those of ``diffrecon reconstruct --set output_format=dicom``: ``<case>/dicom/*.dcm``,
    ``<case>_recon.nii.gz``, ``<case>_recon.provenance.json`` and a picture. They appear when all are written, the
    record last, and replace those of an earlier run of the case.

    Named input:
        reconstruction: from :class:`~diffrecon_deploy.reconstruction_operator.ReconstructionOperator`.

    Args:
        fragment: the application.
        conditions: conditions of Holoscan.
        output_folder: folder for the files.
        keep_identity: the derived series belongs to the patient and the study of its source, so that an archive files
            it there, and the record does not list it; otherwise it is de-identified.
        name: name of the operator.
    """

    def __init__(
        self,
        fragment: Any,
        *conditions: Any,
        output_folder: str | Path,
        keep_identity: bool = False,
        name: str = "series_writer",
    ) -> None:
        self._folder, self._keep_identity = Path(output_folder), keep_identity
        super().__init__(fragment, *conditions, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the input."""
        spec.input("reconstruction")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write.

        Raises:
            InputError: the folder cannot be written.
            ResourceError: the disk is full.
        """
        reconstructed = op_input.receive("reconstruction")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".diffrecon_", dir=self._folder) as work:
                record = self._write(reconstructed, Path(work))
                written = sorted(Path(work).glob("[!.]*"), key=lambda path: path == record)
                for path in written:
                    _put(path, self._folder / path.name)
        except OSError as error:
            raise told(error, "output") from error

    def _write(self, reconstructed: Reconstructed, work: Path) -> Path:
        """Write all files into an empty folder and return the record."""
        result, series = reconstructed
        if not self._keep_identity:
            return result.write(work, "dicom")
        record = result.write(work)
        said = read_record(record)
        assert result.made_from is not None
        (work / said["case"]).mkdir(exist_ok=True)
        write_derived_series(
            work / said["case"] / "dicom",
            series.first,
            result.volume,
            result.geometry,
            case=said["case"],
            unit=result.made_from.unit,
            derivation=_DERIVATION,
            entropy="\0".join((series.uid, said["identity_sha256"])),
            keep_identity=True,
        )
        return record


def _put(path: Path, target: Path) -> None:
    """Move a file or a folder to its name; an older one of that name goes."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)
