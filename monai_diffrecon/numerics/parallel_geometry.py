# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The system matrix of parallel-beam CT."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


def joseph_entries(shape: tuple[int, int], views: int, detectors: int) -> int:
    """Return an upper bound of the number of non-zero entries of :func:`joseph_matrix`."""
    return 2 * views * detectors * max(shape)


def joseph_matrix(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    angles: np.ndarray,
    detectors: int,
    detector_spacing: float,
) -> csr_array:
    """Return line integrals through an image by Joseph's method (1982): step along the ray's main axis.

    A ray of angle theta and offset s runs along ``x cos(theta) + y sin(theta) = s``; image and detector are
    centred on the axis of rotation.

    Args:
        shape: pixels (X, Y).
        spacing: pixel size (mm).
        angles: angles in radians, (V,).
        detectors: detector bins.
        detector_spacing: distance of the bins (mm).

    Returns:
        Matrix (V * detectors, X * Y) in mm, float32, row-major pixels, int32 indices.
    """
    offsets = (np.arange(detectors) - (detectors - 1) / 2) * detector_spacing
    rows, columns, values = [], [], []
    for view, theta in enumerate(angles):
        pixel, weight, ray = _one_view(shape, spacing, float(theta), offsets)
        rows.append(ray + view * detectors)
        columns.append(pixel)
        values.append(weight)
    matrix = csr_array(
        (
            np.concatenate(values).astype(np.float32),
            (np.concatenate(rows).astype(np.int32), np.concatenate(columns).astype(np.int32)),
        ),
        shape=(len(angles) * detectors, shape[0] * shape[1]),
    )
    matrix.sum_duplicates()
    return matrix


def _one_view(
    shape: tuple[int, int], spacing: tuple[float, float], theta: float, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (pixel, weight, ray) of one view's entries."""
    cos, sin = np.cos(theta), np.sin(theta)
    centres = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True)]
    along_y = abs(cos) >= abs(sin)
    main, cross = (1, 0) if along_y else (0, 1)
    c_main, c_cross = (sin, cos) if along_y else (cos, sin)
    position = (offsets[:, None] - centres[main][None] * c_main) / c_cross
    index = position / spacing[cross] + (shape[cross] - 1) / 2
    low = np.floor(index).astype(np.int64)
    fraction = index - low
    length = spacing[main] / abs(c_cross)
    step = np.broadcast_to(np.arange(shape[main])[None], low.shape)
    ray = np.broadcast_to(np.arange(len(offsets))[:, None], low.shape)
    pixels, weights, rays = [], [], []
    for neighbour, share in ((low, 1.0 - fraction), (low + 1, fraction)):
        inside = (neighbour >= 0) & (neighbour < shape[cross]) & (share > 0)
        x, y = (neighbour, step) if along_y else (step, neighbour)
        pixels.append((x * shape[1] + y)[inside])
        weights.append((share * length)[inside])
        rays.append(ray[inside])
    return np.concatenate(pixels), np.concatenate(weights), np.concatenate(rays)


def view_weights(angles: np.ndarray) -> np.ndarray:
    """Return the angular step (radians) each view stands for in filtered back-projection, (V,).

    Parallel beams of angles 180 degrees apart are the same, so angles are taken modulo pi. A gap much larger
    than the others (a limited arc) is not spread over its neighbours.
    """
    if len(angles) == 1:
        return np.array([np.pi])
    folded = np.mod(angles, np.pi)
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + np.pi)
    gaps = np.minimum(gaps, 2.0 * np.median(gaps[gaps > 1e-9]) if np.any(gaps > 1e-9) else np.pi)
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights
