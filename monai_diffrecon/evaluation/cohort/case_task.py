# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One case with all methods, evaluated by the driver of a cohort or by a worker anywhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon.comparison.case_metrics import magnitude
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.engine.cases.case_record import comparable
from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import BusyError, DiffReconError, IntegrityError
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.case_runner import CaseRunner
from monai_diffrecon.evaluation.cohort.cases import CaseHashes, anonymous
from monai_diffrecon.evaluation.cohort.methods.given_volumes import Method, prepare_methods
from monai_diffrecon.evaluation.cohort.methods.prepared_method import digest
from monai_diffrecon.evaluation.cohort.read import read_cohort, slug
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortSpec
from monai_diffrecon.io.atomic import make_folder
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.run_notes import RunNotes, is_server
from monai_diffrecon.tracking.versions import versions_of
from monai_diffrecon.viewer.run_page import write_methods_page

logger = logging.getLogger(__name__)

_COLUMN_LETTERS = 22  # above a picture
#: How long a worker waits for a case that is busy: the process that had it before is ending.
_PATIENCE = 60.0


@dataclass(frozen=True)
class CohortSetup:
    """What a worker prepares the methods from.

    Attributes:
        driver: random name of the driver, which the methods that were built for it are kept under.
        cohort: the cohort's file.
        output_dir: folder for everything.
        default_bundle: bundle of methods that do not name one.
        methods_sha256: hash of the methods as the driver has them, see :func:`methods_sha256`.
        resume: as of :class:`~monai_diffrecon.evaluation.cohort.case_runner.CaseRunner`.
        checkpoint_every: as of that.
        track: track in MLflow.
        tracking_uri: MLflow's store.
        experiment: MLflow's experiment.
        tracking_required: an MLflow failure is an error.
    """

    driver: str
    cohort: str
    output_dir: str
    default_bundle: str | None
    methods_sha256: str
    resume: str
    checkpoint_every: int | None
    track: bool
    tracking_uri: str | None = field(repr=False)  # it may hold a password
    experiment: str
    tracking_required: bool


@dataclass(frozen=True)
class CaseTask:
    """A case to evaluate: what goes to a worker.

    Attributes:
        setup: of the cohort.
        number: of the case in the cohort's file, from 0.
        case: its name.
        hashes: of its files.
        parent_run: MLflow's run of the cohort, or None.
    """

    setup: CohortSetup
    number: int
    case: str
    hashes: CaseHashes
    parent_run: str | None


@dataclass
class CaseOutcome:
    """What came of a case.

    Attributes:
        rows: one row per method, in their order.
        picture: the picture of all methods, or None without a reference.
        page: the page that shows the volumes of all methods, or None.
        notes: what the driver has to log.
    """

    rows: list[CaseRow] = field(default_factory=list)
    picture: Path | None = None
    page: Path | None = None
    notes: list[RunNotes] = field(default_factory=list)


class CaseEvaluation:
    """Evaluates cases of one cohort with methods that are prepared once.

    Args:
        setup: of the cohort.
        spec: the cohort.
        methods: its methods.
        driver: this process is the driver, which tracks in any store.
    """

    def __init__(self, setup: CohortSetup, spec: CohortSpec, methods: Sequence[Method], *, driver: bool) -> None:
        self.setup, self.spec, self.methods, self.driver = setup, spec, methods, driver
        self.output_dir = Path(setup.output_dir)
        self._runner = CaseRunner(spec, self.output_dir, resume=setup.resume, checkpoint_every=setup.checkpoint_every)

    def evaluate(self, task: CaseTask) -> CaseOutcome:
        """Reconstruct a case with every method; a failure makes a row that says so."""
        case = replace(self.spec.cases[task.number], name=task.case)
        outcome = CaseOutcome()
        measured: dict[str, dict[str, Any]] = {}
        truths: dict[str, Tensor] = {}
        images: dict[str, Tensor] = {}
        for method in self.methods:
            row = CaseRow(case.name, method.label)
            run = self._run(case, method, task.parent_run)
            try:
                with run:
                    if method.measures not in measured:
                        measured = {method.measures: method.measure(case)}
                    data = measured[method.measures]
                    row = self._row(case, method, data, task.hashes, run)
                    run.set_tags({"computed": str(row.status == "computed").lower()})
                if data.get("reference") is not None:
                    truths[method.label], images[method.label] = data["reference"], data["image"]
            except Exception as error:  # the other methods and cases go on
                row = failed_row(case, method.label, error)
            outcome.rows.append(row)
            if isinstance(run, RunNotes):
                outcome.notes.append(run)
        outcome.picture = self._picture(outcome.rows, truths, images)
        outcome.page = self._page(outcome.rows, truths)
        return outcome

    def _run(self, case: CohortCase, method: Method, parent: str | None) -> Any:
        setup, name = self.setup, f"{case.name} {method.folder}"
        tags = {"case": case.name, "method": method.label}
        if setup.track and not self.driver and not is_server(setup.tracking_uri):
            return RunNotes(name, tags)
        return TrackedRun(
            self.output_dir,
            name,
            track=setup.track,
            experiment=setup.experiment,
            tracking_uri=setup.tracking_uri,
            parent_run_id=parent,
            tags=tags,
            required=setup.tracking_required,
        )

    def _row(self, case: CohortCase, method: Method, data: dict[str, Any], hashes: CaseHashes, run: Any) -> CaseRow:
        patience = 0.0 if self.driver else _PATIENCE
        end = time.monotonic() + patience
        while True:
            try:
                return self._runner.row(case, method, data, hashes, run)
            except BusyError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.5)

    def _picture(self, rows: Sequence[CaseRow], truths: dict[str, Tensor], images: dict[str, Tensor]) -> Path | None:
        """Draw all methods beside the truth, unless the picture exists."""
        rows = [r for r in rows if not r.failed and r.method in truths]
        if not rows:
            return None
        truth = magnitude(truths[rows[0].method])
        rows = [r for r in rows if truths[r.method].shape == truth.shape]
        path = self.output_dir / "montages" / f"{_shown_name(rows, truth)}.png"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            volumes: dict[str, Tensor] = {}
            spacing = (1.0, 1.0, 1.0)
            for row in rows:
                volume, geometry = read_volume(self.output_dir / slug(row.method) / f"{row.case}_recon.nii.gz")
                volumes[_column(row.method, volumes)] = comparable(volume, geometry, images[row.method])
                spacing = geometry.spacing
            metrics = {title: row.metrics for title, row in zip(volumes, rows, strict=True)}
            montage(volumes, truth, path, spacing=spacing, metrics=metrics)
        return path

    def _page(self, rows: Sequence[CaseRow], truths: dict[str, Tensor]) -> Path | None:
        """Write the page of all methods, unless it exists."""
        rows = [row for row in rows if not row.failed]
        if not rows:
            return None
        truth = magnitude(truths[rows[0].method]) if rows[0].method in truths else None
        path = self.output_dir / "views" / f"{_shown_name(rows, truth)}.html"
        if path.is_file():
            return path
        files = {r.method: self.output_dir / slug(r.method) / f"{r.case}_recon.nii.gz" for r in rows}
        return write_methods_page(make_folder(path.parent) / path.name, rows[0].case, files, truth)


#: The evaluation that this process works for, by the name of its driver.
_prepared: dict[str, CaseEvaluation] = {}
_one_at_a_time = threading.Lock()  # a worker of a cluster may have several threads


@contextmanager
def prepared(evaluation: CaseEvaluation) -> Iterator[None]:
    """Context in which tasks that run in this process use an evaluation that exists already."""
    _prepared[evaluation.setup.driver] = evaluation
    try:
        yield
    finally:
        del _prepared[evaluation.setup.driver]


def evaluate_case(task: CaseTask) -> CaseOutcome:
    """Evaluate a case in the process of the driver or in a worker, which prepares the methods once.

    Raises:
        DiffReconError: the methods cannot be prepared here, or are not those of the driver.
    """
    found = _prepared.get(task.setup.driver)
    if found is not None and found.driver:
        return found.evaluate(task)
    with _one_at_a_time, stop_on_sigterm():
        found = _prepared.get(task.setup.driver)
        if found is None:
            _prepared.clear()  # of an earlier driver
            found = _prepared[task.setup.driver] = _prepare(task.setup)
        return found.evaluate(task)


def methods_sha256(methods: Sequence[Method]) -> str:
    """Return the hash of everything that a worker must have in common with its driver."""
    return digest([[[m.label, m.fingerprint, m.measures] for m in methods], versions_of(())])


def failed_row(case: CohortCase, label: str, error: Exception) -> CaseRow:
    """Return the row of a method that failed, and log it without file names."""
    ours = isinstance(error, DiffReconError)
    text = redact(anonymous(error, case)) if ours else type(error).__name__
    logger.error("%s, %s: %s", case.name, label, text)
    code = error.exit_code if isinstance(error, DiffReconError) else 1
    return CaseRow(case.name, label, status="failed", error=text, exit_code=code)


def _prepare(setup: CohortSetup) -> CaseEvaluation:
    # The names of the cases come with the tasks: the key may be known to the driver alone.
    spec = read_cohort(setup.cohort, setup.output_dir, setup.default_bundle, key="unused")
    methods = prepare_methods(spec)
    if methods_sha256(methods) != setup.methods_sha256:
        raise IntegrityError(
            "a worker has other methods or versions than the driver",
            where="executor",
            mend="give all nodes the same bundles and packages, and leave the cohort's file alone while it runs",
        )
    return CaseEvaluation(setup, spec, methods, driver=False)


def _shown_name(rows: Sequence[CaseRow], truth: Tensor | None) -> str:
    """Return the name of what shows the volumes of some rows beside the truth; it changes with any of them."""
    shown = [[row.method, row.record_sha256] for row in rows]
    return f"{rows[0].case}-{digest([shown, truth])[:12]}"


def _column(label: str, taken: Collection[str]) -> str:
    """Return a label that fits above a picture; the truth's column has a name of its own."""
    short = label if len(label) <= _COLUMN_LETTERS else label[: _COLUMN_LETTERS - 1] + "\u2026"
    return f"{len(taken) + 1}: {short[: _COLUMN_LETTERS - 3]}" if short in taken or short == "truth" else short
