# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A reconstruction without numbers, in a child process, to see what memory it would take."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import select
import signal
import sys
import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monai_diffrecon.engine.machine_memory import anonymous_memory
from monai_diffrecon.engine.step_events import StepEvents

if TYPE_CHECKING:
    from monai_diffrecon.engine.inferer import DiffReconInferer

#: Steps after which memory does not grow any more: by then every plane had its turn.
_STEPS, _STEPS_OF_MORE, _SAMPLES = 6, 3, 2
_ITERATIONS = 3

#: glibc's heap was found this much larger than what is in it (docs/results/memory.md).
_HEAP_FACTOR = 1.7 if sys.platform == "linux" else 1.2

#: A trial that takes longer (s) makes do with two steps; one that takes much longer is given up.
_ENOUGH, _TIMEOUT = 3.0, 30.0


def trial(inferer: DiffReconInferer, measurement: Tensor, network: nn.Module | None) -> dict[str, int] | None:
    """Return the bytes that a reconstruction takes, by name, or None when it cannot be found out.

    The operator is built and the measurement is prepared in earnest; from there on tensors have shapes only. All of it
    happens in a child process: what plugins keep of tensors without numbers is gone with it.

    Args:
        inferer: the inferer.
        measurement: the measurement, without a batch axis.
        network: the primary network; None takes the bundle's.

    Returns:
        ``setup_peak`` and ``setup``: what the process grew while the problem was posed, and what remained of it;
        ``resident``: what it would grow from there; ``measurement``, ``operator``, ``volumes`` and ``network``: bytes
        of tensors; where networks compute on another device, its name and the bytes there.
    """
    if not hasattr(os, "fork"):
        return None
    reading, writing = os.pipe()
    try:
        with warnings.catch_warnings():
            # Python warns that other threads' locks may be held for ever in the child: then it is ended below.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        return None
    if child == 0:
        _in_child(writing, inferer, measurement, network)
    os.close(writing)
    try:
        answer = _read(reading, time.monotonic() + _TIMEOUT)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # a program may let its children vanish
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    found: dict[str, int] | None = json.loads(answer) if answer else None
    return found


def _read(reading: int, deadline: float) -> bytes:
    """Return all that the child has to say, or nothing when it takes too long."""
    answer = b""
    while (left := deadline - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        part = os.read(reading, 65536)
        if not part:
            return answer
        answer += part
    return b""


def _in_child(writing: int, inferer: DiffReconInferer, measurement: Tensor, network: nn.Module | None) -> None:
    """Say what was found, or nothing, and end."""
    try:
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        torch.set_num_threads(1)  # the parent's threads are not here, and waiting for them would be for ever
        os.write(writing, json.dumps(_run(inferer, measurement, network)).encode())
    finally:
        os._exit(0)  # whatever happened: nothing of the parent's may run a second time


class _Once(nn.Module):
    """A network that is run once for each shape of slices; later it only makes what it returns."""

    def __init__(self, network: nn.Module, tracer: _Tracer) -> None:
        super().__init__()
        self.network, self._tracer = network, tracer
        self._seen: set[Any] = set()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if (x.shape, x.dtype) in self._seen:
            return x * 1
        with self._tracer.trace.call():
            out = self.network(x, *args, **kwargs)
        # With gradients a batch is computed again on the way back, and must be the same then.
        if not torch.is_grad_enabled() and isinstance(out, Tensor) and out.shape == x.shape and out.dtype == x.dtype:
            self._seen.add((x.shape, x.dtype))
        return out


class _Tracer:
    """Handler that begins the trace when an engine is about to run, and ends the run after a few steps."""

    def __init__(self, network_device: str) -> None:
        from monai_diffrecon.engine.allocation_trace import AllocationTrace

        self.trace, self.device = AllocationTrace(_HEAP_FACTOR, network_device), network_device
        # Not all memory: of the parent's code the child has only what it used itself, so it would seem to grow.
        self.start = anonymous_memory()[0]
        self.found: dict[str, int] = {}
        self._steps, self._started = _STEPS, time.monotonic()

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        if not self.found:
            (now, most), problem = anonymous_memory(), engine.problem
            self.found = {
                "setup_peak": max(most - self.start, 0),
                "setup": max(now - self.start, 0),
                "measurement": _bytes([problem.measurement]),
                "operator": _bytes(problem.operator.buffers()),
            }
            self.trace.__enter__()
        else:
            self._steps = _STEPS_OF_MORE
        for plugin in (engine.consistency, engine.sampler, getattr(engine.sampler, "start", None)):
            iterations = getattr(plugin, "iterations", None)
            if plugin is not None and isinstance(iterations, int):  # they take time here, but no more memory
                plugin.iterations = min(iterations, _ITERATIONS)
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._step)

    def _step(self, engine: Any) -> None:
        late = time.monotonic() - self._started > _ENOUGH
        if engine.state.iteration >= (2 if late else self._steps):
            engine.terminate()

    def result(self, kept: int, voxel_bytes: int) -> dict[str, int]:
        """Return what was found, with ``kept`` more samples that are kept, of a volume each."""
        trace, more = self.trace, kept * voxel_bytes
        within = trace.call_peak if self.device == "cpu" else 0
        found = self.found | {
            "resident": int(trace.resident) + more,
            "volumes": max(trace.peak["cpu"] - within, 0) + more,
            "network": trace.call_peak,
        }
        return found if self.device == "cpu" else found | {self.device: trace.peak[self.device]}


def _run(inferer: DiffReconInferer, measurement: Tensor, network: nn.Module | None) -> dict[str, int]:
    weights = next((inferer.score.network if network is None else network).parameters(), torch.empty(0))
    tracer = _Tracer(torch.device(inferer.device or weights.device).type)
    traced = copy.copy(inferer)
    traced.device = "cpu"  # a GPU cannot be used in a child process, and tensors without numbers do not need it
    score = inferer.score if network is None else replace(inferer.score, network=network)
    traced.score = replace(score, network=_Once(score.network, tracer))
    traced.auxiliaries = tuple(replace(s, network=_Once(s.network, tracer)) for s in inferer.auxiliaries)
    traced.num_samples = min(inferer.num_samples, _SAMPLES)
    traced.progress, traced.handlers = False, ()
    volume = traced.reconstruct(measurement, handlers=[tracer]).volume
    kept = inferer.num_samples - traced.num_samples if inferer.keep_samples else 0
    return tracer.result(kept, volume.numel() * volume.element_size())


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
