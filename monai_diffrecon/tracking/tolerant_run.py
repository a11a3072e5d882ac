# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A run whose faults stop nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, ResourceError
from monai_diffrecon.tracking.mlflow_run import TrackedRun
from monai_diffrecon.tracking.tracking_fault import cause, first_line

logger = logging.getLogger(__name__)


class TolerantRun:
    """Has the interface of ``TrackedRun``; what cannot be tracked is warned of, and the reconstruction goes on.

    The first fault is told in one line. After it nothing more is sent, so that a server which is down is waited for
    once and not at every call; only how the run ended is still tried. A run that lost something ends FAILED with the
    tag ``error: tracking incomplete``.

    What the user has set wrongly stays an error: an experiment that was deleted, a run that is not in the store.

    Args:
        run: the run, not entered yet.

    Raises:
        InputError: on entry, as ``TrackedRun``.
        ConfigError: on entry, as ``TrackedRun``.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._open = False
        self._problems: tuple[str, ...] = ()

    @property
    def run_id(self) -> str | None:
        """The id of the run, or None when it could not be opened."""
        return self._run.run_id if self._open else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the tracking, in short words without paths; empty when all is well."""
        return self._problems

    def __enter__(self) -> TolerantRun:
        try:
            self._run.__enter__()
            self._open = True
        except (ConfigError, InputError):
            raise
        except Exception as error:
            self._lose(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._open:
            return
        try:
            self._run.__exit__(kind, error, traceback)
        except Exception as fault:
            self._lose(fault)
        if self._run.fault is not None:  # beside the user's own error, which tells more
            self._problems = self._problems or (_problem("not fully tracked", self._run.fault),)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, see ``TrackedRun``."""
        self._try(lambda: self._run.log_params(params))

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Buffer one number of a step."""
        self._try(lambda: self._run.log_metric(name, value, step))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Buffer numbers of one step."""
        self._try(lambda: self._run.log_metrics(metrics, step))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._try(lambda: self._run.set_tags(tags))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts, or into a folder of them."""
        self._try(lambda: self._run.log_artifact(path, folder))

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log what the run was computed from, see ``TrackedRun``."""
        self._try(lambda: self._run.log_dataset(name, digest, profile))

    def flush(self) -> None:
        """Send the buffered numbers."""
        self._try(self._run.flush)

    def _try(self, call: Callable[[], None]) -> None:
        if not self._open or self._problems:
            return
        try:
            call()
        except Exception as error:  # a server, a database, a disk, a value that MLflow does not take
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._run.silent = True
        if self._problems:
            return
        how = "not fully tracked" if self._open else "not tracked"
        self._problems = (_problem(how, error),)
        text = str(error) if isinstance(error, DiffReconError) else f"{type(error).__name__}: {first_line(error)}"
        logger.warning("this run is %s, and goes on: %s", how, text)


def _problem(how: str, error: Exception) -> str:
    # Only what MLflow, its database or the network raised is a ResourceError.
    said = f"MLflow refused ({cause(error)})" if isinstance(error, ResourceError) else type(error).__name__
    return f"{how}: {said}"
