# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The ignite engine that runs one reconstruction: one run is one case, one iteration one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from ignite.engine import Engine, EventEnum
from torch import Tensor

from monai_diffrecon import distributed
from monai_diffrecon.engine.devices.placement import problem_on, state_on
from monai_diffrecon.engine.memory.out_of_memory import MemoryRelief, is_out_of_memory
from monai_diffrecon.engine.plugin_checks import check_like, checked_call, copied, named_call, watched
from monai_diffrecon.errors import NumericalError, PluginError
from monai_diffrecon.protocols import (
    ConsistencyStep,
    NoiseSource,
    Problem,
    Sampler,
    SamplerState,
    ScorePrior,
)


class StepEvents(EventEnum):
    """Events fired by the reconstruction engine, with their data in ``engine.state``.

    DENOISED: the score prior was called; ``engine.state.estimate`` is the clean estimate.
    CORRECTED: a hook of the consistency step was called; ``engine.state.corrected`` is what it returned, and
        ``engine.state.hook`` its name.
    CONSISTENT: the step's measurement was enforced and the iterate updated.
    STEP_COMPLETED: the step is completed and ``engine.state.recon`` is the sampler state after it.
    """

    DENOISED = "denoised"
    CORRECTED = "corrected"
    CONSISTENT = "consistent"
    STEP_COMPLETED = "step_completed"


class ReconstructionEngine(Engine):
    """Composes a score prior, a consistency step and a sampler into a reconstruction.

    Handlers see ``engine.state.recon`` (:class:`SamplerState`), ``engine.state.estimate`` (the latest clean
    estimate), ``engine.problem``, ``engine.ladder``, and ``engine.state.metrics``. ``engine.recon`` is the state after
    the last step that was completed with all its handlers: what a checkpoint holds.

    A step that runs out of memory is retried with less memory (:class:`MemoryRelief`). Errors name plugins that break
    their contract. Consistency step and sampler are copied, so the given objects stay unchanged and can be reused,
    even concurrently.

    Args:
        problem: the inverse problem, in network units.
        prior: the score prior with its planes bound; None for a classical method.
        consistency: the consistency step.
        sampler: the sampler.
        noise: the noise source.

    Attributes:
        memory_needed: estimated memory of the run, as text, for the out-of-memory message.
        last_step: the state after the last step, from which the result was made; None until then.
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
        self.problem, self.prior, self.noise = problem, prior, noise
        self.consistency, self.sampler = watched(consistency, self._corrected), copied(sampler)
        self.ladder: tuple[float, ...] = ()
        self.denoiser_calls = 0
        self.denoiser_seconds = 0.0
        self.start_seconds = 0.0
        self.relief = MemoryRelief()
        self.memory_needed: str | None = None
        self.recon: SamplerState | None = None
        self.last_step: SamplerState | None = None
        self._in_handler = False

    @property
    def sigma(self) -> float:
        """The noise level of the current step."""
        return self.ladder[min(self._completed.step, len(self.ladder) - 1)]

    def reconstruct(self, *, seed: int, case: str, resume: SamplerState | None = None) -> SamplerState:
        """Run the sampler from its start or from the state of an earlier run, and return the last state.

        Args:
            seed: seed of the noise source.
            case: name of the case.
            resume: state of the same sampler on the same problem, after ``resume.step`` steps.

        Raises:
            PluginError: a plugin broke its contract.
            ResourceError: not enough memory, even after all fallbacks.
        """
        started = time.perf_counter()
        self.recon = self._with_relief(lambda: self._begin(seed, case, resume))
        self.ladder = self.sampler.schedule(self.recon)
        self.start_seconds = time.perf_counter() - started
        remaining = list(range(self.recon.step, len(self.ladder)))
        if remaining:
            self.run(remaining, max_epochs=1, epoch_length=len(remaining))
        self.last_step = self.recon
        if self.ladder:
            self.recon = self._with_relief(self._finish)
        return self.recon

    def residual_norm(self) -> float:
        """Return ``||A x - y||`` of the iterate after the last step, with A as the consistency step has it by now."""
        operator = (self.consistency._problem or self.problem).operator
        return operator.residual_norm(self.state.recon.x, self.problem.measurement)

    def iterate(self) -> Tensor:
        """Return the iterate (C, X, Y, Z) after the last step."""
        x: Tensor = self.state.recon.x
        return x

    def prepare(self) -> None:
        """Let the plugins check the problem, without running a step."""
        with torch.no_grad():
            self._prepare()

    def move_to_cpu(self) -> bool:
        """Move problem and state to the CPU; return False if they are already there."""
        devices = {self.problem.measurement.device.type}
        devices |= set() if self.recon is None else {self.recon.x.device.type}
        if devices == {"cpu"}:
            return False
        self.problem = problem_on(self.problem, "cpu")
        if self.recon is not None:
            self.recon = state_on(self.recon, "cpu")
            with torch.no_grad():
                self._prepare()
        return True

    @property
    def _completed(self) -> SamplerState:
        assert self.recon is not None
        return self.recon

    def _prepare(self) -> None:
        planes = self.prior.planes if self.prior is not None else ()
        low = max((p.sigma_min for p in planes), default=1e-4)
        high = min((p.sigma_max for p in planes), default=1.0)
        consistency, sampler = self.consistency, self.sampler
        named_call(
            lambda: consistency.bind(self.problem, self.noise), f"consistency {type(consistency).__name__}, bind"
        )
        named_call(
            lambda: sampler.prepare(self.problem, sigma_min=low, sigma_max=high, prior=self.prior),
            f"sampler {type(sampler).__name__}, prepare",
        )

    def _begin(self, seed: int, case: str, resume: SamplerState | None) -> SamplerState:
        with torch.no_grad():
            self._prepare()
            if resume is not None:
                return state_on(resume, self.problem.measurement.device)  # a checkpoint is read to the CPU
            where = f"sampler {type(self.sampler).__name__}, begin"
            return named_call(lambda: self.sampler.begin(self.noise, seed=seed, case=case), where)

    def _finish(self) -> SamplerState:
        last = self._completed
        with torch.no_grad():
            return replace(last, x=self.consistency.on_result(last.x, last))

    def _step(self, engine: Engine, index: int) -> dict[str, Any]:
        recon = self._with_relief(self._next)
        self.state.recon = recon
        self.fire_event(StepEvents.CONSISTENT)
        self.fire_event(StepEvents.STEP_COMPLETED)
        self.recon = recon
        return {"step": recon.step, "sigma": self.ladder[index]}

    def _next(self) -> SamplerState:
        before, where = self._completed, f"sampler {type(self.sampler).__name__}"
        self.state.recon = before
        version = before.x._version
        self._in_handler = False
        with torch.no_grad():
            after = self._sampled(before, where)
        if before.x._version != version:
            raise PluginError("writes into the state it was given", where=where, mend="return a new state")
        check_like(after.x, before.x, where)
        if after.step != before.step + 1:
            raise PluginError("a step that is not one", where=where, expected=before.step + 1, got=after.step)
        return after

    def _sampled(self, before: SamplerState, where: str) -> SamplerState:
        """Let the sampler take its step; a handler's exception during it is not attributed to the sampler."""

        def step() -> SamplerState | Exception:
            try:
                return self.sampler.step(before, self._denoise, self.consistency, self.noise)
            except Exception as error:
                if self._in_handler:
                    return error
                raise

        after = named_call(step, where)
        if isinstance(after, Exception):
            raise after
        return after

    def _fire(self, event: Any) -> None:
        self._in_handler = True
        self.fire_event(event)
        self._in_handler = False

    def _with_relief(self, attempt: Callable[[], SamplerState]) -> SamplerState:
        while True:
            failed: Exception | None = None
            try:
                done = attempt()
            except Exception as error:
                failed = error
            failed = distributed.agree(failed, may_retry=is_out_of_memory)
            if failed is None:
                return done
            self.relief.relieve(failed, self)

    def _denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        prior = self.prior
        assert prior is not None
        started = time.perf_counter()
        try:
            estimate = checked_call(lambda x: prior.denoise(x, sigma, state), x, f"prior {type(prior).__name__}")
        except NumericalError as error:  # of a network, which does not know the step
            what = f"step {self._completed.step + 1}: {error.what}"
            raise NumericalError(what, where=error.where, mend=error.mend) from error
        self.denoiser_calls += len(prior.planes_at(state.step))
        self.denoiser_seconds += time.perf_counter() - started
        self.state.recon, self.state.estimate = state, estimate
        self._fire(StepEvents.DENOISED)
        self.state.recon = self._completed  # the iterate of this call is not kept
        return estimate

    def _corrected(self, x: Tensor, hook: str) -> None:
        self.state.corrected, self.state.hook = x, hook
        self._fire(StepEvents.CORRECTED)
