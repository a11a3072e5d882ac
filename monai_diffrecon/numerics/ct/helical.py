# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Helical cone-beam views as fan-beam views of slices."""

from __future__ import annotations

import numpy as np


def single_slice_rebinning(
    image: np.ndarray,
    fan_angles: np.ndarray,
    reach: np.ndarray,
    source_distance: float,
    heights: np.ndarray,
    row_spacing: float,
    central_row: float,
) -> np.ndarray:
    """Return what a fan in each slice would have measured, (columns, slices).

    A ray in the slice is taken from the cone-beam ray above or below it that crosses the slice in the middle of its
    way through the field of view, and is shortened by how much that one leans (Noo, Defrise and Clackdoyle 1999,
    Phys. Med. Biol. 44, 561, equations 1 and 2). Rows are interpolated linearly; beyond the detector the outer row
    counts. Exact for objects that do not change along the axis.

    Args:
        image: line integrals (columns, rows) of one view; z falls from row to row.
        fan_angles: angle of each column's rays from the central ray, radians.
        reach: distance from the source to each column within the plane of the source, mm.
        source_distance: source to axis of rotation, mm.
        heights: z of the slices less that of the source, mm.
        row_spacing: distance of the rows on the detector, mm.
        central_row: row, from 0, at the height of the source.
    """
    # Where the ray is in the middle of the field of view, it is source_distance * cos(angle) away from the source.
    up = heights * (reach / (source_distance * np.cos(fan_angles)))[:, None]
    row = np.clip(central_row - up / row_spacing, 0.0, image.shape[1] - 1.0)
    low = np.minimum(row.astype(np.int64), max(image.shape[1] - 2, 0))
    part, at = row - low, np.arange(len(image))[:, None]
    values = (1.0 - part) * image[at, low] + part * image[at, np.minimum(low + 1, image.shape[1] - 1)]
    return values * (reach[:, None] / np.hypot(reach[:, None], up))
