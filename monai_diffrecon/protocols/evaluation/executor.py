# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of an executor, which runs the tasks of a cohort somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from monai_diffrecon.protocols.plugin import Plugin

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Plugin, ABC):
    """Runs a function on tasks: one after the other, in processes, or on the nodes of a cluster.

    The workers must see the same files under the same paths as the driver, and have the same packages.
    """

    @abstractmethod
    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result | Exception], None, None]:
        """Yield each task once, in any order, with what the function returned or with the exception it raised.

        A task whose worker died is run again elsewhere, a bounded number of times: the function resumes from what it
        has written. Closing the iterator stops the workers.

        Args:
            function: a function of a module. A worker runs one at a time, in its main thread if possible.
            tasks: small objects that can be pickled.

        Raises:
            ResourceError: no worker can be reached any more; running all again resumes.
        """
