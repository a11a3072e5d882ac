# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A run that is tracked, or one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.tracking.mlflow_run import TrackedRun
from monai_diffrecon.tracking.null_run import NullRun


def open_run(
    output_dir: Path,
    run_name: str,
    *,
    track: bool,
    experiment: str,
    tracking_uri: str | None,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> TrackedRun | NullRun:
    """Return a run of MLflow to be entered; one that does nothing when ``track`` is False."""
    if not track:
        return NullRun()
    return TrackedRun(
        output_dir,
        experiment=experiment,
        run_name=run_name,
        parent_run_id=parent_run_id,
        tracking_uri=tracking_uri,
        tags=dict(tags or {}),
    )
