# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The predictor-corrector sampler of the variance-exploding SDE, as both founding papers use it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.ladders import LADDERS, karras_ladder
from monai_diffrecon.numerics.option_checks import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.planes import from_slices, to_slices
from monai_diffrecon.numerics.projection import project_on_measured
from monai_diffrecon.numerics.slice_batches import SPLITS, batch_means, batches, slice_norms
from monai_diffrecon.numerics.ve_schedule import INDEX_RULES, VESchedule, schedule_of, ve_schedule
from monai_diffrecon.protocols import (
    ConsistencyStep,
    Denoise,
    Draw,
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
    score ``s = (D(x, sigma) - x) / sigma^2`` and ``G^2`` is the fall of the variance. The consistency step acts on
    the clean estimate of each update, as guidance after it, and on the iterate after both.

    The defaults are sane; what the published codes do otherwise are options (the presets ``diffusion_mbir`` and
    ``tpdm`` set them).

    Args:
        steps: number of noise levels, 2 or more; each costs two network calls a slice.
        order: ``predictor_corrector`` (DiffusionMBIR) or ``corrector_predictor`` (TPDM).
        snr: signal-to-noise ratio of the corrector; 0 leaves the corrector out.
        corrector_steps: Langevin steps at each level.
        sigma_max: first noise level in network units; None for the largest that the networks know.
        sigma_min: last noise level; None for the smallest.
        ladder: ``geometric``, the papers' SDE, or ``karras``, which knows no time and no index.
        time_end: last time of the SDE; published: 1e-10 (DiffusionMBIR), 1e-5 (TPDM).
        index_rule: ``exact``, or ``trunc32``, the truncation in float32 of the published codes.
        langevin_norm: the corrector's norms are those of a ``slice``, or the means over a ``batch`` (published).
        batch_size: slices a batch, for ``langevin_norm`` and for the noise ``sequential``; 0 for all.
        split: how slices are split, ``near_equal`` (TPDM) or ``floor_plus_one`` (DiffusionMBIR).
        carry: the ``sample`` is carried to the next step, or the ``mean`` before noise is added (TPDM's code).
        final_mean: the last update adds no noise.
        start: ``noise``, or ``measured``: what the measurement determines starts without noise (TPDM's thick slices).
        unseen: what no measurement touches starts as ``noise``, or at ``zero`` (published, with ``measured``).

    Raises:
        ConfigError: an option out of its range.
    """

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
        time_end: float = 1e-5,
        index_rule: str = "exact",
        langevin_norm: str = "slice",
        batch_size: int = 0,
        split: str = "near_equal",
        carry: str = "sample",
        final_mean: bool = True,
        start: str = "noise",
        unseen: str = "noise",
    ) -> None:
        self.steps = check_integer(steps, "sampler#steps", low=2)
        self.order = check_choice(order, "sampler#order", ORDERS)
        self.snr = check_number(snr, "sampler#snr", low=0.0)
        self.corrector_steps = check_integer(corrector_steps, "sampler#corrector_steps", low=0)
        self.first = None if sigma_max is None else check_number(sigma_max, "sampler#sigma_max", low=0, open_low=True)
        self.last = None if sigma_min is None else check_number(sigma_min, "sampler#sigma_min", low=0, open_low=True)
        self.ladder = check_choice(ladder, "sampler#ladder", LADDERS)
        self.time_end = check_number(time_end, "sampler#time_end", low=0.0, high=0.5)
        self.index_rule = check_choice(index_rule, "sampler#index_rule", INDEX_RULES)
        self.langevin_norm = check_choice(langevin_norm, "sampler#langevin_norm", ("slice", "batch"))
        self.batch_size = check_integer(batch_size, "sampler#batch_size", low=0)
        self.split = check_choice(split, "sampler#split", SPLITS)
        self.carry = check_choice(carry, "sampler#carry", ("sample", "mean"))
        self.final_mean = check_flag(final_mean, "sampler#final_mean")
        self.start = check_choice(start, "sampler#start", ("noise", "measured"))
        self.unseen = check_choice(unseen, "sampler#unseen", ("noise", "zero"))

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem, the range of noise levels that the networks know (network units), and the prior.

        Raises:
            ConfigError: the ladder would leave that range.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        high = sigma_max if self.first is None else self.first
        low = sigma_min if self.last is None else self.last
        if not sigma_min * (1 - 1e-6) <= low < high <= sigma_max * (1 + 1e-6):
            raise ConfigError(
                "noise levels that the networks do not know",
                where="sampler#sigma_min, sampler#sigma_max",
                expected=f"{sigma_min:g} to {sigma_max:g}",
                got=f"{low:g} to {high:g}",
            )
        self.ve: VESchedule = (
            schedule_of(karras_ladder(self.steps, high, low))
            if self.ladder == "karras"
            else ve_schedule(self.steps, low, high, time_end=self.time_end, index_rule=self.index_rule)
        )

    def schedule(self, state: SamplerState) -> tuple[float, ...]:
        """Return the ladder of continuous noise levels."""
        return self.ve.sigma

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the start."""
        operator, y = self.problem.operator, self.problem.measurement
        shape, plane, sigma = operator.volume_shape, self.primary_plane, self.ve.discrete[0]
        noise.announce([Draw("start", 0, to_slices(torch.empty(shape), plane).shape[0])], 0, shape=shape, plane=plane)
        n = noise.volume(shape, 0, stream="start", dtype=operator.volume_dtype).to(y.device)
        x = sigma * n
        if self.start == "measured":
            x = project_on_measured(operator, y, x)
        if self.unseen == "zero":
            seen = operator.adjoint(torch.ones_like(y)).abs() > 0
            x = torch.where(seen, x, torch.zeros_like(x))
        return SamplerState(x=x, sigma=self.ve.sigma[0], seed=seed, case=case)

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        i, plane = state.step, self.plane_at(state.step)
        count = to_slices(state.x, plane).shape[0]
        groups = batches(count, self.batch_size, self.split)
        stages = self._stages()
        streams = [s for stage in stages for s in (stage, *consistency.draws(stage, plane))]
        draws = [Draw(stream, a, b) for a, b in groups for stream in streams]
        noise.announce(draws, i, shape=tuple(state.x.shape), plane=plane)
        state = replace(fresh(state, sigma=self.ve.sigma[i]), plane=plane)
        x = mean = state.x
        for stage in stages:
            state = replace(state, x=x, stage=stage)
            _, corrected, shift = corrected_estimate(state, denoise, consistency)
            score = (corrected - state.x) / state.sigma**2
            n = noise.volume(tuple(x.shape), i, stream=stage, dtype=x.dtype).to(x.device)
            if stage == "predictor":
                variance = self.ve.discrete[i] ** 2 - self.ve.following[i] ** 2
                mean = state.x + variance * score
                x = mean + variance**0.5 * n
            else:
                e = self._langevin_step(score, n, plane, groups)
                mean = state.x + e * score
                x = mean + torch.sqrt(2 * e) * n
            if shift is not None:
                x, mean = x - shift, mean - shift
        last = i + 1 == self.steps
        if self.carry == "mean" or (last and self.final_mean):
            x = mean
        state = replace(state, x=x, stage="", plane="")
        following = self.ve.sigma[i + 1] if not last else 0.0
        x = consistency.on_iterate(x, state)
        return replace(state, x=x, sigma=following, step=i + 1)

    def _stages(self) -> tuple[str, ...]:
        """Return the updates of a step in order; each is the name of its noise stream."""
        count = self.corrector_steps if self.snr > 0.0 else 0
        correctors = tuple(f"corrector{j}" for j in range(count))
        return ("predictor", *correctors) if self.order == "predictor_corrector" else (*correctors, "predictor")

    def _langevin_step(self, score: Tensor, n: Tensor, plane: str, groups: tuple[tuple[int, int], ...]) -> Tensor:
        """Return the step size e of every voxel, one value a slice or a batch."""
        of_noise, of_score = slice_norms(to_slices(n, plane)), slice_norms(to_slices(score, plane))
        if self.langevin_norm == "batch":
            of_noise, of_score = batch_means(of_noise, groups), batch_means(of_score, groups)
        e = 2.0 * (self.snr * of_noise / of_score.clamp_min(1e-30)) ** 2
        return from_slices(e.reshape(-1, 1, 1, 1), plane)
