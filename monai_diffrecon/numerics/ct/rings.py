# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Rings of uneven detector pixels, taken out of line integrals."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

#: Columns of the detector over which the mean of the views is smoothed.
_WIDTH = 9


def without_rings(lines: np.ndarray) -> np.ndarray:
    """Return line integrals without what a pixel adds to all views alike, which makes a ring about the axis.

    The mean over the views changes slowly along the detector; what is left when it is smoothed is taken for the
    pixels' own (Boin and Haibel 2006, Opt. Express 14, 12071), here as a difference, since a wrong gain adds to the
    logarithm, and by a median, which keeps edges of round objects. Rings wider than four columns stay, and so do
    those of pixels that are wrong in some views only. Fine round structures about the axis are weakened.

    Args:
        lines: (views, columns, rows), float32.
    """
    mean = lines.mean(axis=0, dtype=np.float64)
    return lines - (mean - median_filter(mean, (_WIDTH, 1), mode="nearest")).astype(lines.dtype)
