# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MLflow client: quiet, with bounded waits and one-line errors."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from monai_diffrecon.errors import ConfigError, InputError, ResourceError
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.tracking.store_file import check_address, check_store, make_store, relocate, store_file

MAX_KEY, _MAX_TAG, _MAX_TEXT = 250, 5000, 300

#: The tag of an experiment by which MLflow's pages open on runs and metrics, and not on traces of chat models.
KIND = {"mlflow.experimentKind": "custom_model_development"}

#: MLflow's settings unless the user has set them: an unreachable server costs ten seconds, not twenty minutes.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # A server's "Retry-After" may be an hour.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # The URL may hold a user's name, and stdout is the command's.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def mlflow_module() -> ModuleType:
    """Return MLflow with telemetry off, bounded waits, and messages about databases and retries silenced.

    Settings from the environment, such as ``MLFLOW_DISABLE_TELEMETRY=false``, take precedence.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow import telemetry

    # MONAI imports MLflow before us when a bundle runs: then it has not seen the variable yet.
    telemetry.set_telemetry_client()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a traceback, with the values it could not write; what it raises then is told in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    retries = logging.getLogger("urllib3.connectionpool")
    if _is_no_retry not in retries.filters:
        retries.addFilter(_is_no_retry)
    # MLflow 3 asks SQLAlchemy 2.1 for this at every query, and no user can help it.
    warnings.filterwarnings(
        "ignore", message="The ``noload`` loader strategy is deprecated", category=DeprecationWarning
    )
    return mlflow


def _is_no_retry(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "/mlflow/" not in record.getMessage()


def open_client(output_dir: Path, tracking_uri: str | None) -> Any:
    """Return an ``MlflowClient`` for a store, ``sqlite:///<output_dir>/mlflow.db`` unless given.

    Raises:
        InputError: the default store cannot be in ``output_dir``, whose path does not fit into its address.
        sqlite3.Error: the database is locked or damaged.
        OSError: the folder cannot be written.
    """
    if tracking_uri is None:
        check_address(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        tracking_uri = f"sqlite:///{output_dir.resolve() / 'mlflow.db'}"
    mlflow = mlflow_module()
    file = store_file(tracking_uri)
    if file is not None:
        make_store(file)
        check_store(file)
        relocate(file)
    return mlflow.MlflowClient(tracking_uri=tracking_uri)


def check_client(client: Any) -> None:
    """Check that a client's database, if it is a file, can be written to; MLflow would wait longer.

    Raises:
        sqlite3.Error: it is locked or damaged.
        FileNotFoundError: it is gone.
    """
    file = store_file(str(client.tracking_uri))
    if file is not None:
        if not file.exists():
            raise FileNotFoundError("the store's file is missing")
        check_store(file)


def find_run(client: Any, run_id: str) -> Any:
    """Return a run.

    Raises:
        InputError: it is not in the store.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            "no such run in the MLflow store", where="run_id", got=run_id, mend="drop the id to start a new run"
        ) from None


def experiment_id(client: Any, name: str, output_dir: Path) -> str:
    """Return the id of an experiment; a new one keeps its artifacts in ``<output_dir>/mlartifacts``.

    A server (``http``) decides itself where artifacts go. An experiment without a kind becomes one of model training.

    Raises:
        ConfigError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        remote = re.match(r"https?:", client.tracking_uri) is not None
        location = None if remote else (output_dir.resolve() / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=KIND))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have created it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            "the experiment was deleted in MLflow",
            where="experiment",
            got=repr(name),
            mend="restore it, or choose another",
        )
    if not KIND.keys() & found.tags.keys():
        with suppress(MlflowException):  # a server may not let everyone change experiments
            client.set_experiment_tag(found.experiment_id, *next(iter(KIND.items())))
    return str(found.experiment_id)


def refused(error: Exception, own: BaseException | None = None) -> ResourceError:
    """Return a one-line error for an exception of MLflow, its database or the network; see :func:`root_of`."""
    root = root_of(error, own)
    lines = str(root if isinstance(root, OSError | sqlite3.OperationalError) else error).strip().splitlines()
    return ResourceError(
        f"MLflow refused ({type(root).__name__})",
        where="tracking",
        got=redact(lines[0])[:_MAX_TEXT] if lines else type(error).__name__,
        mend="check the store, or disable tracking",
    )


def root_of(error: BaseException, own: BaseException | None = None) -> BaseException:
    """Return the root cause of an error: MLflow wraps all exceptions in one class of its own.

    Args:
        error: what MLflow raised.
        own: an error of the user's that was under way, which is the cause of none.
    """
    chain = [error]
    while True:
        deeper = chain[-1].__cause__ or chain[-1].__context__
        # A look-up that was tried on the way is no cause either.
        if deeper is None or deeper is own or deeper in chain or isinstance(deeper, KeyError | AttributeError):
            return chain[-1]
        chain.append(deeper)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as text by dotted name; a list stays one value unless it holds mappings."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(k): v for k, v in enumerate(value)}, f"{key}.")
        else:
            flat[key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def tag_rows(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags without paths, as text."""
    return {key_text(name): cut(redact(value), _MAX_TAG) for name, value in tags.items()}


def key_text(name: str) -> str:
    """Return a name of MLflow's alphabet."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:MAX_KEY]


def cut(value: Any, limit: int) -> str:
    """Return a value as text of at most ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
