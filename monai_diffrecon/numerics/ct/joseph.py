# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Line integrals through an image by Joseph's method (1982), for any set of rays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

#: Raised whenever the same rays would get other entries: matrices kept on disk carry it in their name.
JOSEPH_VERSION = "joseph-1"

#: Memory an entry takes while a matrix and its transpose are built: 8 bytes each, and some for what is worked on.
JOSEPH_BYTES = 20

#: Points on rays that are worked on at once; a point takes some 80 bytes at the peak.
_BLOCK = 1_000_000


class Rays(NamedTuple):
    """Rays ``x cos + y sin = offset`` of some views, each (V, D): unit normals and offsets from the centre (mm)."""

    cos: np.ndarray
    sin: np.ndarray
    offset: np.ndarray


def ray_entries(shape: tuple[int, int], spacing: tuple[float, float], rays: Rays) -> np.ndarray:
    """Return a close estimate from above of the non-zero entries of :func:`ray_matrix`, view by view (V,).

    On each line of pixels along its main axis a ray touches two pixels. The lines it meets inside the image are
    counted, not listed: its position is linear in the line.
    """
    along_y = np.abs(rays.cos) >= np.abs(rays.sin)
    entries = np.zeros(rays.offset.shape)
    for main, of_group in ((1, along_y), (0, ~along_y)):
        if not of_group.any():
            continue
        start, slope = _first_and_step(shape, spacing, main, *(part[of_group] for part in rays))
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(-1.0 - start) / slope, (shape[1 - main] - start) / slope])
        level = np.abs(slope) < 1e-12
        inside = (start > -1.0) & (start < shape[1 - main])
        low = np.where(level, np.where(inside, 0.0, np.inf), np.maximum(ends.min(axis=0), 0.0))
        high = np.where(level, shape[main] - 1.0, np.minimum(ends.max(axis=0), shape[main] - 1.0))
        entries[of_group] = 2.0 * np.where(high >= low, np.floor(high - low) + 1.0, 0.0)
    return entries.sum(axis=1)


def ray_matrix(shape: tuple[int, int], spacing: tuple[float, float], rays: Rays) -> csr_array:
    """Return the lengths (mm) of rays in pixels by Joseph's method (1982).

    A ray steps along its main axis, from one line of pixels to the next, and interpolates linearly across it. Rows
    do not depend on each other: the matrix of some views is that part of the whole one.

    Args:
        shape: pixels (X, Y).
        spacing: pixel size (mm).
        rays: rays of V views with D bins; the image is centred on the origin.

    Returns:
        Matrix (V * D, X * Y) in mm, float32, row-major pixels, int32 indices.
    """
    flat = Rays(*(part.ravel() for part in rays))
    count = max(1, _BLOCK // max(shape))
    blocks = [
        _block(shape, spacing, Rays(*(part[at : at + count] for part in flat)))
        for at in range(0, len(flat.offset), count)
    ]
    return blocks[0] if len(blocks) == 1 else vstack(blocks, format="csr")


def _block(shape: tuple[int, int], spacing: tuple[float, float], rays: Rays) -> csr_array:
    """Return the matrix of a few rays (R,): those along Y and those along X, back in their order."""
    along_y = np.abs(rays.cos) >= np.abs(rays.sin)
    parts = [_along(shape, spacing, main, Rays(*(p[g] for p in rays))) for main, g in ((1, along_y), (0, ~along_y))]
    if along_y.all():
        return parts[0]
    if not along_y.any():
        return parts[1]
    return vstack(parts, format="csr")[np.argsort(np.argsort(~along_y, kind="stable"))]


def _along(shape: tuple[int, int], spacing: tuple[float, float], main: int, rays: Rays) -> csr_array:
    """Return the matrix of rays (R,) that step along the axis ``main``."""
    cross = 1 - main
    c_main, c_cross = (rays.sin, rays.cos) if main == 1 else (rays.cos, rays.sin)
    centres = (np.arange(shape[main]) - (shape[main] - 1) / 2) * spacing[main]
    position = (rays.offset[:, None] - centres[None] * c_main[:, None]) / c_cross[:, None]
    index = position / spacing[cross] + (shape[cross] - 1) / 2
    low = np.floor(index)
    fraction = index - low
    length = (spacing[main] / np.abs(c_cross))[:, None]
    # Both neighbours of a point side by side: kept, column and value, (R, points, 2).
    kept = np.empty((*index.shape, 2), dtype=bool)
    kept[..., 0] = (low >= 0) & (low < shape[cross]) & (fraction < 1)
    kept[..., 1] = (low >= -1) & (low < shape[cross] - 1) & (fraction > 0)
    column = np.empty(kept.shape, dtype=np.int32)
    per_line, per_neighbour = (1, shape[1]) if main == 1 else (shape[1], 1)
    column[..., 0] = np.clip(low, -1, shape[cross]).astype(np.int32) * per_neighbour
    column[..., 0] += np.arange(shape[main], dtype=np.int32) * per_line
    column[..., 1] = column[..., 0] + per_neighbour
    value = np.empty(kept.shape, dtype=np.float32)
    value[..., 0] = (1.0 - fraction) * length
    value[..., 1] = fraction * length
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=(1, 2)))]).astype(np.int32)
    matrix = csr_array((value[kept], column[kept], starts), shape=(len(rays.offset), shape[0] * shape[1]))
    matrix.sort_indices()
    return matrix


def _first_and_step(
    shape: tuple[int, int], spacing: tuple[float, float], main: int, cos: np.ndarray, sin: np.ndarray, s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays cross the first line of pixels along ``main``, in pixels, and how far they move a line."""
    c_main, c_cross = (sin, cos) if main == 1 else (cos, sin)
    first = -(shape[main] - 1) / 2 * spacing[main]
    start = (s - first * c_main) / c_cross / spacing[1 - main] + (shape[1 - main] - 1) / 2
    return start, -spacing[main] * c_main / c_cross / spacing[1 - main]
