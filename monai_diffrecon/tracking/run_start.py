# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Starting a run of MLflow, or going on with one, under a claim."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from filelock import Timeout

from monai_diffrecon.errors import InputError
from monai_diffrecon.tracking.mlflow_client import is_missing, mlflow_module
from monai_diffrecon.tracking.run_claim import RunClaim


def start_run(
    client: Any, claim: RunClaim, experiment: str, name: str, tags: Mapping[str, str]
) -> tuple[str, OSError | None]:
    """Make a run; return its id, and why there is no claim on it.

    Args:
        client: an ``MlflowClient``.
        claim: not taken yet.
        experiment: id of the experiment.
        name: name of the run.
        tags: tags to begin with.
    """
    unclaimed = None
    try:
        claim.take()
    except OSError as error:
        unclaimed = error
    marked = {**tags, "diffrecon.claim": claim.mark}
    run_id = str(client.create_run(experiment, run_name=name, tags=marked).info.run_id)
    with suppress(OSError):  # then it keeps its first name, and the run is found by the mark
        claim.give(run_id)
    return run_id, unclaimed


def reopen_run(client: Any, claim: RunClaim, run_id: str) -> OSError | None:
    """Make a run RUNNING again; return why there is no claim on it.

    Raises:
        InputError: it is not in the store, or another process has it open.
    """
    try:
        client.get_run(run_id)
    except mlflow_module().exceptions.MlflowException as error:
        if not is_missing(error):
            raise
        raise InputError(
            "no such run in the MLflow store", where="run_id", got=run_id, mend="drop the id to start a new run"
        ) from None
    unclaimed = None
    try:
        claim.take(run_id)
    except Timeout:
        raise InputError(
            "the run is open in another process", where="run_id", got=run_id, mend="wait until it has ended"
        ) from None
    except OSError as error:
        unclaimed = error
    client.update_run(run_id, status="RUNNING")
    return unclaimed
