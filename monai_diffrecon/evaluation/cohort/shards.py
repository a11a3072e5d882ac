# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Shares of a cohort for several processes, and the locks of an output folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from monai_diffrecon.errors import BusyError, ConfigError
from monai_diffrecon.evaluation.cohort.spec import CohortCase
from monai_diffrecon.io.atomic import make_folder, told

_WHOLE = "evaluation.lock"


@dataclass(frozen=True)
class Shard:
    """One of several shares: of ``count`` shares the ``number``-th, from 1.

    Attributes:
        number: from 1 to ``count``.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Return the shard that ``i/n`` names.

        Raises:
            ConfigError: it names none.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(text))
        number, count = (int(word) for word in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(
                "not a shard",
                where="shard",
                expected="i/n with i from 1 to n",
                got=repr(text),
                mend="for a SLURM array: --array=1-n and --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, cases: Sequence[CohortCase]) -> list[CohortCase]:
        """Return its cases: every ``count``-th, in the order of the file."""
        return list(cases[self.number - 1 :: self.count])


@contextmanager
def evaluation_lock(output_dir: Path, shard: Shard | None) -> Iterator[None]:
    """Hold an output folder: alone, or with other shards of the same number of shares.

    The operating system frees the lock when the process ends, however it ends.

    Args:
        output_dir: the folder.
        shard: the shard; None for a whole cohort.

    Raises:
        BusyError: another process evaluates in it what this one would.
        ResourceError: the disk is full.
        InputError: the folder may not be written.
    """
    folder = make_folder(output_dir / ".diffrecon" / "locks")
    own = folder / (_WHOLE if shard is None else f"shard-{shard.number}-of-{shard.count}.lock")
    with _held(own):  # before a look at the others: of two that start at once, at least one sees the other
        for path in sorted({folder / _WHOLE, *folder.glob("shard-*.lock")} - {own}):
            if shard is None or not path.name.endswith(f"-of-{shard.count}.lock"):
                with _held(path):
                    pass
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        found = re.fullmatch(r"shard-([0-9]+)-of-([0-9]+)", path.stem)
        raise BusyError(
            "another process is evaluating in the same folder",
            where="output_dir",
            got="the whole cohort" if found is None else f"shard {found[1]}/{found[2]}",
            mend="wait until it ends, or choose another folder",
        ) from None
    except OSError as error:
        raise told(error, f"lock {path.name}") from error
    try:
        yield
    finally:
        lock.release()
