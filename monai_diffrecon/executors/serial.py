# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tasks one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from monai_diffrecon.protocols import Executor
from monai_diffrecon.protocols.evaluation.executor import Result, Task


class SerialExecutor(Executor):
    """One task after the other, in this process."""

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result | Exception], None, None]:
        """Run the tasks, see the base class."""
        for task in tasks:
            found: Result | Exception
            try:
                found = function(task)
            except Exception as error:
                found = error
            yield task, found
