# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The only place that imports MLflow."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from monai_diffrecon.errors import ConfigError


def mlflow_module() -> ModuleType:
    """Return MLflow with its telemetry off and its chatter about databases silenced.

    Telemetry stays on for who sets ``MLFLOW_DISABLE_TELEMETRY=false``.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow import telemetry

    # MONAI imports MLflow before us when a bundle runs: then it has not seen the variable yet.
    telemetry.set_telemetry_client()
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow 3 asks SQLAlchemy 2.1 for this at every query, and no user can help it.
    warnings.filterwarnings(
        "ignore", message="The ``noload`` loader strategy is deprecated", category=DeprecationWarning
    )
    return mlflow


def open_client(output_dir: Path, tracking_uri: str | None) -> Any:
    """Return an ``MlflowClient`` for a store, ``sqlite:///<output_dir>/mlflow.db`` unless given."""
    if tracking_uri is None:
        output_dir.mkdir(parents=True, exist_ok=True)
        tracking_uri = f"sqlite:///{output_dir.resolve() / 'mlflow.db'}"
    return mlflow_module().MlflowClient(tracking_uri=tracking_uri)


def experiment_id(client: Any, name: str, output_dir: Path) -> str:
    """Return the id of an experiment; a new one keeps its artifacts in ``<output_dir>/mlartifacts``.

    A server (``http``) decides itself where artifacts go.

    Raises:
        ConfigError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        remote = re.match(r"https?:", client.tracking_uri) is not None
        location = None if remote else (output_dir.resolve() / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have been quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            "the experiment was deleted in MLflow",
            where="experiment",
            got=repr(name),
            mend="restore it, or name another",
        )
    return str(found.experiment_id)
