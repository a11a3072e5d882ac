# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The result of a reconstruction in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from monai_diffrecon.api.files import as_tensor, write_volume
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.list_cases import check_case_name
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.tracking.provenance import record_path
from monai_diffrecon.viewer.layers import KNOWN, CaseLayers, Layer, unit_of
from monai_diffrecon.viewer.notebook import show


@dataclass(frozen=True)
class Origin:
    """What a result was made from, for its record.

    Attributes:
        posed: the measurement and the options.
        postprocessing: what was applied to the volume.
        reader: name of the reader, or None for data in memory.
        preparation: the preparation steps after reading, in order.
    """

    posed: PosedCase
    postprocessing: Postprocessing
    reader: str | None
    preparation: Sequence[Mapping[str, Any]]

    @property
    def hounsfield(self) -> bool:
        """Whether a volume whose measurement states no unit is in HU."""
        return bool(self.posed.recipe.score.intensity["map"] == "window")

    @property
    def unit(self) -> str:
        """Unit of the volume, ``HU``, ``1/mm`` or ``arbitrary``."""
        said = self.posed.said.unit
        return "HU" if said == "arbitrary" and self.hounsfield else said


@dataclass
class ReconstructionResult(Reconstruction):
    """A reconstructed volume; ``numpy.asarray(result)`` is the array (X, Y, Z).

    Attributes:
        volume: tensor (1, X, Y, Z) in RAS+ order, in the unit of ``report.unit``; of several samples, their mean.
        geometry: its geometry.
        report: the report: options, weights, notices, seconds.
        spread: the spread of several samples, or None for one.
        source: the file or folder it was made from, or None.
        made_from: the measurement and the options, which :meth:`write` records.
    """

    source: Path | None = None
    made_from: Origin | None = field(default=None, repr=False)

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

    def write(self, folder: str | Path, output_format: Any = "nifti") -> Path:
        """Write what ``diffrecon reconstruct`` writes of a case, without MLflow's run and the page.

        The files are named by the ``case`` of :meth:`~monai_diffrecon.Reconstructor.reconstruct`, and replace those of
        an earlier result of that name.

        Args:
            folder: folder for the files; made if it is missing.
            output_format: format beside NIfTI, as of the command line: ``dicom``, another writer, or a list of these.

        Returns:
            Path of the record, ``<case>_recon.provenance.json``.

        Raises:
            InputError: no name of a case, a volume that the format cannot hold, or the folder cannot be written.
            PluginError: no such writer.
        """
        if self.made_from is None:
            raise InputError("not the result of reconstruct()", where="made_from", mend="call save()")
        posed, changed = self.made_from.posed, self.made_from.postprocessing
        name = check_case_name(posed.name, "case")
        recorder = CaseRecorder(
            path_option(folder, "folder"),
            track=False,
            tracking_uri=None,
            experiment="",
            output_format=output_format,
            hounsfield=self.made_from.hounsfield,
            anatomy=posed.recipe.score.anatomy,
        )
        with recorder.cohort(1), recorder.case(name) as record:
            for writer in record.writers.values():
                writer.check(self.geometry, f"case {name}")
            record.finish(
                self,
                posed,
                None,
                reader=self.made_from.reader,
                preparation=self.made_from.preparation,
                identity=posed.identity | changed.identity,
                options={"postprocessing": changed.steps} if changed.steps else {},
            )
        return record_path(record.output)

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
