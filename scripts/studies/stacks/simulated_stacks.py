# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices of a head that moved, by another model than that of the reconstruction."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

PLANES = ("axial", "sagittal", "coronal")
_AXES = {"axial": 2, "sagittal": 0, "coronal": 1}
#: Points across a slice.
_POINTS = 10


def motion(shape: tuple[int, ...], millimetres: float, degrees: float, seed: int) -> np.ndarray:
    """Return a rigid motion (4, 4) about the middle, of this length and angle in random directions."""
    random = np.random.default_rng(seed)
    axis, shift = random.normal(size=(2, 3))
    centre, out = (np.array(shape) - 1) / 2, np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    out[:3, 3] = millimetres * shift / np.linalg.norm(shift) + centre - out[:3, :3] @ centre
    return out


def measured(
    head: np.ndarray,
    box: tuple[slice, ...],
    plane: str,
    thickness: int,
    pose: np.ndarray,
    noise: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return thick slices with noise of a part of a head of 1 mm that was moved, and their affine.

    Args:
        head: (X, Y, Z).
        box: what the slices cover where nothing moved; the world's origin is its first voxel.
        plane: of the slices.
        thickness: in mm, which divides the box.
        pose: where the header puts a point -> where it was; (4, 4), or one for each slice (slices, 4, 4).
        noise: standard deviation.
        seed: of the noise.
    """
    axis, shape, affine = _AXES[plane], [side.stop - side.start for side in box], np.eye(4)
    start = np.array([side.start for side in box])[:, None]
    shape[axis] //= thickness
    affine[axis, axis], affine[axis, 3] = thickness, (thickness - 1) / 2
    spline = spline_filter(head, order=3, output=np.float64)
    slices = []
    for number, moved in enumerate(np.broadcast_to(pose, (shape[axis], 4, 4))):
        index = np.indices([1 if i == axis else n for i, n in enumerate(shape)])
        values = np.zeros(index.shape[1:], np.float32)
        for k in range(_POINTS):
            at = index.reshape(3, -1).astype(float)
            at[axis] = number + (k + 0.5) / _POINTS - 0.5
            points = (moved @ affine)[:3] @ np.vstack([at, np.ones(at.shape[1])]) + start
            values += map_coordinates(spline, points, order=3, prefilter=False).reshape(values.shape) / _POINTS
        slices.append(values)
    out = np.concatenate(slices, axis)
    return out + noise * np.random.default_rng(seed).normal(size=shape).astype(np.float32), affine


def errors_of(found: np.ndarray, true: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return how far (mm) points within a volume are put from where they were."""
    points = np.stack(np.meshgrid(*(np.linspace(0.15, 0.85, 5) * n for n in shape)), -1).reshape(-1, 3)
    difference = found - true
    return np.asarray(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1))
