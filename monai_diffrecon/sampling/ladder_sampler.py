# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Base of the samplers with a sigma schedule: where they start, and the noise levels of their steps."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, DiffReconError, NumericalError, ResumeMismatchError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.ladders import LADDERS, ladder
from monai_diffrecon.protocols import ClassicalSampler, NoiseSource, Problem, Sampler, SamplerState, ScorePrior
from monai_diffrecon.slabs import largest, mean, peers


def bootstrap_error(
    reconstruct: Callable[[Tensor], Tensor],
    simulate: Callable[[Tensor], Tensor],
    estimate: Tensor,
    *,
    background: float = 0.05,
) -> float:
    """Return the error (root mean square of each real component) of a reconstruction, by a parametric bootstrap.

    The estimate is taken for the truth, measured, and reconstructed again: what that loses is about what the first
    reconstruction lost (Efron and Tibshirani 1993, section 6.5). It is too small by what is already missing from the
    estimate, which is why callers multiply it by a factor. Background, which any method gets right, would dilute it.

    Args:
        reconstruct: measurement -> volume (C, X, Y, Z).
        simulate: volume -> measurement, with noise like that of the real one.
        estimate: the reconstruction of the real measurement.
        background: voxels with a smaller magnitude, in intensity units, do not count, unless there are no others.
    """
    again = reconstruct(simulate(estimate))
    squares = (again - estimate).abs().square()
    foreground = estimate.abs() > background
    if largest(float(foreground.any())):
        squares = squares[foreground]
    error = float(squares.mean().sqrt()) if peers() is None else mean(squares) ** 0.5
    return error / (2.0**0.5 if again.is_complex() else 1.0)


#: Noise levels of a configuration file are rounded; those of a network are not.
_SLACK = 1e-6


@dataclass(kw_only=True, eq=False, repr=False)
class LadderSampler(Sampler, ABC):
    """Base of the samplers that call a network at each noise level of a sigma schedule.

    A subclass implements ``step``. It inherits these options; to add some or to change a default it is a dataclass
    like this one, with its checks in ``__post_init__``. Or it names all that it offers in a constructor of its own,
    and sets ``plugin_options = {}`` when ``start`` is not among them. The schedule is part of the state, so that a
    restored run need not estimate it again.

    Args:
        steps: number of levels, 1 or more.
        start: ``"noise"``, ``"initial"`` (the operator's classical estimate), or a classical method; noise of the
            first level is added to an estimate by samplers that renoise.
        sigma_start: first noise level in network units; ``"max"``, the largest the networks know; or
            ``"estimate"``, the start's own error by a parametric bootstrap.
        sigma_end: last noise level in network units; ``"min"``, the smallest the networks know.
        ladder: the sigma schedule, ``karras`` or ``geometric``.
        ladder_rho: curvature of the Karras schedule.
        estimate_factor: the estimated error is multiplied by it: the bootstrap cannot estimate what the start has
            already lost.

    Raises:
        ConfigError: an option out of its range, or options that contradict each other.
    """

    plugin_options: ClassVar[dict[str, str]] = {"start": "samplers"}
    plugin_literals: ClassVar[dict[str, tuple[str, ...]]] = {"start": ("noise", "initial")}

    #: The iterate carries noise of the schedule's level, so noise is added to an estimated start.
    renoises: ClassVar[bool] = True

    steps: int = field(default=20, kw_only=False)
    start: str | ClassicalSampler = "noise"
    sigma_start: float | str = "max"
    sigma_end: float | str = 0.01
    ladder: str = "karras"
    ladder_rho: float = 7.0
    estimate_factor: float = 1.5

    def __post_init__(self) -> None:
        self.start = _checked_start(self.start)
        if isinstance(self.sigma_end, str):
            self.sigma_end = check_choice(self.sigma_end, "sampler#sigma_end (or a number)", ("min",))
        else:
            self.sigma_end = check_number(self.sigma_end, "sampler#sigma_end", low=0.0, open_low=True)
        if isinstance(self.sigma_start, str):
            self.sigma_start = check_choice(self.sigma_start, "sampler#sigma_start (or a number)", ("max", "estimate"))
        else:
            low = 0.0 if isinstance(self.sigma_end, str) else self.sigma_end
            self.sigma_start = check_number(self.sigma_start, "sampler#sigma_start", low=low)
        if self.start == "noise" and self.sigma_start == "estimate":
            raise ConfigError(
                "the error cannot be estimated for a start from noise",
                where="sampler#sigma_start",
                expected='a number or "max" with start "noise"',
                got='"estimate"',
                mend='set sampler#start to "initial" or to a classical method',
            )
        self.steps = check_integer(self.steps, "sampler#steps", low=1)
        self.ladder = check_choice(self.ladder, "sampler#ladder", LADDERS)
        self.ladder_rho = check_number(self.ladder_rho, "sampler#ladder_rho", low=0.0, open_low=True)
        self.estimate_factor = check_number(self.estimate_factor, "sampler#estimate_factor", low=0.0, open_low=True)

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem and the range of noise levels that the networks know (network units).

        Raises:
            ConfigError: the sigma schedule would leave that range.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        for name, level in (("sigma_end", self.sigma_end), ("sigma_start", self.sigma_start)):
            if not isinstance(level, str) and not sigma_min * (1 - _SLACK) <= level <= sigma_max * (1 + _SLACK):
                raise ConfigError(
                    "a noise level outside the networks' range",
                    where=f"sampler#{name}",
                    expected=f"{sigma_min:g} to {sigma_max:g}",
                    got=f"{level:g}",
                )
        if not isinstance(self.start, str):
            try:
                self.start.prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max)
            except DiffReconError as error:
                error.move("sampler#start")
                raise

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the start with its sigma schedule."""
        operator, y = self.problem.operator, self.problem.measurement
        x: Tensor | None = None
        if self.start != "noise":
            reconstruct: Callable[[Tensor], Tensor] = (
                operator.initial if isinstance(self.start, str) else self.start.estimate
            )
            x = reconstruct(y)
            sigma = self._first_level(x, reconstruct, noise)
        else:
            sigma = self._first_level(None, None, noise)
        if x is None or self.renoises:
            n = noise.volume(operator.volume_shape, 0, stream="start", dtype=operator.volume_dtype).to(y.device)
            x = sigma * n if x is None else x + sigma * n
        levels = ladder(self.ladder, self.steps, sigma, self._last_level, rho=self.ladder_rho)
        memory = {"sampler": {"ladder": torch.tensor(levels, dtype=torch.float64)}}
        return SamplerState(x=x, sigma=levels[0], seed=seed, case=case, memory=memory)

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the sigma schedule that ``begin`` put into the state.

        Raises:
            ResumeMismatchError: the state is not one of this sampler.
        """
        levels = state.memory.get("sampler", {}).get("ladder")
        if levels is None:
            raise ResumeMismatchError("a state without a sigma schedule", where=f"sampler {type(self).__name__}")
        return tuple(levels.tolist())

    def levels_at(self, state: SamplerState) -> tuple[float, float]:
        """Return the noise level of this step and the next one, which is 0 after the last."""
        levels = self.schedule(state)
        return levels[state.step], levels[state.step + 1] if state.step + 1 < len(levels) else 0.0

    @property
    def _last_level(self) -> float:
        return self.sigma_min if isinstance(self.sigma_end, str) else self.sigma_end

    def _first_level(
        self, x: Tensor | None, reconstruct: Callable[[Tensor], Tensor] | None, noise: NoiseSource
    ) -> float:
        if isinstance(self.sigma_start, float):
            return self.sigma_start
        if self.sigma_start == "max" or x is None or reconstruct is None:
            return self.sigma_max
        operator, y, noise_std = self.problem.operator, self.problem.measurement, self.problem.noise_std

        def simulate(volume: Tensor) -> Tensor:
            clean = operator(volume)
            if noise_std == 0.0:
                return clean
            n = noise.measurement(tuple(y.shape), 0, stream="bootstrap", dtype=y.dtype).to(y.device)
            return clean + noise_std * n

        error = self.estimate_factor * bootstrap_error(reconstruct, simulate, x)
        if not error < float("inf"):
            raise NumericalError(
                "the error of the start estimate is not finite",
                where="sampler#start",
                got=error,
                mend="check the measurement, or set sampler#sigma_start to a number",
            )
        return min(max(error, self._last_level), self.sigma_max)


def _checked_start(start: object) -> str | ClassicalSampler:
    if isinstance(start, Sampler) and not start.calls_network and callable(getattr(start, "estimate", None)):
        return cast(ClassicalSampler, start)  # or a class that has what one has
    if isinstance(start, str) and start in ("noise", "initial"):
        return start
    raise ConfigError(
        "not a valid start",
        where="sampler#start",
        expected='"noise", "initial", or a classical sampler with estimate(measurement), such as admm_tv',
        got=type(start).__name__ if isinstance(start, Sampler) else repr(start),
    )
