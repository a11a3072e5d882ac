# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A run that is tracked, or one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.tracking.mlflow_run import TrackedRun
from monai_diffrecon.tracking.null_run import NullRun
from monai_diffrecon.tracking.store_file import check_address
from monai_diffrecon.tracking.tolerant_run import TolerantRun


def open_run(
    output_dir: Path,
    run_name: str,
    *,
    track: bool,
    experiment: str,
    tracking_uri: str | None,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    required: bool = False,
) -> TrackedRun | TolerantRun | NullRun:
    """Return a run of MLflow to be entered.

    Args:
        output_dir: folder of the default store and of the artifacts.
        run_name: name of the run; never a patient's.
        track: False returns a run that does nothing.
        experiment: MLflow's experiment.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        parent_run_id: run that this one is nested under.
        tags: tags to begin with.
        required: a fault of tracking is an error; else it is warned of once, and what is tracked goes on.

    Raises:
        InputError: the default store cannot be in ``output_dir``, whose path does not fit into its address.
    """
    if not track:
        return NullRun()
    if tracking_uri is None:
        check_address(output_dir)
    run = TrackedRun(
        output_dir,
        experiment=experiment,
        run_name=run_name,
        parent_run_id=parent_run_id,
        tracking_uri=tracking_uri,
        tags=dict(tags or {}),
    )
    return run if required else TolerantRun(run)
