# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tasks in several processes of this computer, one per device."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, cast

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.protocols import Executor
from monai_diffrecon.protocols.evaluation.executor import Result, Task

_CORES = 4  # a process, unless the number of processes is given
_LONGEST_END = 30.0  # seconds that a process has for its last checkpoint


class ProcessesExecutor(Executor):
    """Several processes of this computer, one per GPU; on the CPU they share its threads.

    Args:
        workers: number of processes; by default one per GPU, or one per four cores without a GPU.
        threads: threads of each; by default those of this process, divided by the number of workers.
        retries: how often a task whose process died is run again.

    Raises:
        ConfigError: a number that is too small.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None, retries: int = 2) -> None:
        import torch

        gpus = torch.cuda.device_count()
        workers = workers if workers is not None else gpus or max(1, (os.cpu_count() or 1) // _CORES)
        threads = threads if threads is not None else max(1, torch.get_num_threads() // max(1, _whole(workers)))
        for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
            if not _whole(value) >= least:
                raise ConfigError(
                    "not a number of processes", where=f"executor#{name}", expected=f"{least} or more", got=repr(value)
                )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",")[:gpus] if visible else [str(index) for index in range(gpus)]
        self.retries, self.threads = retries, threads
        self.devices = [names[index % gpus] if gpus else None for index in range(workers)]

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result | Exception], None, None]:
        """Run the tasks, see the base class."""
        waiting = deque((task, 0) for task in tasks)
        workers: list[_Worker] = []
        try:
            for device in self.devices[: len(waiting)]:
                workers.append(_Worker(device, self.threads))
                workers[-1].give(function, *waiting.popleft())
            while busy := {worker.pipe: place for place, worker in enumerate(workers) if worker.busy}:
                for pipe in connection.wait(list(busy)):
                    place = busy[cast(Connection, pipe)]
                    task, deaths = workers[place].task
                    found = workers[place].answer()
                    if found is None:
                        code = workers[place].stop()
                        workers[place] = _Worker(workers[place].device, self.threads)
                        if deaths < self.retries:
                            workers[place].give(function, task, deaths + 1)
                            continue
                        found = ResourceError(
                            "the process died",
                            where="executor",
                            got=f"exit code {code}, {deaths + 1} times",
                            mend="see if memory ran out; the same command resumes",
                        )
                    workers[place].busy = False
                    if waiting:
                        workers[place].give(function, *waiting.popleft())
                    yield task, found[0] if isinstance(found, tuple) else found
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.stop()


class _Worker:
    """One process, and the task that it has."""

    def __init__(self, device: str | None, threads: int) -> None:
        self.device, self.busy, self.task = device, False, cast(tuple[Any, int], (None, 0))
        context = get_context("spawn")  # a fork would copy CUDA and threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, device, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is seen at our end

    def give(self, function: Callable[[Any], Any], task: Any, deaths: int) -> None:
        self.task, self.busy = (task, deaths), True
        with suppress(BrokenPipeError):  # it has died, as answer() will say
            self.pipe.send((function, task))

    def answer(self) -> tuple[Any] | Exception | None:
        """Return its result in a tuple, or its exception, or None if it died."""
        try:
            found: tuple[Any] | Exception = self.pipe.recv()
            return found
        except (EOFError, OSError):
            return None

    def stop(self) -> int | None:
        self.pipe.close()
        self.process.join(_LONGEST_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _serve(pipe: Connection, device: str | None, threads: int) -> None:
    """Run what comes through the pipe, until it is closed or the driver dies."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver as well, which ends its workers
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        found: tuple[Any] | Exception
        try:
            found = (function(task),)
        except Exception as error:
            found = error
        try:
            pipe.send(found)
        except Exception as error:  # it cannot be pickled
            pipe.send(ResourceError("the result cannot be sent", where="executor", got=type(error).__name__))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)  # a running case writes its checkpoint


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
