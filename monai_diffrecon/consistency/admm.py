# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency and regularization of the clean estimate by ADMM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.consistency._proximity import check_gamma, proximity_weight
from monai_diffrecon.consistency._regularizers import checked_regularizers, update_duals, with_pull
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, Problem, Regularizer, SamplerState


class ADMMStep(ConsistencyStep):
    """``argmin_x 1/2 ||A x - y||^2 + gamma/2 ||x - x0||^2 + lambda sum_i g_i(K_i x)``, warm-started over the steps.

    One iteration a step is enough because z and w persist: the sampler's steps are ADMM's iterations (DiffusionMBIR,
    arXiv 2211.10655, algorithm 1, moved to the clean estimate as in DDS, arXiv 2303.05754). Scaled form: x by
    conjugate gradients on ``A^T A + gamma I + rho ||A^T A|| sum K_i^T K_i``, then ``z_i = prox(K_i x + w_i)``,
    ``w_i += K_i x - z_i``. (Boyd et al. 2011, doi 10.1561/2200000016, section 3.1.1.)

    Args:
        regularizers: the penalties g_i(K_i x); a single one, a list, or none (conjugate gradients only).
        rho: relative to ``||A^T A||``, above 0. The weight of a penalty is
            ``lambda = threshold * rho * ||A^T A||``.
        iterations: ADMM iterations a step, 1 or more.
        cg_iterations: most iterations of conjugate gradients for each x, 1 or more.
        tolerance: conjugate gradients stop at this fraction of their first residual.
        gamma: weight of the clean estimate relative to ``||A^T A||``; ``"auto"``: noise variance over ``sigma^2`` of
            the step, 0 for noiseless data.

    Raises:
        ConfigError: an option out of its range, or a value that is not a regularizer.
    """

    plugin_options: ClassVar[dict[str, str]] = {"regularizers": "regularizers"}
    in_slabs = True

    def __init__(
        self,
        regularizers: Sequence[Regularizer] | Regularizer | None = (),
        *,
        rho: float = 0.026,
        iterations: int = 1,
        cg_iterations: int = 5,
        tolerance: float = 1e-3,
        gamma: float | str = "auto",
    ) -> None:
        self.regularizers = checked_regularizers(regularizers)
        self.rho = check_number(rho, "consistency#rho", low=0.0, open_low=True)
        self.iterations = check_integer(iterations, "consistency#iterations", low=1)
        self.cg_iterations = check_integer(cg_iterations, "consistency#cg_iterations", low=1)
        self.tolerance = check_number(tolerance, "consistency#tolerance", low=0.0, high=1.0)
        self.gamma = check_gamma(gamma)

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem, back-project its measurement once, and tell the regularizers the geometry."""
        super().bind(problem, noise)
        for regularizer in self.regularizers:
            regularizer.bind(problem.operator.geometry)
        self._backprojection = problem.operator.adjoint(problem.measurement)
        self._rho = self.rho * problem.operator.norm() if self.regularizers else 0.0

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return the clean estimate (C, X, Y, Z) after ADMM; z and w go to ``state.memory``."""
        problem = self.problem
        gamma = proximity_weight(self.gamma, problem, state.sigma)
        memory = dict(state.memory.get(self.memory_key, {}))
        base = self._backprojection + gamma * x0 if 0.0 < gamma < math.inf else self._backprojection
        x = x0
        for _ in range(self.iterations):
            if not math.isinf(gamma):
                rhs = with_pull(base, self.regularizers, memory, self._rho)
                x = conjugate_gradient(
                    lambda v: self._hessian(v, gamma), rhs, x, iterations=self.cg_iterations, tolerance=self.tolerance
                )
            update_duals(x, self.regularizers, memory)
        if memory:
            state.memory[self.memory_key] = memory
        return x

    def _hessian(self, x: Tensor, gamma: float) -> Tensor:
        h = self.problem.operator.normal(x)
        if gamma:
            h = h + gamma * x
        for regularizer in self.regularizers:
            h = h + self._rho * regularizer.adjoint(regularizer.transform(x))
        return h
