# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The worker: takes series of an Orthanc server one by one, reconstructs them, and returns derived series."""

from __future__ import annotations

import logging
import re
import shutil
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_diffrecon._version import __version__
from monai_diffrecon.engine.cases.case_lock import case_lock
from monai_diffrecon.engine.cases.list_cases import case_key, folder_key
from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import BusyError, DiffReconError, ResourceError
from monai_diffrecon.io.atomic import make_folder, told
from monai_diffrecon.numerics.hashing import keyed_name
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.serve.connection import Connection, ServerAwayError, ServerRefusesError
from monai_diffrecon.serve.reconstruction import SeriesReconstruction
from monai_diffrecon.serve.rules import Rules
from monai_diffrecon.serve.server import OrthancServer, Series
from monai_diffrecon.serve.work_list import Waiting, WorkList

logger = logging.getLogger(__name__)

#: Manufacturer of derived series; they are never taken.
_OURS = "monai_diffrecon"
_CASE = re.compile(r"series-[0-9a-f]{16}-[0-9a-f]{8}", re.ASCII)
#: So many times a series may end the process that works on it, or the connection, before it is quarantined.
_ATTEMPTS = 100
#: Tries of ``--once``, and seconds between two, while the server is away.
_TRIES, _PAUSE = 15, 2.0


class Worker:
    """Reconstructs what the rules name, each series once.

    The state of a series is one piece of user-defined metadata in Orthanc: ``working``, ``waiting``, ``done`` or
    ``failed``, with the configuration and the content that it is about. Workers that share a folder exclude each other
    by locks, which end with their process; a worker with another folder sees that a series is taken, since Orthanc
    replaces a state only if its revision is the one that was read.

    Args:
        connection: the connection to the server.
        rules: the rules.
        folder: folder of the worker; several on one machine may share it.

    Raises:
        ConfigError: a rule that cannot be fulfilled, or not an Orthanc server.
        InputError: the folder may not be written, or belongs to somebody else.
    """

    def __init__(self, connection: Connection, rules: Rules, folder: Path) -> None:
        self._rules, self._folder = rules, make_folder(folder)
        try:
            self._folder.chmod(0o700)  # it holds images of patients
        except OSError as error:
            raise told(error, "--work") from error
        self._output = make_folder(folder / "results")
        self._server = OrthancServer(connection, rules.metadata)
        self._server.check({name for rule in rules.rules for name in rule.send_to})
        runs = (SeriesReconstruction(rule, f"rules#{index}") for index, rule in enumerate(rules.rules))
        self._runs = {run.rule.name: run for run in runs}
        self._key = case_key(folder)
        self._owner = keyed_name("owner", folder_key(folder))  # stays when the folder moves, or a container is new
        self._list = WorkList(folder)

    def run(self, *, once: bool = False, every: float = 5.0, from_now: bool = False, retry: bool = False) -> None:
        """Work until SIGTERM, which raises ``SystemExit(143)`` after the checkpoint of the running case.

        Args:
            once: end when all is done that is there.
            every: seconds between two looks at the feed.
            from_now: leave out series that were on the server before the first start with this folder.
            retry: try again what has failed.

        Raises:
            ResourceError: the disk is full, or, with ``once``, the server is away.
            ConfigError: TLS fails, or the server refuses the worker.
        """
        with stop_on_sigterm():
            self._list.release([run.configuration for run in self._runs.values()], retry=retry)
            away = 0
            while True:
                try:
                    with suppress(BusyError):
                        self._list.follow(self._server, from_now=from_now)
                    for item in self._list.waiting():
                        self._take(item)
                        away = 0
                    if once:
                        return
                    time.sleep(every)
                except ServerAwayError as error:
                    away += 1
                    if once and away > _TRIES:
                        raise
                    if away == 1:
                        logger.warning("%s", error)
                    time.sleep(_PAUSE if once else max(every, _PAUSE))

    def _take(self, item: Waiting) -> None:
        """Do what a series of the list needs, unless another worker is doing it."""
        name = f"series-{keyed_name(item.series, self._key)}"
        with suppress(BusyError), case_lock(self._folder, name):
            if not item.files[-1].exists():  # another worker was quicker
                return
            folder = self._folder / "series" / name
            shutil.rmtree(folder, ignore_errors=True)  # what a killed worker left, whatever has become of the series
            try:
                series = self._server.series(item.series)
            except ServerAwayError:  # perhaps of this series alone, if a file was lost: others go first then
                self._list.attempted(item)
                raise
            rule = None if series is None or series.manufacturer == _OURS else self._rules.rule_for(series)
            if series is None or rule is None:
                self._list.finish(item)
            elif series.stable:
                self._claim(item, series, folder, self._runs[rule.name])

    def _claim(self, item: Waiting, series: Series, folder: Path, run: SeriesReconstruction) -> None:
        """Claim a series in Orthanc, and work on it."""
        known, revision = self._server.state(series.id)
        about = {"configuration": run.configuration, "content": series.content, "rule": run.rule.name}
        same = about.items() <= known.items()
        if same and known.get("state") == "done":
            self._list.finish(item)
            return
        if same and known.get("state") == "failed" and not item.retry:
            self._list.quarantine(item, run.configuration)
            return
        if known.get("state") == "working" and known.get("owner") != self._owner and not item.retry:
            return
        case = f"{folder.name}-{run.configuration[:8]}"
        if same and _CASE.fullmatch(str(known.get("case"))):  # the noise depends on the name
            case = known["case"]
        claim = about | {"state": "working", "owner": self._owner, "case": case, "software": __version__}
        claimed = self._server.set_state(series.id, claim, revision)
        if claimed is None:
            return
        self._list.attempted(item)
        try:
            result = self._result(item, series, folder, case, run)
        except (SystemExit, KeyboardInterrupt):
            with suppress(DiffReconError):
                self._server.set_state(series.id, claim | {"state": "waiting"}, claimed)
            logger.info("case %s: interrupted; it goes on from its checkpoint", case)
            raise
        if result is None:  # the feed tells when it is complete
            logger.info("case %s: the series has changed meanwhile", case)
        elif self._server.set_state(series.id, claim | result, claimed) is None:
            logger.warning("case %s: another worker has taken it over, or the series is gone", case)
        elif result["state"] == "failed":
            self._list.quarantine(item, run.configuration)
            logger.error("case %s: quarantined: %s", case, result["reason"])
        else:
            self._list.finish(item)
            logger.info("case %s: done", case)

    def _result(
        self, item: Waiting, series: Series, folder: Path, case: str, run: SeriesReconstruction
    ) -> dict[str, Any] | None:
        """Work on a series and return its new state; None if it has changed meanwhile."""
        logger.info("case %s: rule %r, %d images", case, run.rule.name, len(series.instances))
        try:
            if item.attempts >= _ATTEMPTS:
                return {"state": "failed", "reason": f"{item.attempts} attempts did not come to an end"}
            derived = self._derive(series, folder, case, run)
        except (ResourceError, ServerRefusesError):
            raise
        except DiffReconError as error:
            if self._changed(series):  # an image that went while it was read, for instance
                return None
            return {"state": "failed", "reason": str(redact(str(error)))}
        except OSError as error:
            refused = told(error, f"case {case}")
            if refused is error:
                raise
            raise refused from error
        except Exception as error:  # a defect, of a decoder for instance; its words may quote a header
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"a defect: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
            return {"state": "failed", "reason": reason}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return None if derived is None else {"state": "done", "derived": derived}

    def _derive(self, series: Series, folder: Path, case: str, run: SeriesReconstruction) -> str | None:
        """Return the id of the derived series when Orthanc has it; None if the source has changed meanwhile."""
        scan = make_folder(folder / "scan")
        for number, instance in enumerate(series.instances, 1):
            self._server.download(instance, scan / f"{number:05d}.dcm")
        if self._changed(series):
            return None
        unit = run.reconstruct(scan, case, self._output)
        files = run.write(folder / "derived", scan, case, self._output, unit=unit, series=series.id)
        if self._changed(series):
            return None
        (derived,) = {self._server.upload(file) for file in files}
        for modality in run.rule.send_to:
            self._server.send(derived, modality)
        return derived

    def _changed(self, series: Series) -> bool:
        now = self._server.series(series.id)
        return now is None or not now.stable or now.content != series.content
