# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from monai_diffrecon.protocols.consistency_step import ConsistencyStep
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.plugin import Plugin
from monai_diffrecon.protocols.problem import Problem
from monai_diffrecon.protocols.sampler_state import SamplerState

#: ``denoise(x, sigma, state) -> x0``: the score prior as the engine hands it to a sampler.
Denoise = Callable[[Tensor, float, SamplerState], Tensor]


class Sampler(Plugin, ABC):
    """Runs a ladder of noise levels from a start to the estimate.

    The engine calls ``begin`` once, then ``step`` once for each entry of ``schedule``; the result is
    ``state.x``. Everything that decides the future of a run lives in the state, so ``step`` may be called on a
    restored state, after ``prepare``.

    Attributes:
        calls_network: False for a classical method, which needs no network.
    """

    calls_network: bool = True

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float) -> None:
        """Learn the problem and the range of noise levels that the networks know (network units)."""
        self.problem = problem
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    @abstractmethod
    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the state before the first step."""

    @abstractmethod
    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the ladder: the noise level at which each step denoises, descending."""

    @abstractmethod
    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
