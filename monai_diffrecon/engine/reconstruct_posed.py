# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstruction of a posed case: draws and finishes samples, converts them to physical units, and reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import distributed, slabs
from monai_diffrecon.engine.adaptation import adapted
from monai_diffrecon.engine.devices.placement import device_facts, problem_on
from monai_diffrecon.engine.devices.precision import tf32
from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.memory.machine_memory import peak_memory
from monai_diffrecon.engine.plugin_objects import described
from monai_diffrecon.engine.posterior.sample_runner import SampleRunner
from monai_diffrecon.engine.problem.measured_operator import plane_notice
from monai_diffrecon.engine.problem.nonnegative import is_magnitude, nonnegative
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.recipe import weights_of
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.run_identity import differences
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.engine.run_report import Reconstruction, RunReport
from monai_diffrecon.engine.self_validation import tuned
from monai_diffrecon.engine.slab_problem import problem_of, slab_plane, slab_state
from monai_diffrecon.engine.store.stored_engine import StoredEngine
from monai_diffrecon.engine.store.volume_store import VolumeStore
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.padding import with_padding
from monai_diffrecon.protocols import PLANE_AXIS, Problem, VolumeGeometry
from monai_diffrecon.slabs import Slab, cut
from monai_diffrecon.slabs.processes import ProcessPeers

logger = logging.getLogger(__name__)


def reconstruct_posed(
    case: PosedCase,
    *,
    handlers: Sequence[Any] = (),
    checkpoint: RunCheckpoint | None = None,
    run_id: str | None = None,
    progress: bool | None = None,
    store: VolumeStore | None = None,
) -> Reconstruction:
    """Reconstruct a case.

    Args:
        case: the case.
        handlers: handlers of every sample's engine.
        checkpoint: stores the state of the run and where an interrupted run stopped.
        run_id: its MLflow run, for the checkpoint.
        progress: show a progress bar; None shows it on a terminal only.
        store: the disk where the volume lies; None keeps it in memory.

    Raises:
        ResumeMismatchError: the checkpoint belongs to another run.
    """
    started = time.perf_counter()
    checkpoint = checkpoint if distributed.is_first() else None
    progress = progress if distributed.rank() == 0 else False
    point = None if checkpoint is None else checkpoint.open(case.identity, resumable=case.recipe.resumable)
    point = _shared(case, point)
    known = {} if point is None else point.prepared
    with tf32(False):
        case, choice = tuned(case, known.get("tune"))
        case, learnt = adapted(case, known.get("adaptation"))
    prepared = {name: found for name, found in (("tune", choice), ("adaptation", learnt)) if found}
    recipe, measured, posed = case.recipe, case.measured, case.posed
    part = _slabs(case)
    problem = posed.problem if part is None else problem_of(posed.problem, part.slab)
    memory = case.memory if part is None else case.memory_of(problem)
    notices: list[str] = []

    def warn(lines: Sequence[str]) -> None:
        for line in lines:
            logger.warning("%s", line if not case.name else f"case {case.name}: {line}")

    def tell(lines: Sequence[str]) -> None:
        warn(lines)
        notices.extend(lines)

    warn(memory.check())
    count, whole = distributed.processes(), part is None or distributed.is_first()
    apart = recipe.share == "samples" and recipe.num_samples >= count > 1
    if recipe.share == "samples" and not apart and count > 1:
        warn([f"num_samples is {recipe.num_samples} for {count} processes: they share out slices instead of samples"])
    tell(posed.notices)

    def build(sample: str, index: int, metrics: StepMetrics) -> ReconstructionEngine:
        engine = recipe.engine(
            problem_on(problem, case.volume_device),  # again, if the last sample ended on the CPU
            case.network,
            sample,
            index,
            handlers=(metrics, *handlers),
            mend=posed.mend,
            progress=progress,
            store=store,
        )
        if isinstance(engine, StoredEngine):
            engine.complete = finish_stored
            where["slabs"] = len(engine.slabs)
        engine.memory_needed = memory.summary()
        if index == 0:
            tell(plane_notices(engine))
        return engine

    def corrected(x: Tensor, of: Problem) -> tuple[Tensor, dict[str, float]]:
        found: dict[str, float] = {}
        if recipe.calls_network and is_magnitude(posed.problem, posed.acted):
            x, found = nonnegative(problem_on(of, x.device), x)
        return x.cpu(), found

    def finish(x: Tensor) -> tuple[Tensor, dict[str, float]]:
        x, found = corrected(x, problem)
        x = slabs.gathered(x)
        problem.operator.cpu()  # samples are compared on the CPU
        return x if posed.hidden is None or not whole else x + posed.hidden / posed.acted.scale, found

    def finished(x: Tensor, geometry: VolumeGeometry = measured.geometry) -> Tensor:
        if not whole:  # the slab of another process than the first
            return posed.intensity.to_physical(x)
        return with_padding(posed.intensity.to_physical(x), affine_of(geometry), measured.padding)

    constraint: dict[str, float] = {}  # of a volume on the disk

    def finish_stored(x: Tensor, of: Problem, slab: Slab) -> Tensor:
        x, found = corrected(x, of)
        constraint.update(found)
        x = x if posed.hidden is None else x + slab.of(posed.hidden) / posed.acted.scale
        return finished(x, measured.geometry.part(slab.dim - 1, slab.first, slab.end))

    runner = SampleRunner(
        build,
        posed.problem.operator,
        count=recipe.num_samples,
        keep=recipe.keep_samples,
        seed=recipe.seed,
        case=case.name,
        checkpoint=checkpoint,
        run_id=run_id,
        finish=finish if store is None else None,
        apart=apart,
        prepared=prepared,
    )
    where = circumstances(case)
    if part is not None:
        where["slabs"] = count
        point = None if point is None else replace(point, state=slab_state(point.state, part.slab))
    try:
        with slabs.within(part), tf32(False):  # float32 is float32 on a GPU too
            x, spread = runner.run(point, where)
    finally:
        problem.operator.cpu()
    totals = runner.totals

    if spread is not None:
        spread = spread.in_units(posed.intensity.scale, finished)
    report = RunReport(
        seconds=runner.seconds + time.perf_counter() - started,
        start_seconds=totals.start_seconds,
        denoiser_seconds=totals.denoiser_seconds,
        denoiser_calls=totals.denoiser_calls,
        network_calls=totals.network_calls,
        ladder=totals.ladder if recipe.calls_network else (),
        steps=totals.steps,
        scale=posed.intensity.scale,
        offset=posed.intensity.offset,
        seed=recipe.seed,
        options=_options(case) | {name: _said(found) for name, found in prepared.items()},
        weights=weights_of(recipe.scores),
        distributions=tuple(sorted(case.distributions)),
        unit=measured.unit,
        source_sha256=measured.source_sha256,
        fallbacks=runner.fallbacks,
        inferer=case.settings,
        execution={
            **where,
            "batch_sizes": runner.batch_sizes,
            "resumed": runner.resumed,
            **runner.found,
            **constraint,
            **_processes(),
            **_peak(store),
        },
        notices=tuple(notices),
        phase=posed.phase,
        resumed_from=runner.resumed_from,
    )
    return Reconstruction(finished(x) if store is None else x, measured.geometry, report, spread)


def _slabs(case: PosedCase) -> ProcessPeers | None:
    """Return the slabs in which the processes of a run hold the volume; None if each holds all of it.

    Raises:
        ConfigError: it cannot be cut into so many slabs, or several samples are to be drawn.
    """
    count, recipe = distributed.processes(), case.recipe
    if recipe.share != "slabs" or count == 1:
        return None
    operator = case.posed.problem.operator
    dim = 1 + PLANE_AXIS[slab_plane(operator, recipe.score.plane)]
    slices = operator.volume_shape[dim]
    if slices < count or recipe.num_samples > 1:
        raise ConfigError(
            "fewer slices than processes" if slices < count else "one sample at a time is drawn in slabs",
            where="inferer#share",
            expected=f"at most {slices} processes" if slices < count else "num_samples 1",
            got=count if slices < count else recipe.num_samples,
            mend=f'set share to "{"slices" if slices < count else "samples"}"',
        )
    return ProcessPeers(cut(dim, slices, count), distributed.rank())


def _shared(case: PosedCase, point: RunPoint | None) -> RunPoint | None:
    """Return the first process's point to every process of the run.

    Raises:
        ConfigError: this process was given another case, or other options.
    """
    if distributed.processes() == 1:
        return point
    mine = {name: value for name, value in case.identity.items() if name != "objects"}
    point, theirs = distributed.from_first((point, mine))
    if changed := differences(theirs, mine):
        raise ConfigError(
            "the processes of this run do not reconstruct the same",
            where="processes",
            got=f"other {', '.join(changed[:4])}",
            mend="give every process the same scan, configuration and bundles",
        )
    return point


def _processes() -> dict[str, int]:
    count = distributed.processes()
    return {"processes": count} if count > 1 else {}


def _peak(store: VolumeStore | None) -> dict[str, float]:
    peak = None if store is None else peak_memory()
    return {} if peak is None else {"peak_memory_gb": round(peak, 2)}


def circumstances(case: PosedCase) -> dict[str, Any]:
    """Return what may change the last bits of a voxel: threads, devices, instruction set, slices per network call."""
    elsewhere = {} if case.volume_device == case.device else {"volume_device": str(case.volume_device)}
    return {
        "threads": torch.get_num_threads(),
        "device": str(case.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "sw_batch_size": case.recipe.sw_batch_size,
        **elsewhere,
        **device_facts(case.device, case.settings["precision"]),
    }


def plane_notices(engine: ReconstructionEngine) -> tuple[str, ...]:
    """Return a notice if no network's plane contains the axis to be resolved."""
    planes = () if engine.prior is None else [plane.plane for plane in engine.prior.planes]
    notice = plane_notice(engine.problem.operator, planes) if planes else None
    return () if notice is None else (notice,)


def _said(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "weights"}


def _options(case: PosedCase) -> dict[str, Any]:
    """Return the plugins that took part, and further details for the report."""
    recipe, options = case.recipe, described(case.specs)
    if recipe.calls_network and case.posed.operator.complex_volume:
        options["complex"] = recipe.complex
    if recipe.num_samples > 1:
        options["num_samples"] = recipe.num_samples
    return dict(options)
