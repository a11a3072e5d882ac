# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slabs in threads, which is quicker to test than processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from monai_diffrecon.slabs import Peers, Slab, within

T = TypeVar("T")


class _Table:
    """Where the threads meet: each lays something down, and sees what all have."""

    def __init__(self, count: int) -> None:
        self._barrier, self._things = threading.Barrier(count, timeout=60), [None] * count
        self.errors: list[Exception] = []

    def exchanged(self, index: int, thing: Any) -> list[Any]:
        self._things[index] = thing
        self._barrier.wait()
        seen = list(self._things)
        self._barrier.wait()
        return seen

    def leave(self, error: Exception) -> None:
        self.errors.append(error)  # those of threads that waited come later
        self._barrier.abort()


class ThreadPeers(Peers):
    """Slabs of which each thread has one."""

    def __init__(self, slabs: Sequence[Slab], index: int, table: _Table) -> None:
        super().__init__(slabs, index)
        self._table = table

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the threads."""
        return torch.stack(self._table.exchanged(self.index, value)).sum(dim=0)

    def largest(self, value: Tensor) -> Tensor:
        """Return the maximum over the threads."""
        return torch.stack(self._table.exchanged(self.index, value)).amax(dim=0)

    def swap(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give each thread a tensor, and return what each has for this one."""
        received = [
            given[self.index] for given in self._table.exchanged(self.index, [piece.clone() for piece in pieces])
        ]
        assert [tuple(piece.shape) for piece in received] == [tuple(shape) for shape in shapes]
        return received


def run_in_threads(task: Callable[[Slab], T], slabs: Sequence[Slab]) -> list[T]:
    """Run a task on all slabs at the same time; the first error is raised."""
    table = _Table(len(slabs))

    def run(index: int) -> T:
        with within(ThreadPeers(slabs, index, table)):
            try:
                return task(slabs[index])
            except Exception as error:
                table.leave(error)
                raise

    with ThreadPoolExecutor(len(slabs)) as pool:
        futures = [pool.submit(run, index) for index in range(len(slabs))]
    if table.errors:
        raise table.errors[0]
    return [future.result() for future in futures]
