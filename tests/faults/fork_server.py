# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and forks a child for each command line it reads: a start in milliseconds.

    python fork_server.py

Each line on stdin is a JSON object: ``argv`` (of ``diffrecon``), ``bundle`` (arguments of ``monai.bundle.run``), or
``module`` and ``argv`` (of ``python -m``, with ``cwd`` and the environment ``replaced``); ``log``, a file for the
child's stdout and stderr, and ``errors``, one of its own for stderr; ``die_at``, to end in a SIGKILL of its own:
``{"write": n, "when": "before" | "during" | "after"}`` at the n-th file written, or ``{"step": n}``; ``stop_at``, a
step after which it waits for SIGCONT; ``warm``, to run in the server itself, so that all that is imported late is there
for the children; ``second``, two named pipes on which a copy of the server answers meanwhile. Answers on stdout are
lines: ``pid N``, ``step N`` after each step, ``end STATUS`` (negative: the signal that ended it).
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from processes import index_monai_once

import monai_diffrecon.engine.cases.evaluator
import monai_diffrecon.evaluation.cohort.runner
from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.io import atomic
from monai_diffrecon.tracking.mlflow_client import mlflow_module


def die() -> None:
    """End like a process that the operating system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def report_steps(answers: Any, die_at: dict[str, Any], stop_at: int | None) -> None:
    """Tell the parent of each step that is completed; after one of them, wait to be continued."""
    step, count = ReconstructionEngine._step, [0]

    def told(self: ReconstructionEngine, engine: Any, index: int) -> Any:
        result = step(self, engine, index)
        count[0] += 1
        answers.write(f"step {count[0]}\n")
        answers.flush()
        if count[0] == die_at.get("step"):
            die()
        if count[0] == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    ReconstructionEngine._step = told  # type: ignore[method-assign]


def die_at_write(number: int, when: str) -> None:
    """Die at the n-th file that is written: before, with half of it on the disk, or when it has its name."""
    replace, count = os.replace, [0]

    def counted(source: Any, target: Any) -> None:
        count[0] += 1
        if count[0] != number:
            replace(source, target)
            return
        if when == "during":
            with open(source, "r+b") as file:
                file.truncate(max(Path(source).stat().st_size // 2, 1))
        if when == "after":
            replace(source, target)
        die()

    atomic.os.replace = counted  # type: ignore[attr-defined]


def call(job: dict[str, Any]) -> int:
    """Do what a command line would, and return its exit code."""
    if "module" in job:
        return python_m(job)
    if "argv" in job:
        return cli.main(job["argv"])
    try:
        monai.bundle.run(**job["bundle"])
    except Exception as error:
        for cause in chain_of(error):
            if isinstance(cause, DiffReconError):
                sys.stderr.write(f"error: {cause}\n")
                return cause.exit_code
        raise
    return 0


def python_m(job: dict[str, Any]) -> int:
    """Do what ``python -m`` does."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["replaced"])
    tempfile.tempdir = None
    sys.path.insert(0, job["cwd"])
    sys.argv = [job["module"], *job["argv"]]
    try:
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def child(job: dict[str, Any], answers: Any) -> int:
    """Run one job with its output in the log."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "errors" in job else log, 2)
    torch.set_num_threads(1)
    die_at = job.get("die_at", {})
    report_steps(answers, die_at, job.get("stop_at"))
    if "write" in die_at:
        die_at_write(die_at["write"], die_at["when"])
    os.environ.update(job.get("environment", {}))
    run: Callable[[dict[str, Any]], int] = call
    try:
        return run(job)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve(requests: Iterable[str], answers: Any) -> None:
    """Answer requests until they end."""
    for line in requests:
        job = json.loads(line)
        if "second" in job:
            if os.fork() == 0:
                with open(job["second"][0]) as own, open(job["second"][1], "w") as told:
                    serve(own, told)
                    os._exit(0)
            continue
        if job.get("warm"):
            call(job)
            answers.write("warm\n")
            answers.flush()
            continue
        pid = os.fork()
        if pid == 0:
            os._exit(child(job, answers))
        answers.write(f"pid {pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"end {os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def main() -> None:
    """Serve until stdin ends."""
    mlflow_module()
    index_monai_once()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    serve(sys.stdin, answers)
    os._exit(0)  # libraries take seconds to end


if __name__ == "__main__":
    # Modules that only register plugins and commands.
    assert monai_diffrecon.engine.cases.evaluator
    assert monai_diffrecon.evaluation.cohort.runner
    main()
