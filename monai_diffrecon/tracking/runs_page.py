# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where a browser shows the runs of an experiment."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from monai_diffrecon.tracking.mlflow_client import open_client

#: Where ``mlflow ui`` serves a store that is a file.
_LOCAL = "http://127.0.0.1:5000"


def runs_page(output_dir: Path, tracking_uri: str | None = None, experiment: str = "monai_diffrecon") -> str | None:
    """Return the address of the page with the runs of an experiment, without a user's name or password.

    MLflow 3 opens on pages for chat models unless an address says otherwise.

    Args:
        output_dir: folder of the default store.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: name of the experiment.

    Returns:
        The address; None if the store cannot be read or has no such experiment, which a run has warned about, and
            for Databricks, which has other addresses.
    """
    try:
        found = open_client(output_dir, tracking_uri).get_experiment_by_name(experiment)
    except Exception:
        return None
    if found is None or (tracking_uri or "").startswith("databricks"):
        return None
    server, parts = _LOCAL, urlsplit(tracking_uri or "")
    if parts.scheme in ("http", "https"):
        server = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    return f"{server}/#/experiments/{found.experiment_id}?workflowType=machine_learning"
