# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The predictor-corrector loops of the published codes of DiffusionMBIR and TPDM."""

from __future__ import annotations

import torch
from torch import Tensor

from diffrecon_published.published_dps import PublishedDPSStep, StagedState
from diffrecon_published.sequential import Draw, SequentialNoise
from diffrecon_published.ve_schedule import INDEX_RULES, ve_schedule
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import project_on_measured
from monai_diffrecon.numerics.planes import SPLITS, batch_means, batches, to_slices
from monai_diffrecon.protocols import ConsistencyStep, Denoise, NoiseSource, Problem, SamplerState, ScorePrior
from monai_diffrecon.samplers.predictor_corrector import PredictorCorrectorSampler


class PublishedPredictorCorrectorSampler(PredictorCorrectorSampler):
    """``predictor_corrector`` as the codes of DiffusionMBIR (arXiv 2211.10655) and TPDM (arXiv 2303.08440) have it.

    What they do otherwise than the paper of the sampler are options, which the methods ``diffusion_mbir`` and
    ``tpdm`` set. With the noise ``sequential`` the random numbers are drawn in their order.

    Args:
        steps: number of noise levels, 2 or more; each costs two network calls per slice.
        order: ``predictor_corrector`` (DiffusionMBIR) or ``corrector_predictor`` (TPDM).
        snr: signal-to-noise ratio of the corrector; 0 leaves the corrector out.
        corrector_steps: Langevin steps at each level.
        sigma_max: first noise level in network units; None for the largest that the networks know.
        sigma_min: last noise level; None for the smallest.
        ladder: the sigma schedule: ``geometric``, the papers' SDE, or ``karras``, which knows no time and no index.
        final_mean: the last update adds no noise.
        time_end: last time of the SDE; published: 1e-10 (DiffusionMBIR), 1e-5 (TPDM).
        index_rule: ``exact``, or ``trunc32``, the truncation in float32 of the published codes.
        langevin_norm: the corrector's norms are those of a ``slice``, or the means over a ``batch`` (published).
        batch_size: slices a batch, for ``langevin_norm`` and for the noise ``sequential``; 0 for all.
        split: how slices are split, ``near_equal`` (TPDM) or ``floor_plus_one`` (DiffusionMBIR).
        carry: the ``sample`` is carried to the next step, or the ``mean`` before noise is added (TPDM's code).
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
        final_mean: bool = True,
        time_end: float = 1e-5,
        index_rule: str = "exact",
        langevin_norm: str = "slice",
        batch_size: int = 0,
        split: str = "near_equal",
        carry: str = "sample",
        start: str = "noise",
        unseen: str = "noise",
    ) -> None:
        super().__init__(
            steps,
            order=order,
            snr=snr,
            corrector_steps=corrector_steps,
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            ladder=ladder,
            final_mean=final_mean,
        )
        self.time_end = check_number(time_end, "sampler#time_end", low=0.0, high=0.5)
        self.index_rule = check_choice(index_rule, "sampler#index_rule", INDEX_RULES)
        self.langevin_norm = check_choice(langevin_norm, "sampler#langevin_norm", ("slice", "batch"))
        self.batch_size = check_integer(batch_size, "sampler#batch_size", low=0)
        self.split = check_choice(split, "sampler#split", SPLITS)
        self.carry = check_choice(carry, "sampler#carry", ("sample", "mean"))
        self.start = check_choice(start, "sampler#start", ("noise", "measured"))
        self.unseen = check_choice(unseen, "sampler#unseen", ("noise", "zero"))

    def prepare(self, problem: Problem, *, sigma_min: float, sigma_max: float, prior: ScorePrior | None = None) -> None:
        """Learn the problem, the range of noise levels that the networks know (network units), and the prior.

        Raises:
            ConfigError: the sigma schedule would leave that range.
        """
        super().prepare(problem, sigma_min=sigma_min, sigma_max=sigma_max, prior=prior)
        self._first = self.levels[0]
        if self.ladder == "geometric":
            high, low = self.levels[0], self.levels[-1]
            ve = ve_schedule(self.steps, low, high, time_end=self.time_end, index_rule=self.index_rule)
            self.levels, self._first = ve.sigma, ve.discrete[0]
            self.falls = tuple(a**2 - b**2 for a, b in zip(ve.discrete, ve.following, strict=True))

    def begin(self, noise: NoiseSource, *, seed: int, case: str) -> SamplerState:
        """Return the start."""
        operator, y = self.problem.operator, self.problem.measurement
        shape, plane = operator.volume_shape, self.primary_plane
        if isinstance(noise, SequentialNoise):
            every = to_slices(torch.empty(shape), plane).shape[0]
            noise.announce([Draw("start", 0, every)], 0, shape=shape, plane=plane)
        x = self._first * noise.volume(shape, 0, stream="start", dtype=operator.volume_dtype).to(y.device)
        if self.start == "measured":
            x = project_on_measured(operator, y, x)
        if self.unseen == "zero":
            seen = operator.adjoint(torch.ones_like(y)).abs() > 0
            x = torch.where(seen, x, torch.zeros_like(x))
        return SamplerState(x=x, sigma=self.levels[0], seed=seed, case=case)

    def step(
        self, state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, noise: NoiseSource
    ) -> SamplerState:
        """Perform step ``state.step`` and return the state after it."""
        if isinstance(noise, SequentialNoise):
            self._announce(state, consistency, noise)
        done = super().step(state, denoise, consistency, noise)
        return SamplerState(done.x, done.sigma, done.step, done.seed, done.case, done.memory)

    def _announce(self, state: SamplerState, consistency: ConsistencyStep, noise: SequentialNoise) -> None:
        """Tell the noise source what this step will ask for, batch of slices by batch of slices."""
        plane, streams = self.plane_at(state.step), []
        for update in self.updates:
            guided = consistency.draws(update, plane) if isinstance(consistency, PublishedDPSStep) else ()
            streams += [update, *guided]
        groups = batches(to_slices(state.x, plane).shape[0], self.batch_size, self.split)
        draws = [Draw(stream, a, b) for a, b in groups for stream in streams]
        noise.announce(draws, state.step, shape=tuple(state.x.shape), plane=plane)

    def at_update(self, state: SamplerState, x: Tensor, update: str) -> SamplerState:
        """Return the state within a step; it says which update is under way."""
        s = state
        return StagedState(x, s.sigma, s.step, s.seed, s.case, s.memory, plane=s.plane, stage=update)

    def carried(self, x: Tensor, mean: Tensor, *, last: bool) -> Tensor:
        """Return what the next step starts from."""
        return mean if self.carry == "mean" else super().carried(x, mean, last=last)

    def norms(self, slices: Tensor) -> Tensor:
        """Return the norm of each slice (N, ...), or the mean of its batch, as (N,)."""
        of_slices = super().norms(slices)
        if self.langevin_norm == "slice":
            return of_slices
        return batch_means(of_slices, batches(len(slices), self.batch_size, self.split))
