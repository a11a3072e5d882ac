# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Interpolation of thick slices."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Problem, ScorePrior
from monai_diffrecon.samplers.classical import ClassicalSampler


class CubicInterpolation(ClassicalSampler):
    """The operator's interpolation, for operators whose measurement is an image (``interpolates = True``)."""

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem.

        Raises:
            ConfigError: its measurement cannot be interpolated.
        """
        if getattr(problem.operator, "interpolates", False) is not True:
            raise ConfigError(
                f"the measurement of {type(problem.operator).__name__} cannot be interpolated",
                where="sampler cubic",
                expected="an operator such as slice_thickness",
                mend='use the sampler "initial" or "admm_tv"',
            )
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        return self.problem.operator.initial(measurement)
