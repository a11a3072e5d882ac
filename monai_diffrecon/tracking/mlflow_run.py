# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One MLflow run with an explicit id."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_diffrecon.errors import ConfigError, InputError, ResourceError
from monai_diffrecon.tracking.mlflow_client import experiment_id, mlflow_module, open_client
from monai_diffrecon.tracking.null_run import NullRun
from monai_diffrecon.tracking.redaction import redact

__all__ = ["NullRun", "TrackedRun", "flatten"]

logger = logging.getLogger(__name__)

_MAX_METRICS, _MAX_PARAMS, _MAX_KEY, _MAX_PARAM, _MAX_TAG = 1000, 100, 250, 6000, 5000
_FLUSH_SECONDS = 10.0


class TrackedRun:
    """Context manager around one MLflow run; every call names the run's id.

    MLflow's global "active run" is never used: it would let a crashed case continue as the next patient's. The
    run ends FINISHED, FAILED on an exception, and KILLED on an interrupt or exit. Numbers are buffered and sent
    in batches (a single ``log_metric`` costs forty times a batch's share), at the latest when the run ends.
    Paths are taken out of parameters and tags.

    Args:
        output_dir: folder of the default store and of the artifacts.
        experiment: MLflow's experiment; made when missing.
        run_name: name of the run; never a patient's.
        parent_run_id: run that this one is nested under.
        run_id: go on with this run instead of starting one.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        tags: tags to begin with.

    Raises:
        InputError: on entry, ``run_id`` is not in the store.
        ConfigError: on entry, the experiment was deleted.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        run_name: str,
        experiment: str = "monai_diffrecon",
        parent_run_id: str | None = None,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir, self.run_name, self.experiment = Path(output_dir), run_name, experiment
        self.parent_run_id, self.tracking_uri = parent_run_id, tracking_uri
        self._tags = dict(tags or {})
        self._resumed, self._run_id = run_id, None if run_id is None else str(run_id)
        self._client: Any = None
        self._metrics: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    @property
    def run_id(self) -> str:
        """The id of the run.

        Raises:
            ConfigError: it has not begun.
        """
        if self._run_id is None:
            raise ConfigError("used before it began", where="TrackedRun", mend="use it within its with block")
        return self._run_id

    def __enter__(self) -> TrackedRun:
        self._client = open_client(self.output_dir, self.tracking_uri)
        tags = self._tags | ({} if self.parent_run_id is None else {"mlflow.parentRunId": self.parent_run_id})
        if self._resumed is None:
            experiment = experiment_id(self._client, self.experiment, self.output_dir)
            clean = {_key(name): _cut(redact(value), _MAX_TAG) for name, value in tags.items()}
            self._run_id = self._client.create_run(experiment, run_name=self.run_name, tags=clean).info.run_id
        else:
            self._reopen(self._resumed, tags)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        try:
            if kind is not None:
                self.set_tags({"error": kind.__name__})  # not its message, which may hold a file's name
            self.flush()
        except Exception:
            status = "FAILED" if status == "FINISHED" else status
            if kind is None:
                raise
            # The exception under way tells more than this one.
            logger.warning("tracking: the last numbers of a run are lost", exc_info=True)
        finally:
            self._client.set_terminated(self.run_id, status)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; nested ones become ``outer.inner``, long values are cut at MLflow's limit.

        Raises:
            ResourceError: MLflow refuses, since a parameter was logged with another value for instance.
        """
        from mlflow.entities import Param

        rows = [Param(_key(name), _cut(value, _MAX_PARAM)) for name, value in flatten(redact(params)).items()]
        for start in range(0, len(rows), _MAX_PARAMS):
            self._send(params=rows[start : start + _MAX_PARAMS])

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Buffer one number of a step."""
        self.log_metrics({name: value}, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Buffer numbers of one step."""
        now = int(time.time() * 1000)
        self._metrics += [(_key(name), float(value), now, int(step)) for name, value in metrics.items()]
        if len(self._metrics) >= _MAX_METRICS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        rows = [RunTag(_key(name), _cut(redact(value), _MAX_TAG)) for name, value in tags.items()]
        for start in range(0, len(rows), _MAX_PARAMS):
            self._send(tags=rows[start : start + _MAX_PARAMS])

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts, or into a folder of them.

        Raises:
            InputError: no such file.
        """
        if not Path(path).is_file():
            raise InputError("no such file", where=f"artifact {Path(path).name}")
        self._call(lambda: self._client.log_artifact(self.run_id, str(path), folder))

    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log what the run was computed from, by its hash; MLflow shows it as the run's dataset.

        Args:
            name: name of the data; never a patient's.
            digest: hash over the data, hexadecimal; MLflow keeps its first 32 digits.
            profile: what else may be known of it, the number of cases for instance.
        """
        from mlflow.entities import Dataset, DatasetInput

        source = json.dumps({"sha256": digest})
        data = Dataset(_cut(name, _MAX_KEY), digest[:32], "sha256", source, profile=json.dumps(redact(profile)))
        self._call(lambda: self._client.log_inputs(self.run_id, [DatasetInput(data)]))

    def flush(self) -> None:
        """Send the buffered numbers."""
        from mlflow.entities import Metric

        while self._metrics:
            self._send(metrics=[Metric(*row) for row in self._metrics[:_MAX_METRICS]])
            del self._metrics[:_MAX_METRICS]
        self._flushed = time.monotonic()

    def _reopen(self, run_id: str, tags: Mapping[str, Any]) -> None:
        try:
            self._client.get_run(run_id)
        except mlflow_module().exceptions.MlflowException:
            raise InputError(
                "no such run in the MLflow store", where="run_id", got=run_id, mend="drop the id to start a new run"
            ) from None
        self.set_tags(tags)
        self._client.update_run(run_id, status="RUNNING")

    def _send(self, **batch: Any) -> None:
        self._call(lambda: self._client.log_batch(self.run_id, synchronous=True, **batch))

    def _call(self, request: Callable[[], object]) -> None:
        if self._client is None:
            raise ConfigError("used before it began", where="TrackedRun", mend="use it within its with block")
        try:
            request()
        except mlflow_module().exceptions.MlflowException as error:
            raise ResourceError(
                "MLflow refused",
                where="tracking",
                got=redact(str(error).splitlines()[0][:300]),
                mend="check the store, or switch tracking off",
            ) from error


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


def _key(name: str) -> str:
    """Return a name of MLflow's alphabet."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:_MAX_KEY]


def _cut(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
