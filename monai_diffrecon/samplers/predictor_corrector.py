# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The predictor-corrector sampler of the variance-exploding SDE."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.ladders import LADDERS, ladder
from monai_diffrecon.numerics.planes import from_slices, slice_norms, to_slices
from monai_diffrecon.protocols import (
    PLANE_AXIS,
    ConsistencyStep,
    Denoise,
    NoiseSource,
    Problem,
    Sampler,
    SamplerState,
    ScorePrior,
)
from monai_diffrecon.sampling import corrected_estimate, fresh

ORDERS = ("predictor_corrector", "corrector_predictor")


class PredictorCorrectorSampler(Sampler):
    """A sample of the reverse VE-SDE: reverse diffusion and Langevin steps (Song et al. 2021, arXiv 2011.13456).

    The sampler of DiffusionMBIR (arXiv 2211.10655) and TPDM (arXiv 2303.08440): predictor
    ``x <- x + G^2 s + G n``, corrector ``x <- x + e s + sqrt(2 e) n`` with ``e = 2 (snr |n| / |s|)^2``, where the
    score ``s = (D(x, sigma) - x) / sigma^2``, ``G^2`` is the fall of the variance and norms are those of slices. The
    consistency step acts on the clean estimate of each update, as guidance after it, and on the iterate after both.

    The variants of the published code are in ``published_predictor_corrector`` of the package diffrecon-published.

    Args:
        steps: number of noise levels, 2 or more; each costs two network calls per slice.
        order: ``predictor_corrector`` (DiffusionMBIR) or ``corrector_predictor`` (TPDM).
        snr: signal-to-noise ratio of the corrector; 0 leaves the corrector out.
        corrector_steps: Langevin steps at each level.
        sigma_max: first noise level in network units; None for the largest that the networks know.
        sigma_min: last noise level; None for the smallest.
        ladder: the sigma schedule: ``geometric``, the papers' SDE, or ``karras``.
        final_mean: the last update adds no noise.

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True

    def __init__(
        self,
        steps: int = 1000,
        *,
        order: str = "corrector_predictor",
        snr: float = 0.16,
        corrector_steps: int = 1,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        ladder: str = "geometric",
        final_mean: bool = True,
    ) -> None:
        self.steps = check_integer(steps, "sampler#steps", low=2)
        self.order = check_choice(order, "sampler#order", ORDERS)
        self.snr = check_number(snr, "sampler#snr", low=0.0)
        self.corrector_steps = check_integer(corrector_steps, "sampler#corrector_steps", low=0)
        self.first = None if sigma_max is None else check_number(sigma_max, "sampler#sigma_max", low=0, open_low=True)
        self.last = None if sigma_min is None else check_number(sigma_min, "sampler#sigma_min", low=0, open_low=True)
        self.ladder = check_choice(ladder, "sampler#ladder", LADDERS)
        self.final_mean = check_flag(final_mean, "sampler#final_mean")
        correctors = tuple(f"corrector{j}" for j in range(self.corrector_steps if self.snr > 0.0 else 0))
        #: The updates of a step in order; each is the name of its noise stream.
        self.updates = ("predictor", *correctors) if self.order == "predictor_corrector" else (*correctors, "predictor")

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem, the range of noise levels that the networks know (network units), and the prior.

        Raises:
            ConfigError: the sigma schedule would leave that range.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        high = sigma_max if self.first is None else self.first
        low = sigma_min if self.last is None else self.last
        if not sigma_min * (1 - 1e-6) <= low < high <= sigma_max * (1 + 1e-6):
            raise ConfigError(
                "noise levels outside the networks' range",
                where="sampler#sigma_min, sampler#sigma_max",
                expected=f"{sigma_min:g} to {sigma_max:g}",
                got=f"{low:g} to {high:g}",
            )
        self.levels = ladder(self.ladder, self.steps, high, low)
        self.falls = tuple(a**2 - b**2 for a, b in zip(self.levels, (*self.levels[1:], 0.0), strict=True))

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the sigma schedule."""
        return self.levels

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the start, noise of the first level."""
        operator = self.problem.operator
        n = noise.volume(operator.volume_shape, 0, stream="start", dtype=operator.volume_dtype)
        x = self.levels[0] * n.to(self.problem.measurement.device)
        return SamplerState(x=x, sigma=self.levels[0], seed=seed, case=case)

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        i, plane = state.step, self.plane_at(state.step)
        state = replace(fresh(state, sigma=self.levels[i]), plane=plane)
        x = mean = state.x
        for update in self.updates:
            state = self.at_update(state, x, update)
            _, corrected, shift = corrected_estimate(state, denoise, consistency)
            score = (corrected - state.x) / state.sigma**2
            n = noise.volume(tuple(x.shape), i, stream=update, dtype=x.dtype).to(x.device)
            if update == "predictor":
                mean = state.x + self.falls[i] * score
                x = mean + self.falls[i] ** 0.5 * n
            else:
                e = self._langevin_step(score, n, plane)
                mean = state.x + e * score
                x = mean + torch.sqrt(2 * e) * n
            if shift is not None:
                x, mean = x - shift, mean - shift
        last = i + 1 == self.steps
        x = self.carried(x, mean, last=last)
        state = replace(state, x=x, plane="")
        x = consistency.on_iterate(x, state)
        return replace(state, x=x, sigma=0.0 if last else self.levels[i + 1], step=i + 1)

    def at_update(self, state: SamplerState, x: Tensor, update: str) -> SamplerState:
        """Return the state within a step, before an update."""
        return replace(state, x=x)

    def carried(self, x: Tensor, mean: Tensor, *, last: bool) -> Tensor:
        """Return what the next step starts from: the sample, or its mean before noise was added."""
        return mean if last and self.final_mean else x

    def norms(self, slices: Tensor) -> Tensor:
        """Return the norm of each slice (N, ...), as (N,)."""
        return slice_norms(slices)

    def _langevin_step(self, score: Tensor, n: Tensor, plane: str) -> Tensor:
        """Return the step size e of every voxel, one value a slice."""
        of_noise, of_score = self._norms(n, plane), self._norms(score, plane)
        e = 2.0 * (self.snr * of_noise / of_score.clamp_min(1e-30)) ** 2
        return from_slices(e.reshape(-1, 1, 1, 1), plane)

    def _norms(self, x: Tensor, plane: str) -> Tensor:
        of_slices = self.norms(to_slices(x, plane))
        if slabs.peers() is None or slabs.cut_along(1 + PLANE_AXIS[plane]):
            return of_slices
        return slabs.total(of_slices.square()).sqrt()  # each slab has a part of every slice
