# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The simultaneous iterative reconstruction technique."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag, check_integer, check_number
from monai_diffrecon.protocols import (
    ClassicalSampler,
    ConsistencyStep,
    Denoise,
    NoiseSource,
    Problem,
    SamplerState,
    ScorePrior,
)

#: Sums below this part of the largest are those of rays beside the volume, and of voxels that no ray meets.
_EMPTY = 1e-6


class SIRT(ClassicalSampler):
    """``x <- x + relaxation C A^T R (y - A x)`` from 0, with R = 1 / (A 1) and C = 1 / (A^T 1).

    It converges to the solution of least squares weighted by R for operators without negative entries, such as
    those of CT and of slice averaging (Gregor and Benson 2008, IEEE TMI 27(7), 918, equation 4; Gilbert 1972). One
    entry of the schedule is one iteration; voxels that no ray meets stay 0.

    Args:
        iterations: iterations, 1 or more; early stopping regularizes.
        relaxation: step, above 0 and below 2.
        nonnegative: after each iteration, set values below zero in network units to zero.

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True

    def __init__(self, iterations: int = 50, *, relaxation: float = 1.0, nonnegative: bool = False) -> None:
        self.iterations = check_integer(iterations, "sampler#iterations", low=1)
        self.relaxation = check_number(relaxation, "sampler#relaxation", low=0.0, high=1.999, open_low=True)
        self.nonnegative = check_flag(nonnegative, "sampler#nonnegative")

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem and the sums of the operator's rows and columns.

        Raises:
            ConfigError: complex numbers, or sums that are negative: SIRT's weights would have no meaning.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        operator, y = problem.operator, problem.measurement
        if operator.complex_volume or operator.complex_measurement:
            raise _refusal(operator, "complex numbers")
        ones = torch.ones(operator.volume_shape, dtype=y.dtype, device=y.device)
        self._rows = _inverse(operator(ones), operator)
        self._columns = _inverse(operator.adjoint(torch.ones_like(y)), operator)

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        x = torch.zeros_like(self._columns)
        for _ in range(self.iterations):
            x = self._iterate(x, measurement)
        return x

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return an empty volume."""
        return SamplerState(x=torch.zeros_like(self._columns), sigma=0.0, seed=seed, case=case)

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return one entry for each iteration; there is no noise."""
        return (0.0,) * self.iterations

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform iteration ``state.step``; the prior and the consistency step have no say in it."""
        return replace(state, x=self._iterate(state.x, self.problem.measurement), step=state.step + 1)

    def _iterate(self, x: Tensor, measurement: Tensor) -> Tensor:
        operator = self.problem.operator
        residual = (measurement - operator(x)).mul_(self._rows)
        x = x.addcmul(operator.adjoint(residual), self._columns, value=self.relaxation)
        return x.clamp_(min=0.0) if self.nonnegative else x


def _inverse(sums: Tensor, operator: object) -> Tensor:
    """Return 1 / sums, 0 where they are empty.

    Raises:
        ConfigError: some are negative.
    """
    largest = slabs.largest(float(sums.abs().max()) if sums.numel() else 0.0)
    if slabs.largest(float((sums < -_EMPTY * largest).any())):
        raise _refusal(operator, "sums that are negative")
    seen = sums > _EMPTY * largest
    return torch.where(seen, 1.0 / torch.where(seen, sums, torch.ones_like(sums)), torch.zeros_like(sums))


def _refusal(operator: object, got: str) -> ConfigError:
    return ConfigError(
        f"needs an operator without negative entries, unlike {type(operator).__name__}",
        where="sampler sirt",
        expected="real sums of rows and columns, 0 or more",
        got=got,
        mend='use the sampler "cg_least_squares" or "admm_tv"',
    )
