# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whether two images lie on one grid, and how an image is brought to another one."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from monai_diffrecon.numerics.resampling import apply_along, resampling_matrix

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
