# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The phantoms of a study as cases of a cohort, and their reconstructions as scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import Phantom, centred_grid
from monai_diffrecon.evaluation.image_quality.study.spec import QualitySpec
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.protocols import Operator, PhantomScan, VolumeGeometry


@dataclass(frozen=True)
class PhantomCase:
    """One measurement of a phantom.

    Attributes:
        case: name of the case.
        label: of the phantom.
        number: of the realization of the phantom.
        noise: of the realization of the noise: no two cases of a study share one.
        phantom: the phantom.
        present: measured with its signals.
    """

    case: str
    label: str
    number: int
    noise: int
    phantom: Phantom
    present: bool

    @property
    def truth(self) -> Tensor:
        """What is measured, (1, X, Y, Z)."""
        return torch.from_numpy(self.phantom.volume if self.present else self.phantom.without)[None]


def phantom_cases(spec: QualitySpec, base: Path = Path()) -> list[PhantomCase]:
    """Return the measurements of a study: lesions and discs are measured with them and without.

    Args:
        spec: the study.
        base: folder that files of backgrounds are relative to.

    Raises:
        ConfigError: a phantom that does not fit the grid, or its options.
        InputError: a background that cannot be read.
    """
    geometry = centred_grid(spec.grid.shape, spec.grid.spacing)
    cases: list[PhantomCase] = []
    for phantom in spec.placed:
        for number in range(phantom.realizations):
            made = phantom.make(geometry, spec.modality, spec.seed + number, base)
            paired = any(site.kind in ("lesion", "disc") for site in made.sites)
            for present in (True, False) if paired else (True,):
                name = f"{slug(phantom.label)}-{number}{'' if present else '-without'}"
                cases.append(PhantomCase(name, phantom.label, number, len(cases), made, present))
    return cases


def write_phantoms(cases: list[PhantomCase], folder: Path) -> None:
    """Write each phantom as NIfTI, ``CASE.nii.gz``, unless the same is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        path = folder / f"{case.case}.nii.gz"
        if path.is_file():
            volume, geometry = read_volume(path)
            if torch.equal(volume.as_subclass(Tensor), case.truth) and _same(geometry, case.phantom.geometry):
                continue
        write_volume(path, case.truth, case.phantom.geometry)


def scans_of(cases: list[PhantomCase], folder: Path, operators: dict[VolumeGeometry, Operator]) -> list[PhantomScan]:
    """Return the reconstructions of a method.

    Args:
        cases: those that it has reconstructed.
        folder: of the method.
        operators: geometry -> operator, as of :func:`operators_of`.

    Raises:
        ConfigError: a reconstruction on another grid than its phantom.
    """
    scans = []
    for case in cases:
        volume, geometry = read_volume(folder / f"{case.case}_recon.nii.gz")
        if not _same(geometry, case.phantom.geometry):
            raise ConfigError(
                "a reconstruction on another grid than the phantom",
                where=f"{folder.name}: {case.case}",
                expected=f"{case.phantom.geometry.shape} of {case.phantom.geometry.spacing} mm",
                got=f"{geometry.shape} of {geometry.spacing} mm",
                mend="let the grid of the study fit the operator and the networks",
            )
        without = torch.from_numpy(case.phantom.without)[None] if case.phantom.has_signals else None
        scans.append(
            PhantomScan(
                case.label,
                case.number,
                volume.as_subclass(Tensor).float(),
                case.truth,
                case.phantom.geometry,
                case.phantom.sites,
                without,
                case.present,
                operators.get(case.phantom.geometry),
            )
        )
    return scans


def _same(one: VolumeGeometry, two: VolumeGeometry) -> bool:
    """Return whether two grids have the same voxels, at the same places to 1e-3 mm."""
    affines = [torch.as_tensor(affine_of(geometry)) for geometry in (one, two)]
    return one.shape == two.shape and bool(torch.allclose(affines[0], affines[1], rtol=0.0, atol=1e-3))


def operators_of(cases: list[PhantomCase], spec: Any) -> dict[VolumeGeometry, Operator]:
    """Return geometry -> the operator that measured it.

    Args:
        cases: of the study.
        spec: of the operator, or None if it is unknown.
    """
    grids = dict.fromkeys(case.phantom.geometry for case in cases)
    return {} if spec is None else {grid: build_operator(spec, grid) for grid in grids}
