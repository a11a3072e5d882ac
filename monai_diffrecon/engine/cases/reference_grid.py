# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""References and masks must lie where the reconstruction does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.engine.voxel_size import MOST_FINER
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor
from monai_diffrecon.numerics.resampling import corner_distance, outside, resample_to
from monai_diffrecon.protocols import VolumeGeometry

#: The option that resamples a reference to the reconstruction's grid.
RESAMPLE = "--resample_reference true"
#: Tolerance (voxels) of corner positions, and beyond the edge of a reference.
_APART, _BEYOND = 0.1, 1.0


def check_on_grid(
    x: Tensor,
    geometry: VolumeGeometry,
    what: str,
    mend: str,
    *,
    image: Tensor | None = None,
    than: str = "reconstruction",
) -> None:
    """Refuse an image that cannot be compared with a reconstruction voxel by voxel.

    Args:
        x: the image, (1, X, Y, Z); a ``MetaTensor`` carries its affine.
        geometry: of the reconstruction.
        what: name of the image.
        mend: what to do about another grid.
        image: the scan; if it has no position, positions are not compared.
        than: name of what the geometry is of.

    Raises:
        InputError: another shape, or another place by more than a tenth of a voxel.
    """
    if tuple(x.shape) != (1, *geometry.shape):
        raise InputError(
            f"{what} of another shape than the {than}",
            where=what,
            expected=(1, *geometry.shape),
            got=tuple(x.shape),
            mend=mend,
        )
    if isinstance(x, MetaTensor):
        target = affine_of(geometry)
        distance = corner_distance(target, _placed(_affine(x), target, image), geometry.shape)
        if not distance <= _APART:
            raise InputError(
                f"{what} at another position than the {than}",
                where=what,
                expected=f"corners within {_APART:g} voxels",
                got=f"{distance:.3g} voxels",
                mend=f"{mend}; or correct its affine",
            )


def reference_on_grid(
    reference: Tensor, geometry: VolumeGeometry, image: Tensor | None = None
) -> tuple[Tensor, dict[str, Any] | None]:
    """Return a reference on the grid of a reconstruction, and the step for the record, or None.

    Args:
        reference: the ground truth, (1, X, Y, Z); only a ``MetaTensor`` has an affine and can be resampled.
        geometry: of the reconstruction.
        image: the scan; if it has no position, positions are not compared.

    Raises:
        InputError: it is much coarser than the reconstruction, or does not cover it.
    """
    if not isinstance(reference, MetaTensor):
        return reference, None
    target = affine_of(geometry)
    source = _placed(_affine(reference), target, image)
    shape = tuple(int(n) for n in reference.shape[1:])
    if shape == geometry.shape and corner_distance(target, source, shape) <= _APART:
        return reference, None
    sizes = np.linalg.norm(source[:3, :3], axis=0)
    coarser = float(max(sizes) / min(geometry.spacing))
    if coarser > MOST_FINER * 1.001:
        raise InputError(
            "a reference with much larger voxels than the reconstruction",
            where="reference",
            expected=f"at most {MOST_FINER * min(geometry.spacing):.3g} mm",
            got=f"{max(sizes):.3g} mm",
            mend="give a reference as fine as the reconstruction",
        )
    beyond = outside(target, geometry.shape, source, shape)
    if beyond > _BEYOND:
        raise InputError(
            "a reference that does not cover the reconstruction",
            where="reference",
            expected="all of its voxels",
            got=f"up to {beyond:.3g} voxels beyond its edge",
            mend="correct the affine of the reference, or give one of the whole field of view",
        )
    resampled = resample_to(reference.as_subclass(Tensor), source, target, geometry.shape)
    step = {"resample_reference": {"from_shape": list(shape), "from_spacing": [round(float(s), 6) for s in sizes]}}
    return MetaTensor(resampled, affine=torch.as_tensor(target)), step


def _placed(affine: np.ndarray, target: np.ndarray, image: Tensor | None) -> np.ndarray:
    """Return an affine, or the part that can contradict ``target``: only the voxel size if there is no position.

    Raw data without an orientation has none, nor have an image and a reference both with voxel (0, 0, 0) at 0.
    """
    if not isinstance(image, MetaTensor) or _says_position(_affine(image)):
        return affine
    raw = from_tensor(image).operator is not None
    if not raw and _says_position(affine):
        return affine
    directions = target[:3, :3] / np.linalg.norm(target[:3, :3], axis=0)
    assumed = target.copy()
    assumed[:3, :3] = directions * np.linalg.norm(affine[:3, :3], axis=0)
    return assumed


def _says_position(affine: np.ndarray) -> bool:
    return bool(np.abs(affine - np.diag(np.diag(affine))).max() > 0.0) or bool((np.diag(affine) <= 0.0).any())


def _affine(x: MetaTensor) -> np.ndarray:
    return np.asarray(torch.as_tensor(x.affine).cpu(), dtype=np.float64)
