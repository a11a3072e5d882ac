# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The engine of a volume that lies on the disk: each step is taken slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.handlers.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.memory.machine_memory import return_memory
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine, StepEvents
from monai_diffrecon.engine.slab_problem import NoiseOfSlab, measured_axis, problem_of, slab_plane
from monai_diffrecon.engine.store.stored_planes import StoredPlaneDenoiser, StorePeers
from monai_diffrecon.engine.store.volume_store import VolumeStore
from monai_diffrecon.protocols import (
    PLANE_AXIS,
    ConsistencyStep,
    NoiseSource,
    Operator,
    Problem,
    Sampler,
    SamplerState,
    ScorePrior,
)
from monai_diffrecon.protocols.operator import NORM_ITERATIONS
from monai_diffrecon.slabs import Slab, peers, squared_norm, within
from monai_diffrecon.slabs.in_turn import Answer, Question, run_in_turn

#: Volumes of its size that a slab takes at the peak: what sampler and consistency step hold, and copies from the disk.
_VOLUMES = 13

#: Turns a state into the final volume: the slab, its problem, where it lies.
Complete = Callable[[Tensor, Problem, Slab], Tensor]


class StoredEngine(ReconstructionEngine):
    """Runs the sampler on one slab after the other; between its turns a slab lies on the disk.

    The states of the slabs after the last complete step stay there until the next step is complete and a checkpoint
    says so. ``engine.recon`` holds what all slabs have in common; its ``x`` is empty until the run is done.

    Args:
        problem: the inverse problem of the whole volume, on the CPU.
        prior: the score prior; its planes are bound and read slices from the disk.
        consistency: the consistency step.
        sampler: the sampler.
        noise: the noise source.
        store: the disk.

    Attributes:
        complete: makes the final volume of a slab's result.
        slabs: the slabs.

    Raises:
        ConfigError: the operator couples the slices of every plane.
    """

    def __init__(
        self,
        problem: Problem,
        prior: ScorePrior | None,
        consistency: ConsistencyStep,
        sampler: Sampler,
        noise: NoiseSource,
        store: VolumeStore,
    ) -> None:
        super().__init__(problem, prior, consistency, sampler, noise)
        self.store, self._plugins = store, (consistency, sampler)
        self.complete: Complete = lambda x, problem, slab: x
        planes = () if prior is None else prior.planes
        plane = slab_plane(problem.operator, planes[0].plane if planes else "axial", "volume_store")
        unit = max((getattr(p, "batch_size", 1) or 8 for p in planes if p.plane == plane), default=1)
        self.slabs = slabs_of(problem.operator, 1 + PLANE_AXIS[plane], unit, store.slab_gb)
        self._prepared: list[list[Answer]] = [[] for _ in self.slabs]
        self._norm: float | None = None
        self._squares = 0.0

    def reconstruct(self, *, seed: int, case: str, resume: SamplerState | None = None) -> SamplerState:
        """Run the sampler from its start or from the state of an earlier run, and return the final volume.

        Args:
            seed: seed of the noise source.
            case: name of the case.
            resume: what the slabs on the disk have in common, after ``resume.step`` steps.
        """
        done = super().reconstruct(seed=seed, case=case, resume=resume)
        return done if self.ladder else self._with_relief(self._finish)

    def residual_norm(self) -> float:
        """Return the norm of the residual after the last step."""
        return self._squares**0.5

    def iterate(self) -> Tensor:
        """Return the iterate after the last step, read from the disk."""
        first = self.store.read(self._completed.step, 0)
        volume = self.store.volume(self.problem.operator.volume_shape, first.x.dtype)
        for index, slab in enumerate(self.slabs):
            slab.of(volume).copy_(self.store.read(self._completed.step, index).x)
        return volume

    def _prepare(self) -> None:
        self._prepared = [[] for _ in self.slabs]

        def prepare(slab: Slab) -> Sampler:
            with self._engine(slab) as engine:
                engine._prepare()
                return engine.sampler

        def keep(index: int, sampler: Sampler) -> None:
            self.sampler = sampler if index == 0 else self.sampler  # one that knows its schedule

        run_in_turn(prepare, self.slabs, keep=keep, peers=self._peers, answers=self._prepared)

    def _begin(self, seed: int, case: str, resume: SamplerState | None) -> SamplerState:
        with torch.no_grad():
            self._prepare()
            if resume is not None:
                self.store.keep(resume.step)
                return resume
            self.store.keep(None)
            return self._turns(lambda engine, _: engine._begin(seed, case, None), 0)

    def _next(self) -> SamplerState:
        before = self.state.recon = self._completed
        self.store.keep(before.step)

        def step(engine: ReconstructionEngine, index: int) -> SamplerState:
            self._resumed(engine, before.step, index)
            after = engine.state.recon = engine._next()
            engine.fire_event(StepEvents.CONSISTENT)
            return after

        return self._turns(step, before.step + 1)

    def _finish(self) -> SamplerState:
        last, operator = self._completed, self.problem.operator
        dtype = operator.volume_dtype
        volume = self.store.volume(operator.volume_shape, dtype)

        def finish(slab: Slab) -> Tensor:
            with self._engine(slab) as engine:
                self._resumed(engine, last.step, self.slabs.index(slab))
                x = engine._finish().x if self.ladder else engine._completed.x
                return self.complete(x, engine.problem, slab)

        def keep(index: int, x: Tensor) -> None:
            self.slabs[index].of(volume).copy_(x)

        with torch.no_grad():
            run_in_turn(finish, self.slabs, keep=keep, peers=self._peers, answers=self._answers())
        return replace(last, x=volume)

    def _turns(self, task: Callable[[ReconstructionEngine, int], SamplerState], step: int) -> SamplerState:
        """Let each slab reach a step, write its state, and return what the states have in common."""
        counted: list[tuple[float, int]] = []
        planes = () if self.prior is None else self.prior.planes

        def turn(slab: Slab) -> tuple[SamplerState, float, int]:
            with self._engine(slab) as engine:
                state = task(engine, self.slabs.index(slab))
                with within(None):  # of this slab
                    residual = engine.problem.operator.residual_norm(state.x, engine.problem.measurement)
                return state, residual**2, engine.denoiser_calls

        def keep(index: int, result: tuple[SamplerState, float, int]) -> SamplerState:
            state, *counts = result
            self.store.write(step, index, state)
            counted.append((counts[0], int(counts[1])))
            return _common(state)

        before = sum(_seconds(plane) for plane in planes)
        with torch.no_grad():
            states = run_in_turn(turn, self.slabs, keep=keep, peers=self._peers, answers=self._answers())
        self._squares = sum(squares for squares, _ in counted)
        self.denoiser_calls += counted[0][1]
        self.denoiser_seconds += sum(_seconds(plane) for plane in planes) - before
        return states[0]  # type: ignore[return-value]

    @contextmanager
    def _engine(self, slab: Slab) -> Iterator[ReconstructionEngine]:
        """Context with an engine for a turn of a slab; what it holds is freed at the end."""
        problem, operator = problem_of(self.problem, slab), self.problem.operator
        if type(operator).norm is Operator.norm:  # iterates; 20 questions are better answered at once
            problem.operator.norm = partial(_ask_norm, self)  # type: ignore[method-assign]
        noise = NoiseOfSlab(self.noise, slab, measured_axis(operator, slab))
        engine = ReconstructionEngine(problem, self.prior, *self._plugins, noise)
        NonFiniteGuard().attach(engine)
        try:
            yield engine
        finally:
            engine.__dict__.clear()  # it is part of a circle, which is not collected at once
            del engine, problem
            return_memory()

    def _resumed(self, engine: ReconstructionEngine, step: int, index: int) -> None:
        engine.recon = engine._begin(0, "", self.store.read(step, index))
        engine.ladder = engine.sampler.schedule(engine.recon)

    def _peers(self, slabs: Any, index: int, answers: list[Answer]) -> StorePeers:
        return StorePeers(slabs, index, answers, self.store)

    def _answers(self) -> list[list[Answer]]:
        return [list(known) for known in self._prepared]

    def operator_norm(self) -> float:
        """Return the norm of ``A^T A``, by the same iteration as in memory."""
        if self._norm is None:
            self._norm = self._iterated_norm()
        return self._norm

    def _iterated_norm(self) -> float:
        parts, squares, name, first = [], 0.0, "norm", self.slabs[0]
        for index, slab in enumerate(self.slabs):
            part = problem_of(self.problem, slab).operator
            with within(self._peers(self.slabs, index, [])):
                x = part._start().to(part.volume_dtype)
            self.store.put(name, x, slab, first)
            parts.append(part)
            squares += squared_norm(x)
        for _ in range(NORM_ITERATIONS):
            value, squares = squares**0.5, 0.0
            if value == 0.0:
                break
            for slab, part in zip(self.slabs, parts, strict=True):
                x = part.normal(self.store.get(name, slab) / value)
                self.store.put(name, x, slab, first)
                squares += squared_norm(x)
        self.store.drop(name)
        return squares**0.5


class _Norm(Question):
    def __init__(self, engine: StoredEngine) -> None:
        super().__init__()
        self.engine = engine

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        value = self.engine.operator_norm()
        return [lambda: value for _ in questions]


def _ask_norm(engine: StoredEngine) -> float:
    now = peers()
    return float(now.ask(_Norm(engine))) if isinstance(now, StorePeers) else engine.operator_norm()  # type: ignore[arg-type]


def slabs_of(operator: Operator, dim: int, unit: int, slab_gb: float) -> tuple[Slab, ...]:
    """Return the slabs of a volume.

    Args:
        operator: the forward operator.
        dim: dimension along which the volume is cut.
        unit: slices that stay together, as the batches of a network do.
        slab_gb: memory that a slab may take.
    """
    shape, voxel = operator.volume_shape, 8 if operator.complex_volume else 4
    of_slice = _VOLUMES * voxel * math.prod(shape) / shape[dim]
    size = max(int(slab_gb * 1e9 / of_slice) // unit, 1) * unit
    return tuple(Slab(dim, first, min(first + size, shape[dim]), shape[dim]) for first in range(0, shape[dim], size))


def _common(state: SamplerState) -> SamplerState:
    """Return what the states of all slabs have in common: no volume."""
    memory = {
        key: {name: kept for name, kept in inner.items() if kept.shape != state.x.shape}
        for key, inner in state.memory.items()
    }
    return replace(state, x=state.x.new_empty(0), memory=memory)


def _seconds(plane: Any) -> float:
    return float((plane if isinstance(plane, StoredPlaneDenoiser) else plane.inner).seconds)
