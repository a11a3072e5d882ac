# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every executor must obey."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Executor


def check_executor(make: Callable[[], Executor], folder: Path | None = None) -> None:
    """Check the laws.

    Each task comes back once, with its own result; without tasks nothing does. An exception is handed over, with its
    fields, and stops no other task. A second run works like the first, and the iterator can be closed early. With a
    folder, a task whose worker is killed once is run again.

    Args:
        make: returns a new executor.
        folder: an empty folder that the workers see; None for an executor whose tasks run in this process.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    executor = make()
    assert list(executor.run(_third, [])) == [], "it returns something for no task"
    for tasks in ([3, 6, 9, 12, 15], [30]):
        found = list(executor.run(_third, tasks))
        assert sorted(found) == [(task, task // 3) for task in tasks], f"the tasks {tasks} gave {found}"
    results = dict(executor.run(_third, [3, 4, 6, -1]))
    assert (results[3], results[6]) == (1, 2), f"a failing task stops others: {results}"
    assert isinstance(results[4], InputError), f"an exception came back as {results[4]!r}"
    fields = (results[4].what, results[4].where, results[4].got, results[4].exit_code)
    assert fields == ("not a multiple", "task", "4", 2), f"an exception lost its fields: {fields}"
    assert isinstance(results[-1], ZeroDivisionError), f"an exception came back as {results[-1]!r}"
    iterator: Any = executor.run(_third, [3, 6, 9])
    with closing(iterator):
        next(iterator)
    if folder is not None:
        again = list(executor.run(_killed_once, [str(folder / name) for name in "abc"]))
        assert sorted(again) == [(str(folder / name), "done") for name in "abc"], f"a killed worker: {again}"


def _third(task: int) -> int:
    if task < 0:
        return 1 // 0
    if task % 3:
        raise InputError("not a multiple", where="task", got=str(task))
    return task // 3


def _killed_once(task: str) -> str:
    with suppress(FileExistsError):
        Path(task).touch(exist_ok=False)
        if Path(task).name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"
