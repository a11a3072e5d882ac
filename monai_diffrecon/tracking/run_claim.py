# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The claim of a living process on its run."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

#: What is said of a run has at most this many bytes.
WORD_BYTES = 1000
_SECONDS = 5.0


class RunClaim:
    """A file that is locked for as long as a run is open, so that others see when its process has died.

    The operating system lets go of the lock when the process ends, however it ends. The claim is taken before the
    run is made, under the name ``new-<mark>``; the run carries the mark as its tag ``diffrecon.claim``. Then it gets
    the run's name. So there is no moment in which a process can die and its run be lost sight of.

    Args:
        folder: folder of all claims.

    Attributes:
        mark: random hexadecimal digits.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid4().hex
        self._lock: FileLock | None = None
        self._path: Path | None = None

    def take(self, run_id: str | None = None) -> None:
        """Take it, for a run that is about to be made unless its id is given.

        Raises:
            filelock.Timeout: another process has it, or this process has in another object.
            OSError: the file cannot be made.
        """
        name = f"new-{self.mark}" if run_id is None else run_id
        if not is_claim(name):
            raise OSError("an id that is no file's name")
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not per thread: a run may be closed by another thread than the one that opened it.
        lock = FileLock(self.folder / name, timeout=_SECONDS, thread_local=False)
        lock.acquire()
        self._lock, self._path = lock, self.folder / name
        with suppress(OSError):  # the claim holds without it
            self._path.write_bytes(b" " * WORD_BYTES)  # room for a last word, which is needed when the disk is full

    def give(self, run_id: str) -> None:
        """Give it the name of the run that was made; the lock stays.

        Raises:
            OSError: it cannot be renamed; the run is found by its mark all the same.
        """
        if self._path is not None and is_claim(run_id):
            self._path = self._path.rename(self.folder / run_id)

    def end(self) -> None:
        """Remove it: the run has ended, and the store knows."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.release()

    def leave(self, status: str, error: str) -> None:
        """Let go of it but leave the file, with what the store has still to be told of the run."""
        try:
            if self._path is not None:
                word = json.dumps({"status": status, "error": error[:100]}).encode()
                with self._path.open("r+b") as file:
                    file.write(word.ljust(WORD_BYTES))
        finally:
            self.release()

    def release(self) -> None:
        """Let go of it but leave the file, as if the process had died."""
        lock, self._lock, self._path = self._lock, None, None
        if lock is not None:
            lock.release(force=True)


def is_claim(name: str) -> bool:
    """Return whether a file's name is a claim's."""
    return re.fullmatch(r"(new-)?[0-9a-f]{32}", name) is not None
