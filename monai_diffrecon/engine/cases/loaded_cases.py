# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Loads cases one by one; a case that cannot be loaded does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from monai_diffrecon.errors import DiffReconError, common_kind
from monai_diffrecon.errors.uncaught import users_error


class LoadedCases:
    """Iterates over a loader; yields the error of a case that cannot be loaded in its place.

    Args:
        loader: batches of one case.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        """Yield batches and ``DiffReconError``; any other exception is raised."""
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                found = users_error(error)
                if found is None:
                    raise
                batch = found
            yield batch


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
