# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of classical methods, which need no network."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols.consistency_step import ConsistencyStep
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.problem import Problem
from monai_diffrecon.protocols.sampler import Denoise, Sampler
from monai_diffrecon.protocols.sampler_state import SamplerState
from monai_diffrecon.protocols.score_prior import ScorePrior


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
