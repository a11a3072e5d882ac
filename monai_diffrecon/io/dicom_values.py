# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Real numbers as the 16 bits that DICOM images store."""

from __future__ import annotations

import numpy as np

_LEVELS = 65535
_AIR = -1024


def quantized(array: np.ndarray, unit: str) -> tuple[np.ndarray, str, str]:
    """Return stored values with their slope and intercept, such that ``stored * slope + intercept`` is the array.

    HU are stored as scanners do, in steps of 1 HU from -1024, as signed numbers; whatever does not fit, and other
    units, in 65535 steps of the range, unsigned. A range that begins near 0 begins at 0, so that a reader that
    ignores the slope still sees proportional values. The error is at most half a step.

    Args:
        array: real numbers, finite.
        unit: ``HU`` or another.

    Returns:
        int16 or uint16 of the array's shape, slope and intercept as decimal strings of DICOM.
    """
    from pydicom.valuerep import format_number_as_ds

    low, high = float(array.min()), float(array.max())
    if unit == "HU" and low - _AIR >= -32768 and high - _AIR <= 32767:
        return np.round(array - _AIR).astype(np.int16), "1", str(_AIR)
    if 0.0 <= low <= high / 2:
        low = 0.0
    # Rounded to 16 characters; a little more than the range, so that its ends fit.
    slope = str(format_number_as_ds((high - low) / _LEVELS * (1 + 1e-9))) if high > low else "1"
    intercept = str(format_number_as_ds(low))
    stored = np.round((array - float(intercept)) / float(slope))
    return np.clip(stored, 0, _LEVELS).astype(np.uint16), slope, intercept
