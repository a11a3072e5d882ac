# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs the engine once per sample, continuing an interrupted run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ignite.engine import Events
from torch import Tensor

from monai_diffrecon import distributed, slabs
from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.planes.batched_plane_denoiser import innermost
from monai_diffrecon.engine.posterior.posterior_samples import sample_case
from monai_diffrecon.engine.posterior.sample_accumulator import SampleAccumulator
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.engine.run_report import PosteriorSpread, RunTotals
from monai_diffrecon.engine.slab_problem import whole_state
from monai_diffrecon.errors import ResourceError
from monai_diffrecon.protocols import Operator, SamplerState

logger = logging.getLogger(__name__)

#: Builds the engine of a sample with its handlers; the second value keeps the step metrics.
Build = Callable[[str, int, StepMetrics], ReconstructionEngine]


@dataclass(frozen=True)
class Drawn:
    """A sample.

    Attributes:
        x: (C, X, Y, Z).
        totals: what it cost.
        notes: fallbacks used, as text.
        found: what its final processing found.
    """

    x: Tensor
    totals: RunTotals
    notes: list[str]
    found: dict[str, float]


class SampleRunner:
    """Draws the samples of one case.

    With ``apart`` each process draws samples of its own, at a time one each. They are taken in their order by all
    processes, so mean and spread have the same bits as in one process. Between two such rounds the first process is
    about to draw the next sample, so its checkpoint is that of a single process.

    Args:
        build: builds the engine of a sample.
        operator: the forward operator.
        count: number of samples.
        keep: keep every sample.
        seed: seed of the noise source.
        case: name of the case.
        checkpoint: stores the state of the run, or None.
        run_id: its MLflow run, or None.
        finish: final processing of each sample, or None; also returns what it found.
        apart: each process draws samples of its own.
        prepared: what was found before the first step, for the checkpoint.

    Attributes:
        totals: accumulated cost of the run.
        found: what the final processing found.
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
        finish: Callable[[Tensor], tuple[Tensor, dict[str, float]]] | None = None,
        apart: bool = False,
        prepared: Mapping[str, Any] | None = None,
    ) -> None:
        self.finish, self.apart, self.prepared = finish, apart, dict(prepared or {})
        self.build, self.count, self.seed, self.case = build, count, seed, case
        self.checkpoint, self.run_id = checkpoint, run_id
        self.samples = SampleAccumulator(operator, keep=keep)
        self.totals = RunTotals()
        self.fallbacks: list[str] = []
        self.found: dict[str, float] = {}
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
        while self.samples.count < self.count:
            index = self.samples.count + (distributed.rank() if self.apart else 0)
            mine: Drawn | None = None
            if index < self.count:
                mine = self._sample(index, point if point is not None and point.sample == index else None)
            else:  # nothing is left for this process
                distributed.agree(None)
            for drawn in distributed.in_turn(mine) if self.apart else (mine,):
                if drawn is not None:
                    self._take(drawn)
        return self.samples.result()

    @property
    def _before(self) -> RunTotals:
        """The totals before the next sample; sigma schedule and steps are those of the first, which is yet to end."""
        return self.totals if self.samples.count else replace(self.totals, ladder=(), steps=[])

    def _take(self, drawn: Drawn) -> None:
        self.totals = self._before + drawn.totals
        self.fallbacks += drawn.notes
        self.found |= drawn.found
        self.samples.add(drawn.x)

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

    def _sample(self, index: int, point: RunPoint | None) -> Drawn:
        """Run the engine for one sample."""
        metrics = StepMetrics()
        engine = self.build(sample_case(self.case, index), index, metrics)
        if point is not None:
            metrics.history = list(point.steps)
        self._limit_batches(engine)
        if self.checkpoint is not None or slabs.peers() is not None:
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda e: self._keep(e, index, metrics, only_if_due=True)
            )
        resume: SamplerState | None = None if point is None else point.state
        found: dict[str, float] = {}
        try:
            with distributed.alone(self.apart):
                x = engine.reconstruct(seed=self.seed, case=sample_case(self.case, index), resume=resume).x
            if self.finish is not None:
                x, found = self.finish(x)
            if self.apart:
                distributed.agree(None)  # the sample is not lost if another process has failed
        except BaseException:
            # The whole state cannot be had from processes that have stopped.
            if self.checkpoint is not None and engine.recon is not None and slabs.peers() is None:
                self._keep(engine, index, metrics, only_if_due=False)
            raise
        self.batch_sizes = _batch_sizes(engine)
        return Drawn(x, _totals(engine, metrics), _notes(engine), found)

    def _keep(self, engine: ReconstructionEngine, index: int, metrics: StepMetrics, *, only_if_due: bool) -> None:
        """Write the checkpoint if it is due, or in any case during an exception."""
        recon, checkpoint = engine.last_step or engine.recon, self.checkpoint
        assert recon is not None
        if only_if_due:
            # A volume on the disk is there anyway.
            due = checkpoint is not None and (not recon.x.numel() or checkpoint.due(recon.step, _bytes(recon)))
            if not (due if slabs.peers() is None else distributed.from_first(due)):
                return
        recon = recon if slabs.peers() is None else whole_state(recon)
        if checkpoint is None:  # of another process
            return
        point = RunPoint(
            state=recon,
            sample=index,
            samples=self.samples.state_dict() if self.samples.count else {},
            totals=self._before + _totals(engine, metrics),
            steps=[row for row in metrics.history if row["step"] <= recon.step],
            seconds=self.seconds + time.perf_counter() - self._started,
            batch_sizes=_batch_sizes(engine),
            circumstances=self._circumstances,
            fallbacks=[*self.fallbacks, *_notes(engine)],
            runs=[*self.runs, *([] if self.run_id is None else [self.run_id])],
            resumed=self.resumed,
            prepared=self.prepared,
        )
        if not only_if_due:
            checkpoint.rescue(point)
            return
        try:
            checkpoint.write(point)
        except ResourceError as error:  # the run may finish without an interruption
            logger.warning("no checkpoint after step %d: %s", recon.step, error.what)
            self.fallbacks.append(f"no checkpoint after step {recon.step}: {error.what}")

    def _limit_batches(self, engine: ReconstructionEngine) -> None:
        """Keep the batch sizes of the sample before or of the interrupted run."""
        for plane in engine.prior.planes if engine.prior is not None else ():
            inner = innermost(plane)
            if plane.plane in self.batch_sizes and hasattr(inner, "batch_size"):
                inner.batch_size = self.batch_sizes[plane.plane]


def _batch_sizes(engine: ReconstructionEngine) -> dict[str, int]:
    planes = engine.prior.planes if engine.prior is not None else ()
    sizes = {plane.plane: getattr(plane, "batch_size", None) for plane in planes}
    return {plane: int(size) for plane, size in sizes.items() if size is not None}


def _totals(engine: ReconstructionEngine, metrics: StepMetrics) -> RunTotals:
    planes = engine.prior.planes if engine.prior is not None else ()
    return RunTotals(
        engine.start_seconds,
        engine.denoiser_seconds,
        engine.denoiser_calls,
        sum(getattr(plane, "network_calls", 0) for plane in planes),
        engine.ladder,
        metrics.history,
    )


def _notes(engine: ReconstructionEngine) -> list[str]:
    planes = engine.prior.planes if engine.prior is not None else ()
    notes = [note for plane in planes for note in getattr(plane, "fallbacks", ())]
    return [*engine.relief.notes, *notes]


def _bytes(recon: SamplerState) -> int:
    tensors = [recon.x, *(t for kept in recon.memory.values() for t in kept.values())]
    return sum(t.numel() * t.element_size() for t in tensors)
