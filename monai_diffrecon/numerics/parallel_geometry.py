# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The system matrix of parallel-beam CT."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


def joseph_entries(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    angles: np.ndarray,
    detectors: int,
    detector_spacing: float,
) -> int:
    """Return an estimate from above of the number of non-zero entries of :func:`joseph_matrix`.

    On each line of pixels along the main axis, the rays that hit the image touch two pixels each.
    """
    total = 0.0
    for theta in angles:
        along_y = abs(np.cos(theta)) >= abs(np.sin(theta))
        main, cross = (1, 0) if along_y else (0, 1)
        shadow = (shape[cross] + 1) * spacing[cross] * max(abs(np.cos(theta)), abs(np.sin(theta)))
        total += 2 * shape[main] * min(detectors, shadow / detector_spacing + 1)
    return int(total)


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
        rows.append((ray + view * detectors).astype(np.int32))
        columns.append(pixel.astype(np.int32))
        values.append(weight.astype(np.float32))
    matrix = csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
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

    Parallel beams 180 degrees apart are the same, so angles are taken modulo pi. A largest gap of more than three times
    the second largest is the part a limited arc leaves out: no view stands for it, and the views at its ends get
    their other neighbour's step. (Golden angles leave gaps of at most 2.62 times another.)
    """
    if len(angles) == 1:
        return np.array([np.pi])
    folded = np.mod(angles, np.pi)
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + np.pi)
    second, largest = np.sort(gaps)[-2:]
    if 1e-9 < second < largest / 3.0:
        at = int(np.argmax(gaps))
        gaps[at] = (gaps[at - 1] + gaps[(at + 1) % len(gaps)]) / 2
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights
