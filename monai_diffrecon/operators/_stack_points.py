# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stacks of slices, and the points of a volume that they measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS, VolumeGeometry

#: Where the option stands, for messages.
WHERE = "operator#stacks"

#: No scan has more voxels along an axis, lies further from the middle of the scanner (mm), or has thicker slices (mm).
_MOST_VOXELS, _FAR, _THICKEST = 8192, 1e6, 1e3


@dataclass(frozen=True)
class Stack:
    """One scan of parallel slices.

    Attributes:
        shape: voxels along the three axes of the image.
        affine: (4, 4), voxel to world (mm, RAS+), as the header says.
        axis: axis of the image along which the slices are apart.
        thickness: of a slice in mm (full width at half maximum of a Gaussian profile).
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    axis: int
    thickness: float

    @property
    def spacing(self) -> np.ndarray:
        """Distances (mm) between voxels along the three axes."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    @property
    def across(self) -> tuple[int, int]:
        """The axes of the image within a slice."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    @property
    def pixels(self) -> tuple[int, int]:
        """Pixels of a slice along :attr:`across`."""
        return self.shape[self.across[0]], self.shape[self.across[1]]

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Points:
    """Where the voxels of some slices are measured: S slices of P x Q voxels, each at K points.

    Attributes:
        index: (S, K, P, Q, 3), in steps of a grid.
        weights: (K,).
    """

    index: Tensor
    weights: Tensor

    @property
    def shape(self) -> torch.Size:
        """(S, K, P, Q)."""
        return self.index.shape[:4]

    def grid(self, shape: Sequence[int]) -> Tensor:
        """Return the points (1, S * K, P, Q, 3) as ``grid_sample`` takes them."""
        return normalized(self.index, shape).reshape(1, -1, *self.index.shape[2:])

    def matrix(self, shape: Sequence[int]) -> csr_array:
        """Return the rows (S * P * Q, X * Y * Z) of linear interpolation of a grid (X, Y, Z), float32."""
        index = self.index.movedim(1, 3).reshape(-1, len(self.weights), 3)
        low = index.floor()
        high, sizes = index - low, torch.tensor(shape)
        columns, values = [], []
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            at = low.long() + corner
            value = torch.where(corner.bool(), high, 1.0 - high).prod(-1) * self.weights
            inside = ((at >= 0) & (at < sizes)).all(-1)
            column = (at[..., 0] * shape[1] + at[..., 1]) * shape[2] + at[..., 2]
            columns.append(torch.where(inside, column, 0).int())
            values.append(torch.where(inside, value, 0.0))
        column, value = torch.cat(columns, 1), torch.cat(values, 1)
        starts = torch.arange(0, column.numel() + 1, column.shape[1], dtype=torch.int32)
        rows = csr_array(
            (value.flatten().numpy(), column.flatten().numpy(), starts.numpy()), shape=(len(column), math.prod(shape))
        )
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return rows


def stack_of(said: Mapping[str, Any], number: int) -> Stack:
    """Return a stack as the option says it; ``number`` names it in messages.

    Raises:
        ConfigError: it says too little or too much, or no image has such a shape or affine.
    """
    where = f"{WHERE}#{number}"
    if not isinstance(said, Mapping) or set(said) != {"shape", "affine", "plane", "thickness"}:
        got = ", ".join(map(str, said)) if isinstance(said, Mapping) else type(said).__name__
        raise ConfigError("not a stack", where=where, expected="shape, affine, plane, thickness", got=got)
    try:
        affine, shape = np.asarray(said["affine"], dtype=np.float64), tuple(said["shape"])
    except (TypeError, ValueError):
        affine, shape = np.zeros((4, 4)), ()
    whole = len(shape) == 3 and all(type(n) is int and 0 < n <= _MOST_VOXELS for n in shape)
    placed = affine.shape == (4, 4) and bool((np.abs(affine) < _FAR).all()) and abs(np.linalg.det(affine)) > 1e-9
    if not (whole and placed):
        raise ConfigError("no image has this shape or affine", where=where, expected="3 sizes; 4 rows of 4 numbers")
    axis = PLANE_AXIS[check_plane(said["plane"], f"{where}#plane")]
    thickness = check_number(said["thickness"], f"{where}#thickness", low=0.0, high=_THICKEST, open_low=True)
    return Stack((shape[0], shape[1], shape[2]), affine, axis, thickness)


def checked_poses(poses: Tensor | None, slices: int, where: str = "operator#poses") -> Tensor:
    """Return the poses (slices, 4, 4) of an option, float64; of None, those of scans that did not move.

    ``where`` names the option in messages.

    Raises:
        ConfigError: of the wrong shape, or no rigid motions.
    """
    if poses is None:
        return torch.eye(4, dtype=torch.float64).expand(slices, 4, 4).clone()
    poses = torch.as_tensor(poses).double()
    if tuple(poses.shape) != (slices, 4, 4):
        raise ConfigError("of the wrong shape", where=where, expected=(slices, 4, 4), got=tuple(poses.shape))
    turn = poses[:, :3, :3]
    if not bool(((turn @ turn.mT - torch.eye(3).double()).abs() < 1e-4).all()):
        raise ConfigError("not rigid motions", where=where, expected="rotations and translations")
    return poses


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """Return the rigid motion (4, 4) nearest to the mean of some (n, 4, 4)."""
    mean = poses.mean(0)
    u, _, vt = np.linalg.svd(mean[:3, :3])
    mean[:3, :3] = u @ vt
    return np.asarray(mean)


def affine_of(geometry: VolumeGeometry) -> np.ndarray:
    """Return the affine (4, 4) of a geometry; a diagonal one when it has none."""
    return np.diag([*geometry.spacing, 1.0]) if geometry.affine is None else np.asarray(geometry.affine, np.float64)


def indices(matrix: Tensor, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return where a map (4, 4) sends each voxel of a grid (X, Y, Z, 3)."""
    steps = [torch.arange(n, dtype=torch.float64)[:, None] * matrix[:3, axis] for axis, n in enumerate(shape)]
    x, y, z = (step.to(like) for step in steps)
    return x[:, None, None] + y[None, :, None] + z[None, None] + matrix[:3, 3].to(like)


def normalized(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Return indices (..., 3) along X, Y and Z as ``grid_sample`` counts them: from -1 to 1, the last axis first."""
    last = torch.tensor([max(n - 1, 1) for n in shape], dtype=index.dtype, device=index.device)
    return (index * (2.0 / last) - 1.0).flip(-1)
