# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Resampling along one axis by a matrix, without aliasing."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

#: Half width of the kernel, in periods of the coarser of both grids.
_REACH = 6
#: Shape of the Kaiser window: 60 dB, so that what shall pass does to 0.2 %.
_KAISER = 5.65
#: Width of the transition from pass to stop in cycles a voxel of the coarser grid: (60 - 8) / (2.285 * 2 pi * 12).
_TRANSITION = 0.302
#: A remainder of so many voxels at the end of an axis is put down to rounding in a header.
_REMAINDER = 0.01


def resampled_size(size: int, spacing: float, target: float) -> int:
    """Return how many voxels of ``target`` mm cover ``size`` voxels of ``spacing`` mm."""
    return max(math.ceil(size * spacing / target - _REMAINDER), 1)


def resampled_start(size: int, spacing: float, target: float) -> float:
    """Return where the first new voxel's centre lies from the first old one's (mm): both grids have one centre."""
    return 0.5 * ((size - 1) * spacing - (resampled_size(size, spacing, target) - 1) * target)


def resampling_matrix(
    size: int,
    spacing: float,
    target: float,
    count: int | None = None,
    start: float | None = None,
    step: float | None = None,
) -> np.ndarray:
    """Return the matrix (count, size), float64, that resamples an axis; each row sums to 1.

    A sinc in a Kaiser window. Down-sampling it passes what the new voxels can hold and stops the rest, so that nothing
    aliases; the noise falls as by a mean over the new voxel, by ``sqrt(spacing / target)``. Constants and linear images
    come out exact up to the borders, band-limited ones within 0.3 % up to 0.7 of the coarser grid's Nyquist frequency.

    Args:
        size: number of voxels.
        spacing: their size (mm).
        target: size of the new voxels (mm).
        count: number of new voxels; None covers the old ones.
        start: centre of the first new voxel from that of the first old one (mm); None: both grids have one centre.
        step: distance of the new voxels (mm); None: they touch.
    """
    count = resampled_size(size, spacing, target) if count is None else count
    start = resampled_start(size, spacing, target) if start is None else start
    unit = max(spacing, target)
    if size == 1:
        return np.ones((count, 1))
    # Samples beyond the ends, which the kernel reaches, mirror those within at the last one, as a line goes on.
    reach = math.ceil((_REACH * unit + target) / spacing)
    samples = np.arange(-reach, size + reach)
    distance = (samples * spacing - (start + np.arange(count) * (step or target))[:, None]) / unit
    # A pass band that is wider by 1/8 of the transition on each side has the power of a mean over the new voxel.
    cutoff = 1.0 + (0.25 * _TRANSITION if target > spacing else 0.0)
    weights = _kaiser(distance / _REACH) * np.sinc(cutoff * distance)
    folded = _fold(weights, size, reach)
    return _exact_for_lines(folded / folded.sum(1, keepdims=True), distance[:, reach : reach + size])


def apply_along(matrix: np.ndarray, x: Tensor, axis: int) -> Tensor:
    """Return a matrix (m, n) applied along ``axis`` of a tensor, real or complex, in the tensor's precision."""
    weights = torch.from_numpy(np.ascontiguousarray(matrix)).to(x)
    return torch.movedim(torch.movedim(x, axis, -1) @ weights.T, -1, axis).contiguous()


def _kaiser(x: np.ndarray) -> np.ndarray:
    """Return the Kaiser window, 1 at 0 and 0 beyond 1."""
    inside = np.sqrt(np.clip(1.0 - x * x, 0.0, None))
    return np.where(np.abs(x) <= 1.0, np.i0(_KAISER * inside) / np.i0(_KAISER), 0.0)


def _fold(weights: np.ndarray, size: int, reach: int) -> np.ndarray:
    """Return the weights (m, size) of the samples that are there, for those of samples ``reach`` beyond both ends."""
    folded = weights[:, reach : reach + size].copy()
    for k in range(1, reach + 1):
        inner = min(k, size - 1)
        for beyond, end, within in ((reach - k, 0, inner), (reach + size - 1 + k, size - 1, size - 1 - inner)):
            folded[:, end] += 2.0 * weights[:, beyond]
            folded[:, within] -= weights[:, beyond]
    return folded


def _exact_for_lines(weights: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the weights changed by what the windowed kernel lacks of a sum of 1 and of a centre at 0."""
    nearness = np.exp(-(distance**2)) + 1e-12
    zeroth, first, second = (np.sum(nearness * distance**k, axis=1) for k in range(3))
    sums, centres = 1.0 - weights.sum(1), -np.sum(weights * distance, axis=1)
    determinant = zeroth * second - first * first
    a = (second * sums - first * centres) / determinant
    b = (zeroth * centres - first * sums) / determinant
    return weights + nearness * (a[:, None] + b[:, None] * distance)


#: Directions that differ by no more than these cosines are alike.
_TURNED = 1e-3


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far, in voxels of the first grid, the corner voxels of two grids of one shape lie apart at most."""
    corners = np.stack([*np.meshgrid(*((0, n - 1) for n in shape), indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    apart = np.linalg.solve(affine, other @ corners) - corners
    return float(np.abs(apart[:3]).max())


def outside(affine: np.ndarray, shape: tuple[int, ...], other: np.ndarray, covering: tuple[int, ...]) -> float:
    """Return how far, in voxels of ``other``, the corner voxels of the first grid lie beyond the edge of the other."""
    corners = np.stack([*np.meshgrid(*((0, n - 1) for n in shape), indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    at = np.linalg.solve(other, affine @ corners)[:3]
    last = np.asarray(covering)[:, None] - 0.5
    return float(np.maximum(-0.5 - at, at - last).max())


def resample_to(x: Tensor, affine: np.ndarray, target: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """Return an image on another grid, without aliasing.

    Axis by axis where both grids have one orientation (:func:`~monai_diffrecon.numerics.resampling.resampling_matrix`).
    Where they are turned, the image is first brought to voxels no smaller than those of the grid, and then read off by
    cubic splines; beyond its ends the nearest voxel counts.

    Args:
        x: (1, X, Y, Z), real or complex.
        affine: 4 x 4, of the image.
        target: 4 x 4, of the grid.
        shape: voxels of the grid.
    """
    old, new = (np.linalg.norm(m[:3, :3], axis=0) for m in (affine, target))
    turn = (affine[:3, :3] / old).T @ (target[:3, :3] / new)
    if np.abs(turn - np.eye(3)).max() <= _TURNED:
        start = np.linalg.solve(affine, target[:, 3])[:3] * old
        for axis in range(3):
            matrix = resampling_matrix(x.shape[axis + 1], old[axis], new[axis], shape[axis], start[axis])
            x = apply_along(matrix, x, axis + 1)
        return x
    finest = float(new.min())
    for axis in range(3):
        if finest > old[axis]:
            count = x.shape[axis + 1]
            # On the grid it has: only what the new voxels cannot hold is taken out.
            x = apply_along(resampling_matrix(count, old[axis], finest, count, 0.0, step=old[axis]), x, axis + 1)
    index = np.stack([*np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), np.ones(shape)])
    at = np.tensordot(np.linalg.solve(affine, target)[:3], index, 1)
    parts = [x[0].real, x[0].imag] if x.is_complex() else [x[0]]
    read = [torch.from_numpy(map_coordinates(p.double().numpy(), at, order=3, mode="nearest")) for p in parts]
    return (torch.complex(*read) if x.is_complex() else read[0])[None].to(x.dtype)
