# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One MLflow run with an explicit id."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.tracking.mlflow_client import check_client, experiment_id, open_client
from monai_diffrecon.tracking.mlflow_text import MAX_KEY, cut, flatten, key_text
from monai_diffrecon.tracking.null_run import NullRun
from monai_diffrecon.tracking.redaction import redact
from monai_diffrecon.tracking.run_claim import RunClaim
from monai_diffrecon.tracking.run_start import reopen_run, start_run
from monai_diffrecon.tracking.sweep import sweep
from monai_diffrecon.tracking.tracking_fault import cause, refused

__all__ = ["NullRun", "TrackedRun", "flatten"]

logger = logging.getLogger(__name__)

_MAX_METRICS, _MAX_PARAMS, _MAX_PARAM, _MAX_TAG = 1000, 100, 6000, 5000
_FLUSH_SECONDS = 10.0
_UNSAID = "tracking incomplete"


class TrackedRun:
    """Context manager around one MLflow run; every call names the run's id.

    MLflow's global "active run" is never used: it would let a crashed case continue as the next patient's. The
    run ends FINISHED, FAILED on an exception, and KILLED on an interrupt or exit. Numbers are buffered and sent
    in batches (a single ``log_metric`` costs forty times a batch's share), at the latest when the run ends.
    Paths are taken out of parameters and tags. A run of which something was refused never ends FINISHED.

    As long as it is open it holds a claim in ``<output_dir>/.diffrecon/runs``; when it opens, the runs of processes
    that died are ended.

    Args:
        output_dir: folder of the default store and of the artifacts.
        experiment: MLflow's experiment; made when missing.
        run_name: name of the run; never a patient's.
        parent_run_id: run that this one is nested under.
        run_id: go on with this run instead of starting one.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        tags: tags to begin with.

    Attributes:
        silent: set it to send nothing more but how the run ended, which then is not FINISHED.
        fault: what could not be said when it ended, or None.
        problems: empty; what cannot be tracked is an error here.

    Raises:
        InputError: on entry, ``run_id`` is not in the store, or is open in another process.
        ConfigError: on entry, the experiment was deleted.
        ResourceError: on entry, by every call and on exit, whatever else MLflow, its database or the network does.
    """

    problems: tuple[str, ...] = ()

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
        self._claim = RunClaim(self.output_dir / ".diffrecon" / "runs")
        self._lost = self.silent = False
        self.fault: Exception | None = None

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
        try:
            self._client = open_client(self.output_dir, self.tracking_uri)
            tags = self._tags | ({} if self.parent_run_id is None else {"mlflow.parentRunId": self.parent_run_id})
            if self._resumed is None:
                experiment = experiment_id(self._client, self.experiment, self.output_dir)
                clean = {key_text(name): cut(redact(value), _MAX_TAG) for name, value in tags.items()}
                self._run_id, unclaimed = start_run(self._client, self._claim, experiment, self.run_name, clean)
            else:
                unclaimed = reopen_run(self._client, self._claim, self._resumed)
                self.set_tags(tags)
        except BaseException as error:
            self._claim.release()  # the file stays: the run may have been made, and the answer be lost
            if isinstance(error, DiffReconError) or not isinstance(error, Exception):
                raise
            raise refused(error) from error
        if unclaimed is not None:
            logger.warning("tracking: a run stays RUNNING should this process be killed (%s)", cause(unclaimed))
        try:
            sweep(self._client, self._claim.folder)
        except Exception as error:
            logger.warning("tracking: runs of processes that died may stay RUNNING (%s)", cause(error))
        except BaseException as error:  # the with block is not entered, so it is not left either
            self._lost = True
            self._end("KILLED", type(error).__name__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        # Not an error's message, which may hold a file's name.
        tag = None if kind is None else kind.__name__
        try:
            fault = self._last_words(tag)
        except BaseException:
            self._end("KILLED", tag)
            raise
        if self._lost and kind is None:
            status, tag = "FAILED", _UNSAID
        fault = self.fault = self._end(status, tag) or fault
        if fault is None:
            return
        if kind is None:
            raise fault
        # The exception under way tells more than this one.
        if not self.silent:
            logger.warning("tracking: the last numbers of a run are lost (%s)", fault)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; nested ones become ``outer.inner``, long values are cut at MLflow's limit.

        Raises:
            ResourceError: MLflow refuses, since a parameter was logged with another value for instance.
        """
        from mlflow.entities import Param

        rows = [Param(key_text(name), cut(value, _MAX_PARAM)) for name, value in flatten(redact(params)).items()]
        for start in range(0, len(rows), _MAX_PARAMS):
            self._send(params=rows[start : start + _MAX_PARAMS])

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Buffer one number of a step."""
        self.log_metrics({name: value}, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Buffer numbers of one step."""
        now = int(time.time() * 1000)
        self._metrics += [(key_text(name), float(value), now, int(step)) for name, value in metrics.items()]
        if len(self._metrics) >= _MAX_METRICS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        rows = [RunTag(key_text(name), cut(redact(value), _MAX_TAG)) for name, value in tags.items()]
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
        data = Dataset(cut(name, MAX_KEY), digest[:32], "sha256", source, profile=json.dumps(redact(profile)))
        self._call(lambda: self._client.log_inputs(self.run_id, [DatasetInput(data)]))

    def flush(self) -> None:
        """Send the buffered numbers."""
        from mlflow.entities import Metric

        while self._metrics:
            self._send(metrics=[Metric(*row) for row in self._metrics[:_MAX_METRICS]])
            del self._metrics[:_MAX_METRICS]
        self._flushed = time.monotonic()

    def _last_words(self, tag: str | None) -> Exception | None:
        """Send what is buffered; return what prevented it."""
        if self.silent:
            self._lost, self._metrics = True, []
            return None
        try:
            if tag is not None:
                self.set_tags({"error": tag})
            self.flush()
        except Exception as fault:
            self._lost = True
            return fault
        return None

    def _end(self, status: str, tag: str | None) -> Exception | None:
        """Say how the run ended; return what prevented it. The claim then keeps it for the next sweep."""
        tag = _UNSAID if tag is None and status != "FINISHED" else tag
        try:
            self._call(lambda: self._client.set_terminated(self.run_id, status))
        except Exception as fault:
            self._let_go(lambda: self._claim.leave("FAILED" if status == "FINISHED" else status, tag or _UNSAID))
            return fault
        except BaseException:
            self._claim.release()
            raise
        self._let_go(self._claim.end)
        if self._lost and tag is not None:
            try:
                self._call(lambda: self._client.set_tag(self.run_id, "error", tag))
            except Exception as fault:
                return fault
        return None

    def _let_go(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            logger.warning("tracking: the claim of a run stays, and the next run looks it up (%s)", cause(error))

    def _send(self, **batch: Any) -> None:
        self._call(lambda: self._client.log_batch(self.run_id, synchronous=True, **batch))

    def _call(self, request: Callable[[], object]) -> None:
        if self._client is None:
            raise ConfigError("used before it began", where="TrackedRun", mend="use it within its with block")
        try:
            check_client(self._client)
            request()
        except DiffReconError:
            raise
        except Exception as error:  # MLflow, its database, the disk, the network: all are meant
            self._lost = True
            raise refused(error) from error
