# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices of one or several stacks that lie anywhere in the volume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.nn import functional

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.numerics.axis_filter import along_axis, without_tails
from monai_diffrecon.numerics.sparse_matrix import SparseMatrix
from monai_diffrecon.operators._slice_profile import profile_samples
from monai_diffrecon.operators._stack_points import (
    WHERE,
    Points,
    Stack,
    affine_of,
    checked_poses,
    indices,
    mean_pose,
    normalized,
    stack_of,
)
from monai_diffrecon.protocols import Operator, VolumeGeometry

logger = logging.getLogger(__name__)

#: Steps in a voxel of the finer grid.
_STEPS = 2
#: Memory of an entry of a matrix and of its transpose.
_ENTRY_BYTES = 16
#: Points of the volume that are interpolated at once.
_POINTS = 2**22
#: More points than these no slice needs.
_MOST_POINTS = 2**26


class Stacks(Operator):
    """Means over slices and pixels that lie anywhere: several thick scans of one volume, as one measurement.

    A measured voxel is the mean of the volume over points spread across its pixel and along the slice-selection
    profile, no further apart than the volume's voxels. Between voxels the volume is interpolated by cubic splines at
    half voxels, and linearly between these: linear interpolation alone blurs. What lies
    outside the volume counts as 0. Each slice may have moved on its own (the model of slice-to-volume reconstruction:
    Kuklisova-Murgasova et al., Med Image Anal 16(8), 2012, section 2.1). Measurement: the voxels of all stacks in one
    vector (N,).

    Args:
        geometry: the volume; with its affine, in whose world the stacks lie.
        stacks: of each scan ``shape`` (three sizes), ``affine`` (4 rows of 4, voxel to world in mm, RAS+), ``plane`` of
            the slices, and ``thickness`` in mm. Gaps are what the affine leaves between slices of this thickness.
        profile: of the slices, ``boxcar`` or ``gaussian``.
        poses: (slices of all stacks, 4, 4), rigid motions in the world (mm): where the header says a point of this
            slice is -> where it was in the volume. None for scans that did not move.
        memory_limit_gb: do not build a matrix that needs more than this, but interpolate at every use.
    """

    family = "image"
    initial_kind = "interpolation"

    def __init__(
        self,
        geometry: VolumeGeometry,
        stacks: Sequence[Mapping[str, Any]] = (),
        profile: str = "boxcar",
        poses: Tensor | None = None,
        memory_limit_gb: float = 4.0,
    ) -> None:
        self.stacks = tuple(stack_of(said, i) for i, said in enumerate(stacks))
        if not self.stacks:
            raise ConfigError(
                "no stack", where=WHERE, expected="at least one", mend="give the scans to reconstruct from"
            )
        check_choice(profile, "operator#profile", ("boxcar", "gaussian"))
        super().__init__(geometry, (sum(stack.size for stack in self.stacks),))
        self.profile = profile
        self.poses: Tensor
        self.spline_x: Tensor
        self.spline_y: Tensor
        self.spline_z: Tensor
        self.register_buffer("poses", checked_poses(poses, sum(stack.slices for stack in self.stacks)))
        for axis, size in zip("xyz", geometry.shape, strict=True):
            self.register_buffer(f"spline_{axis}", _spline(size).float())
        limit = check_number(memory_limit_gb, "operator#memory_limit_gb", low=0.0)
        matrix = self._rows(limit)
        self.matrix = None if matrix is None else SparseMatrix(matrix)
        self.transposed = None if matrix is None else SparseMatrix(matrix.T.tocsr())

    @classmethod
    def volume_geometry(cls, measurement: VolumeGeometry, **options: Any) -> VolumeGeometry:
        """Refuse a single image, which does not say where the volume lies."""
        raise InputError(
            "one image is no measurement of several stacks",
            where=WHERE,
            expected="two scans or more",
            mend="use `diffrecon reconstruct A B C`, `combine_stacks`, or the task z_super_resolution for one scan",
        )

    @property
    def _finer(self) -> tuple[Tensor, Tensor, Tensor]:
        """The matrices that interpolate a volume along its axes, to the finer grid."""
        return self.spline_x, self.spline_y, self.spline_z

    def slices(self) -> list[tuple[Stack, Tensor]]:
        """Return each stack with the poses (slices, 4, 4) of its slices."""
        return list(zip(self.stacks, self.poses.double().cpu().split([s.slices for s in self.stacks]), strict=True))

    def images(self, y: Tensor) -> list[Tensor]:
        """Return the image (X, Y, Z) of each stack in a measurement (N,)."""
        return [part.view(s.shape) for s, part in zip(self.stacks, y.split([s.size for s in self.stacks]), strict=True)]

    def _forward(self, x: Tensor) -> Tensor:
        for axis, spline in enumerate(self._finer, start=1):
            x = along_axis(spline, x, axis)
        if self.matrix is not None:
            return self._in_order(self.matrix(x.reshape(-1, 1))[:, 0])
        parts = []
        for points in self._points(x):
            values = functional.grid_sample(x[None], points.grid(x.shape[1:]), align_corners=True)
            parts.append(torch.einsum("skpq,k->spq", values.reshape(points.shape), points.weights).reshape(-1))
        return self._in_order(torch.cat(parts))

    def _adjoint(self, y: Tensor) -> Tensor:
        slices = torch.cat(
            [image.movedim(s.axis, 0).reshape(-1) for s, image in zip(self.stacks, self.images(y), strict=True)]
        )
        out = self._spread_out(slices)
        for axis, spline in enumerate(self._finer, start=1):
            out = along_axis(spline.T, out, axis)
        return out

    def _spread_out(self, slices: Tensor) -> Tensor:
        """Return what voxels, ordered slice by slice, add to the finer grid (1, X, Y, Z)."""
        shape = (1, *(len(spline) for spline in self._finer))
        if self.transposed is not None:
            return self.transposed(slices[:, None]).reshape(shape)
        out, done = slices.new_zeros((1, *shape)), 0
        for points in self._points(slices):
            s, _, p, q = points.shape
            part = slices[done : done + s * p * q].view(s, 1, p, q) * points.weights[:, None, None]
            done += s * p * q
            # The gradient of an interpolation is its exact transpose.
            out += torch.ops.aten.grid_sampler_3d_backward(
                part.view(1, 1, -1, p, q), out, points.grid(out.shape[2:]), 0, 0, True, [True, False]
            )[0]
        return out[0]

    def _in_order(self, slices: Tensor) -> Tensor:
        """Return a measurement (N,) of voxels that are ordered slice by slice."""
        parts = zip(self.stacks, slices.split([s.size for s in self.stacks]), strict=True)
        return torch.cat([part.view(s.slices, *s.pixels).movedim(0, s.axis).reshape(-1) for s, part in parts])

    def _rows(self, memory_limit_gb: float) -> csr_array | None:
        """Return the matrix of the map, its rows slice by slice; None, with a warning, if it is too large."""
        rows, entries = [], 0
        shape = tuple(len(spline) for spline in self._finer)
        for points in self._points(torch.zeros(())):
            rows.append(points.matrix(shape))
            entries += rows[-1].nnz
            if entries * _ENTRY_BYTES > memory_limit_gb * 1e9 or entries >= 2**31:
                logger.warning(
                    "operator stacks: its matrix would need more than the limit of %.3g GB; the volume is interpolated "
                    "anew at every use, which is slower",
                    memory_limit_gb,
                )
                return None
        return csr_array(vstack(rows, format="csr"))

    def initial(self, y: Tensor) -> Tensor:
        """Return the mean of the stacks, interpolated: cubically across slices, linearly within; 0 where there is none.

        Slices are taken to lie where the whole stack does on average.
        """
        total, count = y.new_zeros(self.volume_shape), y.new_zeros(self.volume_shape)
        for (stack, poses), image in zip(self.slices(), self.images(y), strict=True):
            value, inside = self.interpolated(stack, poses, image)
            total, count = total + value, count + inside
        return total / count.clamp_min(1.0)

    def interpolated(self, stack: Stack, poses: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return a stack on the grid of the volume (1, X, Y, Z), and 1 where it has something to say, 0 elsewhere."""
        count, step = stack.shape[stack.axis], stack.spacing[stack.axis] / min(self.geometry.spacing)
        fine = (count - 1) * max(int(np.ceil(step)), 1) + 1
        knots, at = np.arange(count), np.linspace(0.0, count - 1.0, fine)
        spline = np.ones((1, 1)) if count == 1 else CubicSpline(knots, np.eye(count), bc_type=_ends(count))(at)
        thin = along_axis(torch.from_numpy(spline), image[None], 1 + stack.axis)
        to_stack = torch.from_numpy(np.linalg.inv(mean_pose(poses.numpy()) @ stack.affine) @ affine_of(self.geometry))
        index = indices(to_stack, self.geometry.shape, like=image)  # (X, Y, Z, 3) in voxels of the stack
        sizes = torch.tensor(stack.shape, dtype=index.dtype, device=index.device)
        inside = ((index > -0.5 - 1e-4) & (index < sizes - 0.5 + 1e-4)).all(-1)[None]
        index[..., stack.axis] *= (fine - 1) / max(count - 1, 1)
        grid = normalized(index, thin.shape[1:])
        value = functional.grid_sample(thin[None], grid[None], "bilinear", "border", align_corners=True)[0]
        return value * inside, inside.to(value)

    def _points(self, like: Tensor) -> Iterator[Points]:
        """Yield where on the finer grid some slices are measured, in the type and on the device of a tensor."""
        finer = np.diag([float(_STEPS)] * 3 + [1.0])
        finer[:3, 3] = _STEPS / 2
        to_voxels = finer @ np.linalg.inv(affine_of(self.geometry))
        for stack, poses in self.slices():
            offsets, weights = self._spread(stack)
            (rows, columns), across = stack.pixels, stack.across
            if len(weights) * rows * columns > _MOST_POINTS:
                raise ConfigError(
                    "too many points of the volume in a slice",
                    where=WHERE,
                    expected=f"at most {_MOST_POINTS}",
                    got=len(weights) * rows * columns,
                    mend="use larger voxels for the volume",
                )
            maps = torch.from_numpy(to_voxels) @ poses @ torch.from_numpy(stack.affine)
            at_once = max(_POINTS // (len(weights) * rows * columns), 1)
            for first in range(0, stack.slices, at_once):
                some = maps[first : first + at_once, :3]
                number = torch.arange(first, first + len(some), dtype=torch.float64)
                # An index is the sum of what the slice, the point within the voxel, the row and the column add to it.
                start = some[:, :, 3] + number[:, None] * some[:, :, stack.axis]
                at = start[:, None] + torch.einsum("sij,kj->ski", some[:, :, :3], offsets)
                row = torch.arange(rows, dtype=torch.float64)[None, :, None] * some[:, None, :, across[0]]
                column = torch.arange(columns, dtype=torch.float64)[None, :, None] * some[:, None, :, across[1]]
                at, row, column = (part.to(like) for part in (at, row, column))
                index = at[:, :, None, None] + row[:, None, :, None] + column[:, None, None]
                yield Points(index, weights.to(like))

    def _spread(self, stack: Stack) -> tuple[Tensor, Tensor]:
        """Return points (K, 3) of a voxel around its centre, in voxels of the stack, and their weights (K,)."""
        voxel = min(self.geometry.spacing)
        along, weights = profile_samples(stack.thickness, voxel, self.profile)
        axes: list[Any] = [None, None, None]
        axes[stack.axis] = (along / stack.spacing[stack.axis], weights)
        for axis in stack.across:
            count = max(round(stack.spacing[axis] / voxel), 1)
            axes[axis] = ((np.arange(count) + 0.5) / count - 0.5, np.full(count, 1.0 / count))
        points = np.stack(np.meshgrid(*(at for at, _ in axes), indexing="ij"), -1).reshape(-1, 3)
        total = np.einsum("i,j,k->ijk", *(w for _, w in axes)).reshape(-1)
        return torch.from_numpy(points), torch.from_numpy(total)


def _spline(size: int) -> Tensor:
    """Return the matrix of cubic-spline interpolation of an axis at steps of half a voxel, from edge to edge.

    Beyond the centres of the first and last voxel their values are held.
    """
    if size == 1:
        return torch.ones(_STEPS + 1, 1)
    at = (np.arange(_STEPS * size + 1) / _STEPS - 0.5).clip(0.0, size - 1.0)
    return without_tails(torch.from_numpy(CubicSpline(np.arange(size), np.eye(size), bc_type=_ends(size))(at)))


def _ends(count: int) -> str:
    return "not-a-knot" if count > 3 else "natural"
