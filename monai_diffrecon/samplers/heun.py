# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Heun's method on the probability flow, with churn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.protocols import ConsistencyStep, Denoise, NoiseSource, SamplerState
from monai_diffrecon.sampling import LadderSampler, corrected_estimate, fresh


@dataclass(kw_only=True, eq=False, repr=False)
class HeunSampler(LadderSampler):
    """A sample by EDM's stochastic sampler of second order (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

    The slope is ``(x - x0hat) / sigma`` with the corrected clean estimate x0hat. Two denoiser calls per step, except
    the last.

    Args:
        S_churn: amount of noise added and removed again over the whole run; 0 is deterministic.
        S_tmin: smallest noise level at which noise is added.
        S_tmax: largest noise level at which noise is added; None for no limit.
        S_noise: standard deviation of the added noise.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    in_slabs: ClassVar[bool] = True

    S_churn: float = 0.0
    S_tmin: float = 0.0
    S_tmax: float | None = None
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.S_churn = check_number(self.S_churn, "sampler#S_churn", low=0.0)
        self.S_tmin = check_number(self.S_tmin, "sampler#S_tmin", low=0.0)
        self.S_noise = check_number(self.S_noise, "sampler#S_noise", low=0.0)
        self.churn_to = math.inf if self.S_tmax is None else check_number(self.S_tmax, "sampler#S_tmax", low=0.0)
        if self.churn_to < self.S_tmin:
            raise ConfigError(
                "no noise level gets churn", where="sampler#S_tmax", expected="S_tmin or more", got=self.S_tmax
            )

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        level, following = self.levels_at(state)
        sigma = self._churned(level, len(self.schedule(state)))
        state = fresh(state, sigma=sigma)
        if sigma > level:
            n = noise.volume(tuple(state.x.shape), state.step, dtype=state.x.dtype).to(state.x.device)
            raised = state.x + (sigma**2 - level**2) ** 0.5 * self.S_noise * n
            state = replace(state, x=raised)
        x = state.x
        _, estimate, shift = corrected_estimate(state, denoise, consistency)
        slope = (x - estimate) / sigma
        proposal = _minus(x + (following - sigma) * slope, shift)
        if following > 0.0:
            state = replace(state, x=proposal, sigma=following)
            _, estimate, second = corrected_estimate(state, denoise, consistency)
            slope = (slope + (proposal - estimate) / following) / 2
            # Guidance is a part of the slope that comes ready-made: it is averaged like the rest.
            if shift is not None and second is not None:
                shift = (shift + second) / 2
            proposal = _minus(x + (following - sigma) * slope, shift)
        state = replace(state, sigma=following)
        return replace(state, x=consistency.on_iterate(proposal, state), step=state.step + 1)

    def _churned(self, sigma: float, steps: int) -> float:
        """Return the noise level after churn, at most what the networks know."""
        if not (self.S_churn > 0.0 and self.S_tmin <= sigma <= self.churn_to):
            return sigma
        return max(sigma, min(sigma * (1.0 + min(self.S_churn / steps, 2.0**0.5 - 1.0)), self.sigma_max))


def _minus(x: Tensor, shift: Tensor | None) -> Tensor:
    return x if shift is None else x - shift
