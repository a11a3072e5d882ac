# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The global phase of complex data of a real volume, and how much of them a real volume explains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient, inner
from monai_diffrecon.protocols import Operator

_ITERATIONS, _TOLERANCE = 10, 1e-3
#: A volume is taken for one of a single sign when its sum is this part of the sum of its magnitudes.
_ONE_SIGNED = 0.3


def global_phase(operator: Operator, y: Tensor) -> tuple[float, float]:
    """Return the phase phi (radians) for which ``exp(-i phi) y`` is best explained by a real volume, and how well.

    The energy that a real volume explains, ``b(phi)^T (A^T A)^-1 b(phi)`` with ``b(phi) = A^T exp(-i phi) y``, is a
    quadratic form in ``(cos phi, sin phi)``: its largest eigenvalue belongs to phi. A scanner's real volume is a
    magnitude, so of phi and phi + pi it is the one whose volume is not negative on the whole; for a volume of both
    signs it is the smaller one.

    Args:
        operator: A, of a real volume and complex data.
        y: the data.

    Returns:
        phi, within -pi and pi, and the explained part of the energy of ``y``, within 0 and 1.
    """
    energy = inner(y, y)
    if energy == 0.0:
        return 0.0, 1.0
    b = [operator.adjoint(y), operator.adjoint(-1j * y)]
    x = [
        conjugate_gradient(operator.normal, v, torch.zeros_like(v), iterations=_ITERATIONS, tolerance=_TOLERANCE)
        for v in b
    ]
    aa, bb, ab = inner(b[0], x[0]), inner(b[1], x[1]), (inner(b[0], x[1]) + inner(b[1], x[0])) / 2
    phi = 0.5 * math.atan2(2 * ab, aa - bb)
    explained = (aa + bb) / 2 + math.hypot((aa - bb) / 2, ab)
    volume = math.cos(phi) * x[0] + math.sin(phi) * x[1]
    if float(volume.sum()) < -_ONE_SIGNED * float(volume.abs().sum()):
        phi += math.pi if phi <= 0 else -math.pi
    return phi, min(explained / energy, 1.0)
