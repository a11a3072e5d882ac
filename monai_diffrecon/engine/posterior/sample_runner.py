# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs the engine once per sample, continuing an interrupted run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ignite.engine import Events
from torch import Tensor

from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.posterior.posterior_samples import sample_case
from monai_diffrecon.engine.posterior.sample_accumulator import SampleAccumulator
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.engine.run_report import PosteriorSpread, RunTotals
from monai_diffrecon.errors import ResourceError
from monai_diffrecon.protocols import Operator, SamplerState

logger = logging.getLogger(__name__)

#: Builds the engine of a sample with its handlers; the second value keeps the step metrics.
Build = Callable[[str, int, StepMetrics], ReconstructionEngine]


class SampleRunner:
    """Draws the samples of one case.

    Args:
        build: builds the engine of a sample.
        operator: the forward operator.
        count: number of samples.
        keep: keep every sample.
        seed: seed of the noise source.
        case: name of the case.
        checkpoint: stores the state of the run, or None.
        run_id: its MLflow run, or None.
        finish: final processing of each sample, or None.

    Attributes:
        totals: accumulated cost of the run.
        fallbacks: fallbacks used, as text.
        batch_sizes: plane -> slices per network call.
        seconds: wall time of the interrupted runs before this one.
        resumed: number of times the run was resumed from a checkpoint.
        resumed_from: MLflow run of the interrupted run before this one, or None.
    """

    def __init__(
        self,
        build: Build,
        operator: Operator,
        *,
        count: int,
        keep: bool,
        seed: int,
        case: str,
        checkpoint: RunCheckpoint | None = None,
        run_id: str | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.finish = finish
        self.build, self.count, self.seed, self.case = build, count, seed, case
        self.checkpoint, self.run_id = checkpoint, run_id
        self.samples = SampleAccumulator(operator, keep=keep)
        self.totals = RunTotals()
        self.fallbacks: list[str] = []
        self.batch_sizes: dict[str, int] = {}
        self.runs: list[str] = []
        self.seconds, self.resumed = 0.0, 0
        self._circumstances: dict[str, Any] = {}
        self._started = time.perf_counter()

    @property
    def resumed_from(self) -> str | None:
        """The MLflow run of the interrupted run before this one, or None."""
        return self.runs[-1] if self.runs else None

    def run(self, point: RunPoint | None, circumstances: Mapping[str, Any]) -> tuple[Tensor, PosteriorSpread | None]:
        """Draw the remaining samples; return the mean and the spread.

        Args:
            point: where an earlier run was interrupted, or None.
            circumstances: threads, device and processor of this run.
        """
        self._circumstances = dict(circumstances)
        if point is not None:
            self._restore(point)
        for index in range(self.samples.count, self.count):
            self.samples.add(self._sample(index, point if point is not None and point.sample == index else None))
        return self.samples.result()

    def _restore(self, point: RunPoint) -> None:
        if point.samples:
            self.samples.load_state_dict(point.samples)
        self.totals, self.fallbacks = point.totals, list(point.fallbacks)
        if self._circumstances.get("sw_batch_size") == point.circumstances.get("sw_batch_size"):
            self.batch_sizes = dict(point.batch_sizes)
        self.seconds, self.runs, self.resumed = point.seconds, list(point.runs), point.resumed + 1
        for name, now in self._circumstances.items():
            was = point.circumstances.get(name)
            if was != now:
                note = f"resumed with {name} {now} instead of {was}: the last bits of the voxels may differ"
                self.fallbacks.append(note)

    def _sample(self, index: int, point: RunPoint | None) -> Tensor:
        """Run the engine for one sample and return it (C, X, Y, Z)."""
        metrics = StepMetrics()
        engine = self.build(sample_case(self.case, index), index, metrics)
        if point is not None:
            metrics.history = list(point.steps)
        self._limit_batches(engine)
        # Sigma schedule and steps are those of the first sample, which is yet to end.
        before = self.totals if index else replace(self.totals, ladder=(), steps=[])
        if self.checkpoint is not None:
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda e: self._keep(e, index, before, metrics, only_if_due=True)
            )
        resume: SamplerState | None = None if point is None else point.state
        try:
            x = engine.reconstruct(seed=self.seed, case=sample_case(self.case, index), resume=resume).x
        except BaseException:
            if self.checkpoint is not None and engine.recon is not None:
                self._keep(engine, index, before, metrics, only_if_due=False)
            raise
        self.totals = self._totals(before, engine, metrics)
        self.fallbacks += _notes(engine)
        self.batch_sizes = _batch_sizes(engine)
        return x if self.finish is None else self.finish(x)

    def _keep(
        self, engine: ReconstructionEngine, index: int, before: RunTotals, metrics: StepMetrics, *, only_if_due: bool
    ) -> None:
        """Write the checkpoint if it is due, or in any case during an exception."""
        recon, checkpoint = engine.recon, self.checkpoint
        assert recon is not None
        assert checkpoint is not None
        # A volume on the disk is there anyway.
        if only_if_due and recon.x.numel() and not checkpoint.due(recon.step, _bytes(recon)):
            return
        point = RunPoint(
            state=recon,
            sample=index,
            samples=self.samples.state_dict() if self.samples.count else {},
            totals=self._totals(before, engine, metrics),
            steps=[row for row in metrics.history if row["step"] <= recon.step],
            seconds=self.seconds + time.perf_counter() - self._started,
            batch_sizes=_batch_sizes(engine),
            circumstances=self._circumstances,
            fallbacks=[*self.fallbacks, *_notes(engine)],
            runs=[*self.runs, *([] if self.run_id is None else [self.run_id])],
            resumed=self.resumed,
        )
        if not only_if_due:
            checkpoint.rescue(point)
            return
        try:
            checkpoint.write(point)
        except ResourceError as error:  # the run may finish without an interruption
            logger.warning("no checkpoint after step %d: %s", recon.step, error.what)
            self.fallbacks.append(f"no checkpoint after step {recon.step}: {error.what}")

    @staticmethod
    def _totals(before: RunTotals, engine: ReconstructionEngine, metrics: StepMetrics) -> RunTotals:
        planes = engine.prior.planes if engine.prior is not None else ()
        return before + RunTotals(
            engine.start_seconds,
            engine.denoiser_seconds,
            engine.denoiser_calls,
            sum(getattr(plane, "network_calls", 0) for plane in planes),
            engine.ladder,
            metrics.history,
        )

    def _limit_batches(self, engine: ReconstructionEngine) -> None:
        """Keep the batch sizes of the sample before or of the interrupted run."""
        for plane in engine.prior.planes if engine.prior is not None else ():
            inner = getattr(plane, "inner", plane)
            if plane.plane in self.batch_sizes and hasattr(inner, "batch_size"):
                inner.batch_size = self.batch_sizes[plane.plane]


def _batch_sizes(engine: ReconstructionEngine) -> dict[str, int]:
    planes = engine.prior.planes if engine.prior is not None else ()
    sizes = {plane.plane: getattr(plane, "batch_size", None) for plane in planes}
    return {plane: int(size) for plane, size in sizes.items() if size is not None}


def _notes(engine: ReconstructionEngine) -> list[str]:
    planes = engine.prior.planes if engine.prior is not None else ()
    notes = [note for plane in planes for note in getattr(plane, "fallbacks", ())]
    return [*engine.relief.notes, *notes]


def _bytes(recon: SamplerState) -> int:
    tensors = [recon.x, *(t for kept in recon.memory.values() for t in kept.values())]
    return sum(t.numel() * t.element_size() for t in tensors)
