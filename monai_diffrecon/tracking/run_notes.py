# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a worker would log, kept until the driver logs it: a store that is a file has one writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_diffrecon.tracking.export_run import TrackedRun


class RunNotes:
    """Takes the calls of a :class:`~monai_diffrecon.tracking.export_run.TrackedRun`, and repeats them later.

    Args:
        run_name: name of the run.
        tags: initial tags.

    Attributes:
        run_id: None, there is no run yet.
        problems: none.
    """

    run_id: None = None
    problems: tuple[str, ...] = ()

    def __init__(self, run_name: str, tags: Mapping[str, Any]) -> None:
        self.run_name, self.tags = run_name, dict(tags)
        self._calls: list[tuple[str, tuple[Any, ...]]] = []
        self._error: str | None = None

    def __enter__(self) -> RunNotes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._error = None if kind is None else kind.__name__

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep parameters."""
        self._calls.append(("log_params", (dict(params),)))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Keep tags."""
        self._calls.append(("set_tags", (dict(tags),)))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep the metrics of one step."""
        self._calls.append(("log_metrics", (dict(metrics), step)))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keep the path of a file."""
        self._calls.append(("log_artifact", (str(path), folder)))

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Keep the hash of the input data."""
        self._calls.append(("log_dataset", (name, digest, dict(profile))))

    def log_note(self, text: str) -> None:
        """Keep the description."""
        self._calls.append(("log_note", (text,)))

    def replay(self, run: TrackedRun) -> None:
        """Open a run, log everything, and end it as the worker's ended."""
        with run:
            for name, values in self._calls:
                getattr(run, name)(*values)
            if self._error is not None:
                run.fail(self._error)


def is_server(tracking_uri: str | None) -> bool:
    """Say whether many processes may log to a store at once, from several computers."""
    return (tracking_uri or "").partition(":")[0] in ("http", "https", "databricks")
