# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plug-and-play half-quadratic splitting: denoise and correct at falling noise levels, add nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from monai_diffrecon.errors.options import check_number
from monai_diffrecon.protocols import ClassicalSampler, ConsistencyStep, Denoise, NoiseSource, SamplerState
from monai_diffrecon.sampling import LadderSampler, corrected_estimate, fresh


@dataclass(kw_only=True, eq=False, repr=False)
class PnPHQSSampler(LadderSampler):
    """Plug-and-play half-quadratic splitting (PnP-HQS): the best estimate rather than a sample.

    Each step is ``x <- D(x, sigma)``, then the data consistency step. No noise is added, so the error falls instead of
    being drawn anew (Zhang et al. 2021, arXiv 2008.13751, algorithm 1). Start at a classical
    reconstruction with sigma near its own error.

    ``momentum`` denoises ``x + momentum (x - x_before)`` instead of ``x``, which needs fewer steps where one
    correction moves the volume little, as between thick slices (accelerated plug-and-play: Kamilov, Mansour and
    Wohlberg 2017, doi 10.1109/LSP.2017.2763583, there with the growing weights of FISTA).

    Args:
        momentum: extrapolation of each iterate along its last change before it is denoised, 0 to 1.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    in_slabs: ClassVar[bool] = True

    renoises: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False  # type: ignore[misc]

    steps: int = field(default=10, kw_only=False)
    start: str | ClassicalSampler = "initial"
    sigma_start: float | str = "estimate"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum = check_number(self.momentum, "sampler#momentum", low=0.0, high=1.0)

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
                state = replace(state, x=(self.momentum * (state.x - before)).add_(state.x))
            del before
        _, x, shift = corrected_estimate(state, denoise, consistency, release=True)
        if shift is not None:
            x = x - shift
        x = consistency.on_iterate(x, state)
        return replace(state, x=x, sigma=following, step=state.step + 1)
