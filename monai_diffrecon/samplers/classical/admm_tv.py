# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Three-dimensional total variation by ADMM: the classical baseline, and the best classical start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag, check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.finite_differences import (
    check_boundary,
    gradient,
    gradient_adjoint,
    gradient_normal,
    project_dual_,
    spacing_weights,
)
from monai_diffrecon.protocols import (
    ClassicalSampler,
    ConsistencyStep,
    Denoise,
    NoiseSource,
    Problem,
    SamplerState,
    ScorePrior,
)

_DUALS = ("w0", "w1", "w2")


class ADMMTV(ClassicalSampler):
    """``argmin_x 1/2 ||A x - y||^2 + lambda TV(x)`` with total variation on all three axes.

    Scaled ADMM (Boyd et al. 2011, doi 10.1561/2200000016, section 6.4.1) from the operator's initial estimate and
    z = w = 0; one entry of the schedule is one iteration. With ``v = K x + w`` the new dual is the projection P v onto
    the dual ball and ``z = v - P v``, so the state keeps w and the one volume ``K^T (z - w)`` that the next
    iteration needs, instead of z and w on three axes.

    Args:
        threshold: lambda / rho in intensity units (network units), 0 or more.
        rho: relative to ``||A^T A||``, above 0; ``lambda = threshold * rho * ||A^T A||``.
        iterations: ADMM iterations, 1 or more.
        cg_iterations: most iterations of conjugate gradients in each, 1 or more.
        tolerance: conjugate gradients stop at this fraction of their first residual.
        isotropic: penalize the length of the gradient (l2,1); else the sum of its components (l1).
        boundary: ``neumann`` or ``periodic``.
        nonnegative: constrain the volume to values of 0 or more.

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True

    def __init__(
        self,
        threshold: float = 0.01,
        *,
        rho: float = 0.026,
        iterations: int = 30,
        cg_iterations: int = 5,
        tolerance: float = 1e-3,
        isotropic: bool = True,
        boundary: str = "neumann",
        nonnegative: bool = False,
    ) -> None:
        self.threshold = check_number(threshold, "sampler#threshold", low=0.0)
        self.rho = check_number(rho, "sampler#rho", low=0.0, open_low=True)
        self.iterations = check_integer(iterations, "sampler#iterations", low=1)
        self.cg_iterations = check_integer(cg_iterations, "sampler#cg_iterations", low=1)
        self.tolerance = check_number(tolerance, "sampler#tolerance", low=0.0, high=1.0)
        self.isotropic = check_flag(isotropic, "sampler#isotropic")
        self.boundary = check_boundary(boundary, "sampler#boundary")
        self.nonnegative = check_flag(nonnegative, "sampler#nonnegative")

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem.

        Raises:
            ConfigError: non-negativity was asked for a complex volume.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        operator = problem.operator
        if self.nonnegative and operator.complex_volume:
            raise ConfigError(
                "a complex volume cannot be non-negative", where="sampler#nonnegative", expected=False, got=True
            )
        self._weights = spacing_weights(operator.geometry.spacing)
        self._rho = self.rho * operator.norm()
        self._backprojection: Tensor | None = None

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        operator = self.problem.operator
        x, backprojection = operator.initial(measurement), operator.adjoint(measurement)
        memory: dict[str, Tensor] = {}
        for _ in range(self.iterations):
            x, memory = self._iterate(x, memory, backprojection)
        return self._feasible(x)

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the operator's initial estimate."""
        x = self.problem.operator.initial(self.problem.measurement)
        return SamplerState(x=x, sigma=0.0, seed=seed, case=case, memory={"sampler": {}})

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return one entry for each iteration; there is no noise."""
        return (0.0,) * self.iterations

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform iteration ``state.step``; the prior and the consistency step have no say in it."""
        if self._backprojection is None:
            self._backprojection = self.problem.operator.adjoint(self.problem.measurement)
        x, memory = self._iterate(state.x, state.memory.get("sampler", {}), self._backprojection)
        if state.step + 1 >= self.iterations:
            x = self._feasible(x)
        return replace(state, x=x, step=state.step + 1, memory={**state.memory, "sampler": memory})

    def _iterate(
        self, x: Tensor, memory: dict[str, Tensor], backprojection: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the next x, and the next memory; the old ones stay as they are."""
        rhs = backprojection
        if "pull" in memory:
            rhs = torch.add(backprojection, memory["pull"], alpha=self._rho)
        x = conjugate_gradient(self._hessian(), rhs, x, iterations=self.cg_iterations, tolerance=self.tolerance)
        kept: dict[str, Tensor] = {}
        duals = gradient(x, self._weights, self.boundary)
        if "w0" in memory:
            for dual, name in zip(duals, _DUALS, strict=True):
                dual.add_(memory[name])
        # K^T (z - w) = K^T (v - 2 P v): v is needed before and after its projection, one axis in memory at a time.
        pull = gradient_adjoint(duals, self._weights, self.boundary)
        project_dual_(duals, self.threshold, isotropic=self.isotropic)
        pull.sub_(gradient_adjoint(duals, self._weights, self.boundary), alpha=2.0)
        kept.update(zip(_DUALS, duals, strict=True))
        if self.nonnegative:
            v = x + memory["u"] if "u" in memory else x
            kept["u"] = v.clamp(max=0.0)
            pull.add_(v.clamp(min=0.0)).sub_(kept["u"])
        kept["pull"] = pull
        return x, kept

    def _hessian(self) -> Callable[[Tensor], Tensor]:
        operator, weights = self.problem.operator, self._weights

        def apply(x: Tensor) -> Tensor:
            total = gradient_normal(x, weights, self.boundary)
            if self.nonnegative:
                total.add_(x)
            return total.mul_(self._rho).add_(operator.normal(x))

        return apply

    def _feasible(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.0) if self.nonnegative else x
