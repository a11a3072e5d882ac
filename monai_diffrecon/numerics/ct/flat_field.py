# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Line integrals from projections, white fields (beam, no object) and dark fields (no beam)."""

from __future__ import annotations

import numpy as np

#: No detector tells less than this part of the beam from nothing: 16 bits end at 1.5e-5.
_LEAST_TRANSMISSION = 1e-5


def count_floor(beam: np.ndarray, darks: np.ndarray) -> np.ndarray:
    """Return the counts (rows, columns) below which a pixel measures nothing.

    They are the noise of the dark fields (standard deviation in time, median over the pixels; 0 of a single one), or
    1e-5 of the beam if that is more, but not more than the beam.

    Args:
        beam: mean of the white fields less that of the dark ones, above 0, (rows, columns).
        darks: dark fields, (frames, rows, columns).
    """
    noise = float(np.median(darks.std(axis=0, ddof=1))) if len(darks) > 1 else 0.0
    return np.minimum(np.maximum(noise, _LEAST_TRANSMISSION * beam), beam)


def flat_field_line_integrals(
    projections: np.ndarray, beam: np.ndarray, dark: np.ndarray, floor: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return ``-ln((projections - dark) / beam)``, and how many counts lay below the floor and were taken for it.

    Args:
        projections: counts (views, rows, columns).
        beam: mean of the white fields less ``dark``, above 0, (rows, columns).
        dark: mean of the dark fields, (rows, columns).
        floor: from :func:`count_floor`, (rows, columns).
    """
    counts = projections.astype(np.float64) - dark
    return -np.log(np.maximum(counts, floor) / beam), int(np.count_nonzero(counts < floor))
