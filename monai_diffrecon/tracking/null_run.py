# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The run that is not tracked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class NullRun:
    """Has the interface of ``TrackedRun`` and does nothing; for when tracking is off.

    Attributes:
        run_id: None.
        problems: empty.
    """

    run_id: None = None
    problems: tuple[str, ...] = ()

    def __enter__(self) -> NullRun:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let exceptions pass."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""
