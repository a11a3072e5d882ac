# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Phase of the scanner in the data of a volume assumed to be real."""

from __future__ import annotations

import cmath
import math

from torch import Tensor

from monai_diffrecon.numerics.mri.global_phase import global_phase
from monai_diffrecon.protocols import Operator

#: A smaller phase (radians) changes a real volume by less than single precision matters.
_SMALLEST = 1e-3
#: Part of the data's energy, beside that of their noise, which a real volume may leave unexplained.
_UNEXPLAINED = 0.03

PHASE_VARIES = (
    "the data have a phase that varies across the volume, but the volume is real: {part:.0%} of their energy "
    "remains unexplained, and intensities are too low there; set operator#complex_volume to true"
)
PHASE_REMOVED = "a global phase of {degrees:.1f} degrees was removed from the data, since the volume is real"


def without_phase(operator: Operator, y: Tensor, noise_std: float) -> tuple[Tensor, float, tuple[str, ...]]:
    """Return data of a real volume without their global phase, that phase, and notices.

    Args:
        operator: the operator.
        y: its measurement.
        noise_std: standard deviation of each real component's noise; 0 when unknown.
    """
    if not y.is_complex() or operator.complex_volume or not y.numel():
        return y, 0.0, ()
    phi, explained = global_phase(operator, y)
    measured = y != 0
    energy = float(y.abs().square().sum())
    noise = 2 * noise_std**2 * int(measured.sum()) / energy if energy else 0.0
    notices: tuple[str, ...] = ()
    if 1.0 - explained - noise > _UNEXPLAINED:
        notices += (PHASE_VARIES.format(part=1.0 - explained),)
    if abs(phi) < _SMALLEST:
        return y, 0.0, notices
    return y * cmath.exp(-1j * phi), phi, (PHASE_REMOVED.format(degrees=math.degrees(phi)), *notices)
