# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency of the clean estimate by conjugate gradients."""

from __future__ import annotations

import math

from torch import Tensor

from monai_diffrecon.consistency._proximity import check_gamma, proximity_weight
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.option_checks import check_integer, check_number
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState


class ConjugateGradientStep(ConsistencyStep):
    """``argmin_x 1/2 ||A x - y||^2 + gamma/2 ||x - x0||^2``, by a few iterations from x0 (DDS, arXiv 2303.05754).

    Few iterations from x0 stay near x0 where the measurement says nothing, even with gamma = 0.

    Args:
        iterations: most iterations, 1 or more.
        tolerance: stop when the residual has fallen to this fraction of the first.
        gamma: weight of the clean estimate relative to ``||A^T A||``; ``"auto"``: noise variance over ``sigma^2`` of
            the step, 0 for noiseless data.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(self, iterations: int = 5, *, tolerance: float = 1e-3, gamma: float | str = "auto") -> None:
        self.iterations = check_integer(iterations, "consistency#iterations", low=1)
        self.tolerance = check_number(tolerance, "consistency#tolerance", low=0.0, high=1.0)
        self.gamma = check_gamma(gamma)

    def bind(self, problem: Problem) -> None:
        """Take the inverse problem, and back-project its measurement once for all steps."""
        super().bind(problem)
        self._backprojection = problem.operator.adjoint(problem.measurement)

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return the clean estimate (C, X, Y, Z) made consistent with the measurement."""
        operator = self.problem.operator
        gamma = proximity_weight(self.gamma, self.problem, state.sigma)
        if math.isinf(gamma):
            return x0

        def hessian(x: Tensor) -> Tensor:
            return operator.normal(x) + gamma * x if gamma else operator.normal(x)

        rhs = self._backprojection + gamma * x0 if gamma else self._backprojection
        return conjugate_gradient(hessian, rhs, x0, iterations=self.iterations, tolerance=self.tolerance)
