# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.consistency_step import ConsistencyStep
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.operator import Problem
from monai_diffrecon.protocols.plugin import Plugin
from monai_diffrecon.protocols.sampler_state import SamplerState
from monai_diffrecon.protocols.score_prior import ScorePrior

#: ``denoise(x, sigma, state) -> x0``: the score prior as the engine hands it to a sampler.
Denoise = Callable[[Tensor, float, SamplerState], Tensor]


class Sampler(Plugin, ABC):
    """Runs a sigma schedule from a start to the estimate.

    The engine calls ``begin`` once, then ``step`` once for each entry of ``schedule``; the result is
    ``state.x``. Everything that determines the rest of a run is stored in the state, so ``step`` may be called on a
    restored state, after ``prepare``.

    Attributes:
        calls_network: False for a classical method, which needs no network.
        stochastic: another noise gives another sample of the posterior; False for a method that seeks the one best
            estimate.
    """

    calls_network: bool = True
    stochastic: bool = True
    prior: ScorePrior | None = None

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem, the range of noise levels that the networks know (network units), and the prior.

        The prior is there to be asked for its planes; it is called through ``denoise``.
        """
        self.problem, self.prior = problem, prior
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def plane_at(self, step: int) -> str:
        """Return the plane whose network is called first at this step; ``axial`` without a prior."""
        if self.prior is None or not self.prior.planes:
            return "axial"
        return self.prior.planes[self.prior.planes_at(step)[0]].plane

    @property
    def primary_plane(self) -> str:
        """The plane of the primary network; ``axial`` without a prior."""
        return self.prior.planes[0].plane if self.prior is not None and self.prior.planes else "axial"

    @abstractmethod
    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the state before the first step."""

    @abstractmethod
    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the sigma schedule: the noise level at which each step denoises, descending."""

    @abstractmethod
    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""


class ClassicalSampler(Sampler):
    """A reconstruction without a network: a result by itself, or the start of a diffusion sampler.

    A subclass implements ``estimate``. Unless it overrides more, all is done in ``begin``, and no step follows.
    """

    calls_network: ClassVar[bool] = False  # type: ignore[misc]
    stochastic: ClassVar[bool] = False  # type: ignore[misc]

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem.

        Raises:
            ConfigError: nothing is measured, so that the estimate would be 0 everywhere.
        """
        if problem.operator.family == "none":
            raise ConfigError(
                "a classical estimate needs a measurement",
                where="sampler",
                expected="an operator with a measurement",
                got=type(problem.operator).__name__,
                mend="use a diffusion sampler, such as heun",
            )
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)

    @abstractmethod
    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement of the prepared problem's operator."""

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the state before the first step: the estimate."""
        return SamplerState(x=self.estimate(self.problem.measurement), sigma=0.0, seed=seed, case=case)

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the ladder: no step."""
        return ()

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Refuse: there is no step.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("has no step to perform", where=f"sampler {type(self).__name__}")
