# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The ignite engine that runs one reconstruction: one run is one case, one iteration one step."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from monai_diffrecon.engine.step_events import StepEvents
from monai_diffrecon.protocols import (
    ConsistencyStep,
    NoiseSource,
    Problem,
    Sampler,
    SamplerState,
    ScorePrior,
)


class ReconstructionEngine(Engine):
    """Composes a score prior, a consistency step and a sampler into a reconstruction.

    Handlers see ``engine.state.recon`` (:class:`SamplerState`), ``engine.state.estimate`` (the latest clean
    estimate), ``engine.problem``, ``engine.ladder``, and ``engine.state.metrics``.

    Args:
        problem: the inverse problem, in network units.
        prior: the score prior with its planes bound; None for a classical method.
        consistency: the consistency step.
        sampler: the sampler.
        noise: the noise source.
    """

    def __init__(
        self,
        problem: Problem,
        prior: ScorePrior | None,
        consistency: ConsistencyStep,
        sampler: Sampler,
        noise: NoiseSource,
    ) -> None:
        super().__init__(self._step)
        self.register_events(*StepEvents)
        self.problem, self.prior, self.consistency = problem, prior, consistency
        self.sampler, self.noise = sampler, noise
        self.ladder: tuple[float, ...] = ()
        self.denoiser_calls = 0
        self.denoiser_seconds = 0.0
        self.start_seconds = 0.0

    def reconstruct(self, *, seed: int, case: str) -> SamplerState:
        """Run the sampler from its start to its end and return the last state."""
        planes = self.prior.planes if self.prior is not None else ()
        started = time.perf_counter()
        with torch.no_grad():
            self.consistency.bind(self.problem, self.noise)
            self.sampler.prepare(
                self.problem,
                sigma_min=max((p.sigma_min for p in planes), default=1e-4),
                sigma_max=min((p.sigma_max for p in planes), default=1.0),
                prior=self.prior,
            )
            recon = self.sampler.begin(self.noise, seed=seed, case=case)
            self.ladder = self.sampler.schedule(recon)
        self.start_seconds = time.perf_counter() - started
        self.recon = recon
        if self.ladder:
            self.run(list(range(len(self.ladder))), max_epochs=1, epoch_length=len(self.ladder))
            with torch.no_grad():
                self.recon = replace(self.recon, x=self.consistency.on_result(self.recon.x, self.recon))
        return self.recon

    def _step(self, engine: Engine, index: int) -> dict[str, Any]:
        self.state.recon = self.recon
        with torch.no_grad():
            self.recon = self.sampler.step(self.recon, self._denoise, self.consistency, self.noise)
        self.state.recon = self.recon
        self.fire_event(StepEvents.CONSISTENT)
        self.fire_event(StepEvents.STEP_COMPLETED)
        return {"step": self.recon.step, "sigma": self.ladder[index]}

    def _denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        assert self.prior is not None
        started = time.perf_counter()
        estimate = self.prior.denoise(x, sigma, state)
        self.denoiser_calls += len(self.prior.planes_at(state.step))
        self.denoiser_seconds += time.perf_counter() - started
        self.state.recon, self.state.estimate = state, estimate
        self.fire_event(StepEvents.DENOISED)
        return estimate
