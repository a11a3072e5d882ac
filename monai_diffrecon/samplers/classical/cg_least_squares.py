# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Least squares by conjugate gradients on the normal equations."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import ClassicalSampler


class CGLeastSquares(ClassicalSampler):
    """``argmin_x 1/2 ||A x - y||^2 + weight/2 ||A^T A|| ||x||^2`` by conjugate gradients from 0.

    For any linear operator, real or complex; few iterations also regularize. With a multi-coil MRI operator it is the
    iterative SENSE (CG-SENSE) of Pruessmann et al. 2001, Magn. Reson. Med. 46(4), 638.

    Args:
        iterations: most iterations, 1 or more.
        weight: Tikhonov weight relative to ``||A^T A||``, 0 or more.
        tolerance: stop when the residual has fallen to this fraction of the first.

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True

    def __init__(self, iterations: int = 15, *, weight: float = 0.0, tolerance: float = 1e-6) -> None:
        self.iterations = check_integer(iterations, "sampler#iterations", low=1)
        self.weight = check_number(weight, "sampler#weight", low=0.0)
        self.tolerance = check_number(tolerance, "sampler#tolerance", low=0.0, high=1.0)

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        operator = self.problem.operator
        weight = self.weight * operator.norm() if self.weight else 0.0

        def hessian(x: Tensor) -> Tensor:
            h = operator.normal(x)
            return h.add(x, alpha=weight) if weight else h

        rhs = operator.adjoint(measurement)
        zero = torch.zeros_like(rhs)
        return conjugate_gradient(hessian, rhs, zero, iterations=self.iterations, tolerance=self.tolerance)
