# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Annealed plug-and-play: denoise and correct at decreasing noise levels, without adding noise."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from monai_diffrecon.numerics.option_checks import check_number
from monai_diffrecon.protocols import ConsistencyStep, Denoise, NoiseSource, Sampler, SamplerState
from monai_diffrecon.sampling import LadderSampler, corrected_estimate, fresh


class AnnealedSampler(LadderSampler):
    """A single best estimate, not a sample: half-quadratic splitting with decreasing noise levels.

    Each step is ``x <- D(x, sigma)``, then the data consistency step. No noise is added, so the error falls instead of
    being redrawn (plug-and-play HQS: Zhang et al. 2021, arXiv 2008.13751, algorithm 1). Start at a classical
    reconstruction with sigma near its own error.

    ``momentum`` denoises ``x + momentum (x - x_before)`` instead of ``x``, which needs fewer steps where one
    correction moves the volume little, as between thick slices (accelerated plug-and-play: Kamilov, Mansour and
    Wohlberg 2017, doi 10.1109/LSP.2017.2763583, there with the growing weights of FISTA).

    Args:
        steps: number of levels, 1 or more.
        start: ``"noise"``, ``"initial"`` (the operator's classical estimate), or a classical method.
        sigma_start: first noise level in network units, ``"max"``, or ``"estimate"``: the start's own error.
        sigma_end: last noise level in network units.
        ladder: ``karras`` or ``geometric``.
        ladder_rho: curvature of the Karras ladder.
        estimate_factor: the estimated error of the start is multiplied by it.
        momentum: extrapolation of each iterate along its last change before it is denoised, 0 to 1.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    renoises: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(
        self,
        steps: int = 10,
        *,
        start: str | Sampler = "initial",
        sigma_start: float | str = "estimate",
        sigma_end: float = 0.01,
        ladder: str = "karras",
        ladder_rho: float = 7.0,
        estimate_factor: float = 1.5,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(
            start=start,
            sigma_start=sigma_start,
            sigma_end=sigma_end,
            steps=steps,
            ladder=ladder,
            ladder_rho=ladder_rho,
            estimate_factor=estimate_factor,
        )
        self.momentum = check_number(momentum, "sampler#momentum", low=0.0, high=1.0)

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        sigma, following = self.levels_at(state)
        state = fresh(state, sigma=sigma)
        if self.momentum:
            kept = state.memory["sampler"]
            before, kept["before"] = kept.get("before"), state.x
            if before is not None:
                state = replace(state, x=state.x + self.momentum * (state.x - before))
        _, x, shift = corrected_estimate(state, denoise, consistency)
        if shift is not None:
            x = x - shift
        x = consistency.on_iterate(x, state)
        return replace(state, x=x, sigma=following, step=state.step + 1)
