# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Processes that start in milliseconds, and can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any


def index_monai_once() -> None:
    """Let parsers share MONAI's list of all its classes; to make it takes longer than most runs of tests."""
    locator: Any = sys.modules["monai.bundle.config_item"].ComponentLocator
    find = locator._find_classes_or_functions
    index = cache(lambda names: find(None, names))
    locator._find_classes_or_functions = lambda _, names: index(tuple(names))


class Server:
    """Starts command lines in forked processes, and kills them when told to."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self.requests, self.answers = requests, answers

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Server]:
        """Start one, and stop it at the end."""
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "DIFFRECON_CASE_KEY": "secret"},
        ) as process:  # it ends when its stdin is closed
            assert process.stdin is not None
            assert process.stdout is not None
            server = cls(process.stdin, process.stdout)
            assert server._line() == "ready"
            yield server

    def second(self, folder: Path) -> Server:
        """Return a copy that runs its jobs at the same time; ``folder`` is for the pipes to it."""
        pipes = [folder / "requests", folder / "answers"]
        for pipe in pipes:
            os.mkfifo(pipe)
        self._send(second=[str(pipe) for pipe in pipes])
        return Server(pipes[0].open("w"), pipes[1].open())

    def python_m(
        self, folder: Path, module: str, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Do what ``python -m MODULE WORDS`` does, as ``subprocess.run`` does it; ``folder`` is for what it prints."""
        paths = [folder / "stdout", folder / "stderr"]
        argv = [str(word) for word in words]
        options = {"cwd": str(cwd or Path.cwd()), "replaced": dict(os.environ if env is None else env)}
        code, _ = self.run(paths[0], errors=str(paths[1]), module=module, argv=argv, **options)
        said = [path.read_text() for path in paths]
        for path in paths:
            path.unlink()
        return subprocess.CompletedProcess(argv, code, *said)

    def warm(self, **job: Any) -> None:
        """Run a job in the server, so that its children need not import anything."""
        self._send(warm=True, **job)
        while self._line() != "warm":
            pass

    def run(
        self,
        log: Path,
        *,
        kill: tuple[int, float] | None = None,
        number: int = signal.SIGKILL,
        pause: tuple[int, Callable[[], None]] | None = None,
        **job: Any,
    ) -> tuple[int, str]:
        """Run a job to its end; return its exit code (negative: a signal) and what it printed.

        Args:
            log: file for its output.
            kill: after so many steps, and then so many seconds, send a signal.
            number: the signal.
            pause: after so many steps it stops, something else is done, and it goes on.
            job: as of ``fork_server``.
        """
        log.unlink(missing_ok=True)
        self._send(log=str(log), stop_at=None if pause is None else pause[0], **job)
        while not (begun := self._line()).startswith("pid "):
            pass  # of a job before, which a test gave up
        pid = int(begun.removeprefix("pid "))
        steps = 0
        if kill is not None and kill[0] == 0:
            self._kill(pid, kill[1], number)
        while not (line := self._line()).startswith("end "):
            steps += 1
            if pause is not None and steps == pause[0]:
                try:
                    pause[1]()
                finally:
                    os.kill(pid, signal.SIGCONT)
            if kill is not None and steps == kill[0]:
                self._kill(pid, kill[1], number)
        return int(line.removeprefix("end ")), log.read_text() if log.exists() else ""

    def _send(self, **job: Any) -> None:
        self.requests.write(json.dumps(job) + "\n")
        self.requests.flush()

    @staticmethod
    def _kill(pid: int, after: float, number: int) -> None:
        time.sleep(after)
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, number)

    def _line(self) -> str:
        line = self.answers.readline()
        assert line, "the server died"
        return line.strip()

    def close(self) -> None:
        """Stop serving."""
        self.requests.close()
        self.answers.close()
