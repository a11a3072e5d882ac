# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A lock that allows one process per case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from monai_diffrecon.errors import BusyError
from monai_diffrecon.io.atomic import make_folder, told


@contextmanager
def case_lock(folder: str | Path, case: str) -> Iterator[None]:
    """Hold the lock of a case in an output folder, so that no other process writes the same files.

    The operating system frees it when the process ends, however it ends. The empty lock file stays: to remove it
    would open a gap in which two processes hold a lock of the same name.

    Args:
        folder: the output folder.
        case: name of the case.

    Raises:
        BusyError: another process holds it.
        ResourceError: the disk is full.
        InputError: the folder may not be written.
    """
    path = make_folder(Path(folder) / ".diffrecon" / "locks") / f"{case}.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            "another process is reconstructing this case in the same folder",
            where=f"case {case}",
            mend="wait for it, or choose another output_dir",
        ) from None
    except OSError as error:
        raise told(error, f"lock of case {case}") from error
    try:
        yield
    finally:
        lock.release()
