# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Claims of running processes on their runs, and ending the runs of dead processes."""

from __future__ import annotations

import json
import logging
import re
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from monai_diffrecon.errors import InputError

logger = logging.getLogger(__name__)

#: The tag by which a run carries the mark of its claim.
TAG = "diffrecon.claim"
_MARK = "[0-9a-f]{32}"
#: Size of a claim in bytes, reserved so that its final content fits even if the disk is full.
_BYTES = 1000
_SECONDS = 5.0


class RunClaim:
    """A file that is locked while a run is open, so that other processes can tell if its process died.

    The operating system releases the lock when the process ends, however it ends. The claim is taken before the run is
    made, which carries its mark as a tag: at no moment can a process die and its run be lost. It names its host, since
    a lock may not be seen from another one, the store (by a hash: its URI may hold a password) and the experiment.

    Args:
        folder: folder of all claims.
        mark: 32 hexadecimal digits, the name of the file; random unless given.
    """

    def __init__(self, folder: Path, mark: str | None = None) -> None:
        self.mark = mark if mark is not None and re.fullmatch(_MARK, mark) else uuid4().hex
        self._path = folder / self.mark
        self._lock: FileLock | None = None
        self._said: dict[str, str] = {}

    def take(self, store: str | None, experiment: str) -> None:
        """Take it, for a run that is about to be opened; where no file can be written a warning is logged.

        Raises:
            InputError: another process has it, or this process has in another object.
        """
        # Not per thread: a run may be closed by another thread than the one that opened it.
        lock = FileLock(self._path, timeout=_SECONDS, thread_local=False)
        self._said = {"host": socket.gethostname(), "store": _digest(store), "experiment": experiment}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self._lock = lock
            self._path.write_bytes(json.dumps(self._said).encode().ljust(_BYTES))
        except Timeout:
            raise InputError("the run is open in another process", where="run_id", mend="wait until it ends") from None
        except OSError as error:
            logger.warning("tracking: the run will stay RUNNING if this process is killed (%s)", type(error).__name__)
            self.end()

    def end(self, status: str | None = None, error: str = "") -> None:
        """Release the claim, and remove it unless the store has yet to be told how the run ended.

        Args:
            status: status that the next sweep sets in the store; None: already set.
            error: the tag ``error`` that goes with it.
        """
        try:
            if self._lock is not None and status is None:
                self._path.unlink(missing_ok=True)
            elif self._lock is not None:
                with self._path.open("r+b") as file:
                    file.write(
                        json.dumps({**self._said, "status": status, "error": error[:100]}).encode().ljust(_BYTES)
                    )
        except OSError as fault:
            logger.warning("tracking: the claim of a run remains; the next run handles it (%s)", type(fault).__name__)
        finally:
            self.release()

    def release(self) -> None:
        """Release the claim but leave the file, as if the process had died."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release(force=True)


def sweep(client: Any, folder: Path, store: str | None) -> None:
    """End every run of this host and store whose claim is not locked, and remove the claim.

    A RUNNING run becomes KILLED, or gets the status stored in its claim. Finished runs are not changed.

    Args:
        client: an ``MlflowClient`` of the store.
        folder: folder of the claims.
        store: URI of the store; None for the default one.

    Raises:
        OSError: the folder cannot be read, or a claim not be removed.
        MlflowException: the store refuses.
    """
    ours = (socket.gethostname(), _digest(store))
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        said = _read(path) if re.fullmatch(_MARK, path.name) else {}
        if (said.get("host"), said.get("store")) == ours:
            _settle(client, path)


def _settle(client: Any, path: Path) -> None:
    """End the run of one claim if its process is dead."""
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return  # its process lives, and it may be this one
    try:
        said = _read(path)  # empty: its run has just ended, and locking recreated the file
        found = client.search_runs([said["experiment"]], f"tags.`{TAG}` = '{path.name}'") if said else ()
        for run in found:
            if run.info.status == "RUNNING":
                client.set_tag(run.info.run_id, "error", said.get("error", "process died"))
                client.set_terminated(run.info.run_id, "FAILED" if said.get("status") == "FAILED" else "KILLED")
        path.unlink(missing_ok=True)
    finally:
        lock.release(force=True)


def _read(path: Path) -> dict[str, str]:
    """Return the content of a claim, empty if it is damaged or gone (it may then belong to any host)."""
    try:
        said = json.loads(path.read_bytes()[:_BYTES])
        return {name: str(said[name]) for name in said} if {"host", "store", "experiment"} <= said.keys() else {}
    except (ValueError, AttributeError, FileNotFoundError):
        return {}


def _digest(store: str | None) -> str:
    return sha256((store or "").encode()).hexdigest()[:16]
