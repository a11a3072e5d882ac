# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Ending the runs of processes that died."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from monai_diffrecon.tracking.mlflow_client import is_missing
from monai_diffrecon.tracking.run_claim import WORD_BYTES, is_claim

_DAY = 86400.0


def sweep(client: Any, folder: Path) -> list[str]:
    """End every run whose claim nobody holds, and remove the claim.

    A run that is still RUNNING becomes KILLED, or what its process left word of. Runs that had ended are not touched,
    nor are claims of runs that this store does not know.

    Args:
        client: an ``MlflowClient``.
        folder: folder of the claims.

    Returns:
        The ids of the runs that were ended.

    Raises:
        OSError: the folder cannot be read, or a claim not be removed.
        MlflowException: the store refuses.
    """
    ended: list[str] = []
    if not folder.is_dir():
        return ended
    for path in sorted(folder.iterdir()):
        if is_claim(path.name):
            ended += _settle(client, path)
    return ended


def _settle(client: Any, path: Path) -> list[str]:
    """End the run of one claim if its process is dead; return its id if it had to be ended."""
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        before = path.stat().st_ino
        lock.acquire()
    except (Timeout, FileNotFoundError):
        return []  # its process lives, and it may be this one; or it has just ended
    try:
        if path.stat().st_ino != before:
            path.unlink()  # taking the lock made it anew: its process has just given it its run's name
            return []
        run = _run_of(client, path)
        if run is None:
            # One of a run that was never made; the day is for runs of another store.
            if path.name.startswith("new-") and time.time() - path.stat().st_mtime > _DAY:
                path.unlink(missing_ok=True)
            return []
        dead = run.info.status == "RUNNING" and run.info.lifecycle_stage == "active"
        if dead:
            _end(client, run.info.run_id, path)
        path.unlink(missing_ok=True)
        return [run.info.run_id] if dead else []
    finally:
        lock.release(force=True)


def _run_of(client: Any, path: Path) -> Any:
    """Return the run of a claim, or None when the store does not know it."""
    from mlflow.exceptions import MlflowException

    if path.name.startswith("new-"):
        mark = path.name.removeprefix("new-")
        experiments = [e.experiment_id for e in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`diffrecon.claim` = '{mark}'", max_results=1)
        return found[0] if found else None
    try:
        return client.get_run(path.name)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def _end(client: Any, run_id: str, path: Path) -> None:
    status, reason = "KILLED", "process died"
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(WORD_BYTES).strip() or b"{}")
        if said.get("status") in ("FAILED", "KILLED"):
            status, reason = said["status"], str(said.get("error", reason))[:100]
    except (ValueError, AttributeError):
        pass  # half written by a process that died while it wrote: it died
    client.set_tag(run_id, "error", reason)
    client.set_terminated(run_id, status)
