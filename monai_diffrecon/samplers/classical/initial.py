# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator's own classical estimate."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import ClassicalSampler, Problem, ScorePrior


class InitialEstimate(ClassicalSampler):
    """Filtered back-projection, zero filling or interpolation: the operator's initial estimate.

    Args:
        kind: the required kind of estimate, such as ``fbp`` or ``fdk`` (``Operator.initial_kind``); None takes
            any.

    Raises:
        ConfigError: the kind is not a word.
    """

    in_slabs = True

    def __init__(self, kind: str | None = None) -> None:
        if kind is not None and not isinstance(kind, str):
            raise ConfigError(
                "unknown kind of estimate", where="sampler#kind", expected="a word such as fbp", got=repr(kind)
            )
        self.kind = kind

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem.

        Raises:
            ConfigError: its operator's estimate is of another kind.
        """
        found = problem.operator.initial_kind
        if self.kind is not None and found != self.kind:
            raise ConfigError(
                "the operator has a different classical estimate",
                where="sampler",
                expected=f"an operator whose estimate is {self.kind}",
                got=found or "one without a name",
                mend='use the sampler "initial" without a kind, "cg_least_squares" or "admm_tv"',
            )
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)

    def estimate(self, measurement: Tensor) -> Tensor:
        """Return the volume (C, X, Y, Z) of a measurement."""
        return self.problem.operator.initial(measurement)


class CubicInterpolation(InitialEstimate):
    """The operator's interpolation, for operators whose measurement is an image, such as ``slice_thickness``."""

    in_slabs = True

    def __init__(self) -> None:
        super().__init__("interpolation")
