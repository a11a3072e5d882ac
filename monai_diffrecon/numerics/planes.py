# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes to batches of slices and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.geometry import PLANE_AXIS, VolumeGeometry

#: The slices' axis has voxels so many times larger than the others.
_COARSER = 1.1
_PATTERNS = {
    "sagittal": ("c x y z -> x c y z", "x c y z -> c x y z"),
    "coronal": ("c x y z -> y c x z", "y c x z -> c x y z"),
    "axial": ("c x y z -> z c x y", "z c x y -> c x y z"),
}


def check_plane(plane: str, where: str = "plane") -> str:
    """Return ``plane`` if it names an anatomical plane.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(plane, str) or plane not in PLANE_AXIS:
        raise ConfigError("unknown plane", where=where, expected="sagittal, coronal or axial", got=repr(plane))
    return plane


def thick_plane(geometry: VolumeGeometry) -> str | None:
    """Return the plane of an image's slices: across it are gaps or overlaps, or else clearly the largest voxels.

    None where neither says it, as with cubic voxels.
    """
    planes = sorted(PLANE_AXIS, key=lambda plane: geometry.spacing[PLANE_AXIS[plane]])
    apart = [plane for plane in planes if geometry.gaps[PLANE_AXIS[plane]] != 0.0]
    if len(apart) == 1:
        return apart[0]
    second, largest = (geometry.spacing[PLANE_AXIS[plane]] for plane in planes[-2:])
    return planes[-1] if largest > _COARSER * second else None


def planes_across(plane: str) -> tuple[str, str]:
    """Return the two planes that cross the slices of one."""
    first, second = ("axial" if other == plane else other for other in ("coronal", "sagittal"))
    return first, second


def to_slices(x: Tensor, plane: str) -> Tensor:
    """Return the slices (N, C, H, W) of a volume (C, X, Y, Z); a view where possible."""
    return rearrange(x, _PATTERNS[check_plane(plane)][0])


def from_slices(slices: Tensor, plane: str) -> Tensor:
    """Return the volume (C, X, Y, Z) of slices (N, C, H, W)."""
    return rearrange(slices, _PATTERNS[check_plane(plane)][1])


def slice_positions(plane: str, shape: Sequence[int], first: int = 0, total: int | None = None) -> Tensor:
    """Return where the pixels of slices lie in a volume.

    Args:
        plane: plane of the slices.
        shape: X, Y, Z of a volume that holds these slices, whole.
        first: index of the first of them in the whole volume.
        total: slices of the whole volume; None: these are all.

    Returns:
        (N, 3, H, W): of each pixel the position along X, Y, Z from -1, the first voxel, to 1, the last one.
    """
    ends = [(0, n) for n in shape]
    ends[PLANE_AXIS[check_plane(plane)]] = (first, shape[PLANE_AXIS[plane]] if total is None else total)
    axes = [
        (2.0 * torch.arange(start, start + n) - (of - 1)) / max(of - 1, 1)
        for n, (start, of) in zip(shape, ends, strict=True)
    ]
    return to_slices(torch.stack(torch.meshgrid(*axes, indexing="ij")), plane)


def turned(slices: Tensor, symmetry: int) -> Tensor:
    """Return slices (..., H, W) under a symmetry of the square.

    Args:
        slices: the slices.
        symmetry: 0 to 7; bit 0 flips the columns, bit 1 the rows, then bit 2 transposes. 0 leaves them as they are.
    """
    dims = [dim for bit, dim in ((1, -1), (2, -2)) if symmetry & bit]
    slices = slices.flip(dims) if dims else slices
    return slices.transpose(-2, -1) if symmetry & 4 else slices


def turned_back(slices: Tensor, symmetry: int) -> Tensor:
    """Return slices from which :func:`turned` made the given ones."""
    slices = slices.transpose(-2, -1) if symmetry & 4 else slices
    return turned(slices, symmetry & 3)


#: floor_plus_one: DiffusionMBIR's floor(K / size) + 1 equal chunks; near_equal: TPDM's ceil(K / size) chunks.
SPLITS = ("near_equal", "floor_plus_one")


def batches(count: int, size: int, split: str = "near_equal") -> tuple[tuple[int, int], ...]:
    """Return (first, stop) of every batch of ``count`` slices.

    Args:
        count: number of slices.
        size: nominal slices a batch; 0 for all in one.
        split: one of :data:`SPLITS`.
    """
    if size <= 0 or count == 0:
        return ((0, count),)
    indices = torch.arange(count)
    if split == "floor_plus_one":
        parts = indices.chunk(count // size + 1)
    else:
        parts = indices.tensor_split(math.ceil(count / size))
    return tuple((int(p[0]), int(p[-1]) + 1) for p in parts if len(p))


def slice_norms(slices: Tensor) -> Tensor:
    """Return the Euclidean norm of each slice (N, ...), as (N,)."""
    return torch.linalg.vector_norm(slices.reshape(len(slices), -1), dim=1)


def batch_means(values: Tensor, groups: tuple[tuple[int, int], ...]) -> Tensor:
    """Return values (N,) replaced by the mean of their batch."""
    return torch.cat([values[a:b].mean().expand(b - a) for a, b in groups])
