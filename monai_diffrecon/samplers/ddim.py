# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DDIM in variance-exploding coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.protocols import ConsistencyStep, Denoise, NoiseSource, SamplerState
from monai_diffrecon.sampling import LadderSampler, corrected_estimate, fresh


@dataclass(kw_only=True, eq=False, repr=False)
class DDIMSampler(LadderSampler):
    """A sample by decomposed diffusion: the clean estimate is corrected, then noised to the next level.

    ``x' = x0hat + eta sigma' n + sqrt(1 - eta^2) sigma' (x - x0) / sigma`` with x0 the denoiser's estimate, x0hat the
    corrected one, and sigma' = 0 at the end (DDS, arXiv 2303.05754, section 3.4; DDIM, arXiv 2010.02502). With
    ``direction="corrected"`` the last term is that of the corrected estimate (DiffPIR, arXiv 2305.08995, equation 16,
    whose zeta is ``eta^2``).

    Args:
        eta: share of fresh noise, 0 (deterministic) to 1.
        direction: the remaining noise is that estimated by the ``network``, or the difference to the ``corrected``
            estimate.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    in_slabs: ClassVar[bool] = True

    eta: float = 0.85
    direction: str = "network"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eta = check_number(self.eta, "sampler#eta", low=0.0, high=1.0)
        self.direction = check_choice(self.direction, "sampler#direction", ("network", "corrected"))

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        sigma, following = self.levels_at(state)
        state = fresh(state, sigma=sigma)
        x0, x, shift = corrected_estimate(state, denoise, consistency)
        if following > 0.0:
            kept = (1.0 - self.eta**2) ** 0.5 * following / sigma
            x = x + kept * (state.x - (x0 if self.direction == "network" else x))
            if self.eta > 0.0:
                n = noise.volume(tuple(x.shape), state.step, dtype=x.dtype).to(x.device)
                x = x + self.eta * following * n
        if shift is not None:
            x = x - shift
        state = replace(state, sigma=following)
        return replace(state, x=consistency.on_iterate(x, state), step=state.step + 1)
