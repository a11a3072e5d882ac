# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a measurement determines, and what it leaves open."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols.operator import Operator


def project_on_measured(
    operator: Operator, y: Tensor, x: Tensor, *, iterations: int = 50, tolerance: float = 1e-6
) -> Tensor:
    """Return the volume nearest to ``x`` that explains ``y``: ``x + A^+ (y - A x)``.

    By conjugate gradients on the normal equations from x, which never leave x plus the range of A^T.
    """
    return conjugate_gradient(operator.normal, operator.adjoint(y), x, iterations=iterations, tolerance=tolerance)
