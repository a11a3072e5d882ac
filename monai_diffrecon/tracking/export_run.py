# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One case as one run of MLflow."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

from monai_diffrecon._version import __version__
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.tracking.markdown import RUN_ID
from monai_diffrecon.tracking.mlflow_client import (
    MAX_KEY,
    check_client,
    cut,
    experiment_id,
    find_run,
    flatten,
    key_text,
    open_client,
    refused,
    root_of,
    tag_rows,
)
from monai_diffrecon.tracking.run_claims import TAG, RunClaim, sweep

logger = logging.getLogger(__name__)
P = ParamSpec("P")

_MAX_METRICS, _MAX_ROWS, _MAX_PARAM, _MAX_NOTE = 1000, 100, 6000, 4500
_FLUSH_SECONDS = 10.0
_INCOMPLETE = "tracking incomplete"
#: What MLflow shows as the source of a run. Its own default is the path of a script.
_SOURCE = {"mlflow.source.name": f"monai_diffrecon {__version__}", "mlflow.source.type": "LOCAL"}


def _tolerated(method: Callable[Concatenate[TrackedRun, P], None]) -> Callable[Concatenate[TrackedRun, P], None]:
    """Skip a method if tracking is off; its exceptions are raised only if tracking is required."""

    @wraps(method)
    def call(run: TrackedRun, /, *values: P.args, **options: P.kwargs) -> None:
        if run._silent:
            return
        if run._client is None:
            raise ConfigError("used before it was entered", where="TrackedRun", mend="use it inside its with block")
        fault = _fault_of(lambda: method(run, *values, **options))
        if fault is not None:
            run._lose(fault)

    return call


class TrackedRun:
    """Context manager for one MLflow run; every call passes the run's id.

    MLflow's global "active run" is never used: after a crash, the next patient's case could continue it. The run ends
    FINISHED, FAILED on an exception, or KILLED on an interrupt or exit. A killed process leaves a claim in
    ``<output_dir>/.diffrecon/runs``; the next run there marks its runs KILLED. Metrics are sent in batches, every ten
    seconds and at the end of the run: sending one alone costs forty times as much. Paths are removed from parameters
    and tags.

    Unless ``required``, failures of MLflow, its database or the network do not stop the program: the first one is
    logged as a one-line warning and nothing more is sent, so that an unreachable server costs one timeout. A run that
    lost data ends FAILED with the tag ``error: tracking incomplete``.

    Args:
        output_dir: folder of the default store and of the artifacts.
        run_name: name of the run; never a patient's.
        track: False: nothing is tracked, and every call does nothing.
        experiment: MLflow's experiment; created if missing.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        parent_run_id: parent run of this one.
        run_id: existing run to continue instead of starting one.
        tags: initial tags.
        required: a tracking failure is an error.

    Attributes:
        run_id: the id of the run; None before entry, or if it could not be opened.
        problems: problems of the tracking, as short texts without paths; empty if there are none.

    Raises:
        InputError: on entry, ``run_id`` is not in the store, or is open in another process; or the default store cannot
            be in ``output_dir``.
        ConfigError: on entry, the experiment was deleted; by every call, before entry.
        ResourceError: if required, on entry, by every call and on exit, for any failure of MLflow.
    """

    def __init__(
        self,
        output_dir: str | Path,
        run_name: str,
        *,
        track: bool = True,
        experiment: str = "monai_diffrecon",
        tracking_uri: str | None = None,
        parent_run_id: str | None = None,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        required: bool = False,
    ) -> None:
        self.output_dir, self.run_name, self.experiment = Path(output_dir), run_name, experiment
        self.tracking_uri, self.required, self._resumed = tracking_uri, required, run_id
        self._tags = {
            **_SOURCE,
            **(tags or {}),
            **({} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}),
        }
        self.run_id: str | None = None
        self.problems: tuple[str, ...] = ()
        self._client: Any = None
        self._claims = self.output_dir / ".diffrecon" / "runs"
        self._claim = RunClaim(self._claims)
        self._track, self._silent = track, not track
        self._own_error: BaseException | None = None
        self._failure: str | None = None
        self._metrics: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> TrackedRun:
        if self._track:
            try:
                self.run_id, self._client = self._begin()
            except BaseException as error:
                self._claim.release()  # the file stays: the run may exist although the answer was lost
                if isinstance(error, DiffReconError) or not isinstance(error, Exception):
                    raise
                self._lose(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is None:
            return
        self._own_error = error
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        # Not an error's message, which may hold a file's name.
        reason = None if kind is None else kind.__name__
        ended, fault = False, None
        try:
            if not self._silent:
                fault = _fault_of(self._send)
            if kind is None and self._failure is not None:
                status, reason = "FAILED", self._failure
            elif kind is None and (fault or self.problems):
                status, reason = "FAILED", _INCOMPLETE
            late = _fault_of(lambda: self._end(status, reason))
            ended, fault = late is None, fault or late
        except BaseException:
            status = "KILLED"
            raise
        finally:
            self._claim.end(*(() if ended else ("FAILED" if status == "FINISHED" else status, reason or _INCOMPLETE)))
        if fault is not None:
            self._lose(fault)

    @_tolerated
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; nested ones become ``outer.inner``, long values are truncated to MLflow's limit."""
        from mlflow.entities import Param

        flat = flatten(redact(params))
        self._batches("params", [Param(key_text(name), cut(value, _MAX_PARAM)) for name, value in flat.items()])

    @_tolerated
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._batches("tags", [RunTag(*row) for row in tag_rows(tags).items()])

    @_tolerated
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Buffer the metrics of one step; they are sent in batches."""
        now = int(time.time() * 1000)
        self._metrics += [(key_text(name), float(value), now, int(step)) for name, value in metrics.items()]
        if len(self._metrics) >= _MAX_METRICS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._send()

    @_tolerated
    def flush(self) -> None:
        """Send the buffered metrics."""
        self._send()

    @_tolerated
    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts, or into a folder of them.

        Raises:
            InputError: no such file, if required.
        """
        if not Path(path).is_file():
            raise InputError("no such file", where=f"artifact {Path(path).name}")
        self._ask("log_artifact", str(path), folder)

    @_tolerated
    def log_dataset(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log the input data of the run by their hash; MLflow shows them as the run's dataset.

        Args:
            name: name of the data; never a patient's.
            digest: hash over the data, hexadecimal; MLflow keeps its first 32 digits.
            profile: further properties, such as the number of cases.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source, about = json.dumps({"sha256": digest}), json.dumps(redact(profile))
        data = Dataset(cut(name, MAX_KEY), digest[:32], "sha256", source, profile=about)
        self._ask("log_inputs", [DatasetInput(data, [InputTag("mlflow.data.context", "reconstruction")])])

    @_tolerated
    def log_note(self, text: str) -> None:
        """Set the description of the run, in Markdown, see :mod:`~monai_diffrecon.tracking.markdown`."""
        text = cut(redact(text), _MAX_NOTE).replace(RUN_ID, str(self.run_id))
        self._ask("set_tag", "mlflow.note.content", text)

    def fail(self, error: str) -> None:
        """Let the run end FAILED with the tag ``error``, without an exception."""
        self._failure = error

    def _begin(self) -> tuple[str, Any]:
        """Open the run under a claim; return its id and the client."""
        client = open_client(self.output_dir, self.tracking_uri)
        if self._resumed is None:
            experiment = experiment_id(client, self.experiment, self.output_dir)
        else:
            found = find_run(client, self._resumed)
            experiment = found.info.experiment_id
            self._claim = RunClaim(self._claims, found.data.tags.get(TAG))
        try:
            sweep(client, self._claims, self.tracking_uri)
        except Exception as error:
            logger.warning("tracking: runs of killed processes may stay RUNNING (%s)", type(root_of(error)).__name__)
        self._claim.take(self.tracking_uri, experiment)
        tags = tag_rows(self._tags | {TAG: self._claim.mark})
        if self._resumed is None:
            return str(client.create_run(experiment, run_name=self.run_name, tags=tags).info.run_id), client
        for name, value in tags.items():
            client.set_tag(self._resumed, name, value)
        client.update_run(self._resumed, status="RUNNING")
        return self._resumed, client

    def _end(self, status: str, reason: str | None) -> None:
        if reason is not None:
            self._ask("set_tag", "error", reason)
        self._ask("set_terminated", status)

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._metrics:
            self._ask("log_batch", metrics=[Metric(*row) for row in self._metrics[:_MAX_METRICS]], synchronous=True)
            del self._metrics[:_MAX_METRICS]
        self._flushed = time.monotonic()

    def _batches(self, kind: str, rows: list[Any]) -> None:
        for start in range(0, len(rows), _MAX_ROWS):
            self._ask("log_batch", **{kind: rows[start : start + _MAX_ROWS]}, synchronous=True)

    def _ask(self, request: str, *values: Any, **options: Any) -> None:
        check_client(self._client)
        getattr(self._client, request)(self.run_id, *values, **options)

    def _lose(self, fault: Exception) -> None:
        """Raise a failure if tracking is required, unless an error of the user is already being raised."""
        told = fault if isinstance(fault, DiffReconError) else refused(fault, self._own_error)
        how = "not tracked" if self._client is None else "not fully tracked"
        first, self.problems = not self.problems, self.problems or (f"{how}: {told.what}",)
        if self.required and self._own_error is None:
            raise told from (None if told is fault else fault)
        self._silent = True
        if first:
            logger.warning("this run is %s, but continues: %s", how, told)


def _fault_of(call: Callable[[], None]) -> Exception | None:
    """Return the exception of a call: of a server, a database, a disk, or a value that MLflow rejects."""
    try:
        call()
    except Exception as fault:
        return fault
    return None
