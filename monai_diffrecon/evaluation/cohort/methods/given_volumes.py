# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A method of a cohort whose volumes other software made: they are read, and compared like our own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.comparison.case_metrics import magnitude
from monai_diffrecon.engine.cases.reference_grid import check_on_grid, reference_on_grid
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd, LoadVolumed
from monai_diffrecon.engine.transforms.resample_in_plane import note_preparation
from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod, digest
from monai_diffrecon.evaluation.cohort.read import CASE, slug
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec
from monai_diffrecon.io.find_reader import AUTO
from monai_diffrecon.io.measurement.metatensor import from_tensor, geometry_of
from monai_diffrecon.numerics.hashing import sha256_path
from monai_diffrecon.privacy.file_names import anonymously


class GivenVolumes:
    """Volumes of other software, one file or folder a case.

    Args:
        method: the method, with ``volumes``.
        like: the first method of the cohort that reconstructs: the truth is what it is compared with. None if there is
            none: the truth is the reference, else the scan.

    Attributes:
        label: its name in tables.
        folder: its name as a folder.
        fingerprint: the same for all such methods: their volumes are hashed case by case.
        measures: that of ``like``, whose measurement is shared.
        reader: reader of the scans.
        correct_tilt: gantry-tilted scans are resampled to straight stacks.
        description: as of a method that reconstructs, with ``volumes`` true.
    """

    def __init__(self, method: CohortMethod, like: PreparedMethod | None) -> None:
        self.label, self.folder = method.label, slug(method.label)
        self.where = f"method {method.label!r}"
        self._pattern, self._like = str(method.volumes), like
        self.fingerprint = digest("volumes")
        self.measures = self.fingerprint if like is None else like.measures
        self.reader: Any = AUTO if like is None else like.reader
        self.correct_tilt = like is not None and like.correct_tilt
        nothing: dict[str, Any] = {"bundle": None, "auxiliaries": [], "task": None, "preset": None, "overrides": {}}
        self.description: dict[str, Any] = {"label": method.label, **nothing, "volumes": True}

    def measure(self, case: CohortCase) -> dict[str, Any]:
        """Return ``image`` and, if there is a truth, ``reference``, as the methods that reconstruct have them."""
        if self._like is not None:
            return self._like.measure(case)
        data: dict[Any, Any] = LoadMeasurementd(["image"])({"image": str(case.image), "case": case.name})
        if case.reference is not None:
            return dict[Any, Any](LoadVolumed(["reference"])(data | {"reference": str(case.reference)}))
        image = from_tensor(data["image"])
        if image.operator is None:
            data["reference"] = data["image"].to(torch.complex64 if image.data.is_complex() else torch.float32)
        return data

    def truth(self, case: CohortCase, data: dict[str, Any]) -> tuple[MetaTensor | None, Any]:
        """Return the truth or None, and the spec of the operator that measured the scan or None.

        Args:
            case: the case.
            data: what :meth:`measure` returned; a reference that is resampled is put into it, for all methods.
        """
        if self._like is None:
            return data.get("reference"), None
        posed = self._like.inferer.pose(data["image"], case=case.name)
        if self._like.resample_reference and "reference" in data:
            data["reference"], step = reference_on_grid(data["reference"], posed.geometry, data["image"])
            if step is not None:
                note_preparation(data, "image", step)
        return data.get("reference"), posed.measured.operator

    def sha256(self, case: CohortCase) -> str:
        """Return the hash of the file of a case, or of all files of its folder.

        Raises:
            InputError: there is none.
        """
        path = self._path(case)
        return anonymously(partial(sha256_path, path), path, self.where, case.name)

    def read(self, case: CohortCase, truth: MetaTensor | None) -> MetaTensor:
        """Return the volume of a case (1, X, Y, Z), float32, in RAS+ order; the magnitude of a complex one.

        Args:
            case: the case.
            truth: what it is to be compared with.

        Raises:
            InputError: it cannot be read, is not finite, or is not on the grid of the truth.
        """
        read: dict[Any, Any] = LoadVolumed(["volume"])({"volume": str(self._path(case)), "case": case.name})
        volume = MetaTensor(magnitude(read["volume"]).to(torch.float32), affine=read["volume"].affine)
        if not bool(torch.isfinite(volume.as_subclass(Tensor)).all()):
            raise InputError(
                "voxels that are not finite",
                where=f"case {case.name}: volume",
                mend="replace them, or exclude the case",
            )
        if truth is not None:
            mend = "resample it to the grid of the truth"
            grid = geometry_of(truth.shape[1:], truth.affine)
            check_on_grid(volume, grid, "volume", mend, than="truth")
        return volume

    def _path(self, case: CohortCase) -> Path:
        return Path(self._pattern.replace(CASE, case.name))


Method: TypeAlias = PreparedMethod | GivenVolumes


def prepare_methods(cohort: CohortSpec) -> list[Method]:
    """Return the methods of a cohort, checked, with networks loaded.

    Raises:
        InputError: no bundle, or its weights do not fit.
        ConfigError: an option that does not exist, or a value that is wrong.
        IntegrityError: weights that were changed, or a configuration that runs untrusted code.
    """
    ours = {m.label: PreparedMethod(m, cohort) for m in cohort.methods if m.volumes is None}
    like = next(iter(ours.values()), None)
    return [ours[m.label] if m.volumes is None else GivenVolumes(m, like) for m in cohort.methods]
