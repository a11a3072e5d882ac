# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Loads cases one by one; a case that cannot be loaded does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from monai_diffrecon import distributed
from monai_diffrecon.errors import DiffReconError, common_kind
from monai_diffrecon.errors.uncaught import users_error


class LoadedCases:
    """Iterates over a loader; yields the error of a case that cannot be loaded in its place.

    Args:
        loader: batches of one case.

    Attributes:
        apart: this process takes every n-th case only, where n is the number of processes.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.apart = loader, False

    def __iter__(self) -> Iterator[Any]:
        """Yield batches and ``DiffReconError``, and None for a case of another process.

        Any other exception is raised.
        """
        every, turn = (distributed.processes(), distributed.rank()) if self.apart else (1, 0)
        own = _own_cases(self.loader, turn, every)
        batches = iter(self.loader if own is None else own)
        for index in count():
            mine = index % every == turn
            if own is not None and not mine:  # it is not loaded
                yield None
                continue
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                found = users_error(error)
                if found is None:
                    raise
                batch = found
            yield batch if mine else None


def _own_cases(loader: Iterable[Any], turn: int, every: int) -> Iterable[Any] | None:
    """Return a loader of every n-th case, or None where only a whole loader can be iterated over."""
    dataset = getattr(loader, "dataset", None)
    if every == 1 or not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset):
        return None
    if loader.batch_sampler is None:
        return None
    return DataLoader(
        loader.dataset,
        batch_sampler=distributed.from_first(list(loader.batch_sampler))[turn::every],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def raise_for(failures: list[DiffReconError], count: int) -> None:
    """Raise one error for all failed cases, of their class if they share one.

    Args:
        failures: the error of each failed case.
        count: number of cases.

    Raises:
        DiffReconError: at least one case failed.
    """
    if failures:
        kind = common_kind([error.exit_code for error in failures])
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise kind(
            f"{len(failures)} of {count} cases failed",
            where="cases",
            got="; ".join(str(error)[:120] for error in failures[:3]) + more,
            mend="fix these and run the same command again; it computes only what is missing",
        ) from failures[0]
