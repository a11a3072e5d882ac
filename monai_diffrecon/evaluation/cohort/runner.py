# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Evaluating methods over a cohort: one command, one report."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import ConfigError, PluginError, common_kind
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.case_task import (
    CaseEvaluation,
    CaseOutcome,
    CaseTask,
    CohortSetup,
    evaluate_case,
    failed_row,
    methods_sha256,
    prepared,
)
from monai_diffrecon.evaluation.cohort.cases import check_case, cohort_digest
from monai_diffrecon.evaluation.cohort.methods.given_volumes import prepare_methods
from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod
from monai_diffrecon.evaluation.cohort.notes.cohort_note import (
    cohort_metrics,
    cohort_note,
    fitted_picture,
    method_params,
)
from monai_diffrecon.evaluation.cohort.read import read_cohort
from monai_diffrecon.evaluation.cohort.report import shown_cases, write_report
from monai_diffrecon.evaluation.cohort.shards import Shard, evaluation_lock
from monai_diffrecon.evaluation.cohort.spec import CohortSpec
from monai_diffrecon.evaluation.cohort.tables import write_tables
from monai_diffrecon.io.atomic import make_folder, remove_leftovers
from monai_diffrecon.protocols import Executor
from monai_diffrecon.registry import build
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.run_notes import RunNotes, is_server


class CohortEvaluation:
    """Reconstructs every case with every method, compares them, and writes tables and a report.

    The constructor checks everything: keys, bundles, hashes, presets, options, and that the scans can be read. The
    run writes ``report.html``, ``cases.csv``, ``summary.csv``, ``differences.csv``, ``results.json`` and, for each
    method, a folder with the volumes and their records to ``output_dir``. A case whose record verifies with the same
    configuration, measurement, weights, seed and version is not computed again.

    Args:
        cohort: the cohort's file, see :func:`~monai_diffrecon.evaluation.cohort.read.read_cohort`.
        output_dir: folder for everything.
        default_bundle: bundle of methods that do not name one.
        track: track in MLflow: one run for the cohort, with a nested run per case and method.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        parent_run_id: run of several cohorts that this one is nested under.
        tracking_required: an MLflow failure ends the cohort; otherwise a warning is logged and the cohort continues.
        resume: ``auto`` continues an interrupted run and skips completed cases, ``require`` refuses to start a case
            from scratch, ``never`` computes everything again.
        checkpoint_every: steps between checkpoints; None spends about 1 % of the wall time on them.
        executor: what runs the cases: the name of an executor, ``{"name": ..., options}``, or an object.
        shard: ``i/n``: only every n-th case from the i-th on, without tables; the same without it writes them.

    Raises:
        InputError: a file is missing or cannot be read.
        ConfigError: a key or a value that is wrong.
        IntegrityError: weights that were changed.
    """

    def __init__(
        self,
        cohort: str | Path,
        output_dir: str | Path,
        *,
        default_bundle: str | Path | None = None,
        track: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "monai_diffrecon",
        parent_run_id: str | None = None,
        tracking_required: bool = False,
        resume: str = "auto",
        checkpoint_every: int | None = None,
        executor: Any = "serial",
        shard: str | None = None,
    ) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.tracking_required = check_flag(tracking_required, "tracking_required")
        self.track = check_flag(track, "track")
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.parent_run_id = parent_run_id
        self.shard = None if shard is None else Shard.read(shard)
        self.executor: Executor = build("executors", executor)
        self.spec: CohortSpec = read_cohort(cohort, self.output_dir, default_bundle)
        self.methods = prepare_methods(self.spec)
        first = self.methods[0]
        self.cases = list(self.spec.cases) if self.shard is None else self.shard.of(self.spec.cases)
        self.hashes = {
            case.name: check_case(case, first.reader, correct_tilt=first.correct_tilt) for case in self.cases
        }
        self._check_truths()
        if self.shard is not None and not is_server(tracking_uri):
            self.track = False  # a store that is a file has one writer: the run without a shard
        setup = CohortSetup(
            driver=uuid4().hex,
            cohort=str(Path(cohort).expanduser().resolve()),
            output_dir=str(self.output_dir.resolve()),
            default_bundle=None if default_bundle is None else str(Path(default_bundle).resolve()),
            methods_sha256=methods_sha256(self.methods),
            resume=resume,
            checkpoint_every=checkpoint_every,
            track=self.track,
            tracking_uri=tracking_uri,
            experiment=experiment,
            tracking_required=self.tracking_required,
        )
        self._evaluation = CaseEvaluation(setup, self.spec, self.methods, driver=True)
        self.rows: list[CaseRow] = []

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.output_dir / "report.html"

    def run(self) -> list[CaseRow]:
        """Compute what is missing, and write tables and report.

        Raises:
            BusyError: another process evaluates in the same folder.
            DiffReconError: some reconstructions failed, with the failures' class if they share one; the others, the
                tables and the report are complete.
        """
        self.rows = []
        make_folder(self.output_dir)
        with stop_on_sigterm(), evaluation_lock(self.output_dir, self.shard), prepared(self._evaluation):
            return self._run()

    def _run(self) -> list[CaseRow]:
        remove_leftovers(self.output_dir)
        data = cohort_digest(list(self.hashes.values()))
        tags = {"title": self.spec.title} | ({} if self.shard is None else {"shard": str(self.shard)})
        with self._open(self.spec.title, self.parent_run_id, tags) as parent:
            described = [method.description for method in self.methods]
            parent.log_params({"seed": self.spec.seed, "baseline": self.spec.baseline, **method_params(described)})
            parent.log_dataset("all cases", data, {"cases": len(self.cases)})
            pictures, pages = self._evaluate(parent)
            if self.shard is None:
                files = write_tables(self.output_dir, self.spec, self.rows, described, data)
                write_report(self.report, self.spec, self.rows, described, data, pictures, pages)
                for path in (*files, self.report):
                    parent.log_artifact(path)
                for path in pages.values():
                    parent.log_artifact(path, path.parent.name)
            self._summarize(parent, pictures)
            failed = [row for row in self.rows if row.failed]
            if failed:
                raise common_kind([row.exit_code for row in failed])(
                    f"{len(failed)} of {len(self.rows)} reconstructions failed",
                    where="cohort",
                    got="; ".join(f"{r.case} {r.method}: {r.error}" for r in failed[:3]),
                    mend="see report.html; run the same command again to compute only what is missing",
                )
        return self.rows

    def _evaluate(self, parent: Any) -> tuple[dict[str, Path | None], dict[str, Path]]:
        """Fill the rows, in the order of the file; return case -> its picture, and case -> its page."""
        setup, outcomes = self._evaluation.setup, dict[str, CaseOutcome]()
        tasks = [
            CaseTask(setup, number, case.name, self.hashes[case.name], parent.run_id)
            for number, case in enumerate(self.spec.cases)
            if case.name in self.hashes
        ]
        with closing(self.executor.run(evaluate_case, tasks)) as results:
            for task, found in results:
                outcome = self._failed(task, found) if isinstance(found, Exception) else found
                outcomes[task.case] = outcome
                self.rows += outcome.rows
                for notes in outcome.notes:
                    notes.replay(self._open(notes.run_name, parent.run_id, notes.tags))
        lost = [task.case for task in tasks if task.case not in outcomes]
        if lost:
            raise PluginError(
                "it lost cases",
                where="executor",
                got=", ".join(lost[:3]),
                mend="report it to its author; the serial executor resumes",
            )
        self.rows = [row for case in self.cases for row in outcomes[case.name].rows]
        pages = {case: outcome.page for case, outcome in outcomes.items() if outcome.page is not None}
        return {case: outcome.picture for case, outcome in outcomes.items()}, pages

    def _summarize(self, parent: Any, pictures: dict[str, Path | None]) -> None:
        """Track means, the picture of a median case, and the description."""
        labels = [method.label for method in self.methods]
        picture = pictures.get(shown_cases(self.rows, labels).get("median", ""))
        if picture is not None:
            with TemporaryDirectory() as folder:
                parent.log_artifact(fitted_picture(picture, Path(folder)), "montages")
        parent.log_metrics(cohort_metrics(self.rows, labels))
        shown = None if picture is None else f"montages/{picture.name}"
        parent.log_note(cohort_note(self.spec, self.rows, self.output_dir.resolve().name, shown))

    def _failed(self, task: CaseTask, error: Exception) -> CaseOutcome:
        """Return the rows of a case that no worker could evaluate, and that no worker has tracked."""
        case, outcome = self.spec.cases[task.number], CaseOutcome()
        for method in self.methods:
            outcome.rows.append(failed_row(case, method.label, error))
            tags = {"case": case.name, "method": method.label}
            with suppress(type(error)), RunNotes(f"{case.name} {method.folder}", tags) as notes:
                outcome.notes.append(notes)
                raise error
        return outcome

    def _check_truths(self) -> None:
        """Refuse a reference that a simulation would replace by the scan itself, and a number of noise without any."""
        ours = [method for method in self.methods if isinstance(method, PreparedMethod)]
        for method in ours:
            for case in self.cases:
                if case.realization and (not method.simulates or self.hashes[case.name].measured):
                    raise ConfigError(
                        "a noise realization of a scan whose measurement is not simulated",
                        where=f"case {case.name}: realization",
                        got=f"{case.realization} in {method.where}",
                        mend="set the cohort's simulate, or omit the number",
                    )
                if method.simulates and case.reference is not None and not self.hashes[case.name].measured:
                    raise ConfigError(
                        "a reference for a scan whose measurement is simulated; the scan itself is the reference",
                        where=f"case {case.name}: reference",
                        got=f"simulate true in {method.where}",
                        mend="set the cohort's simulate to false, or omit the reference",
                    )

    def _open(self, name: str, parent: str | None = None, tags: dict[str, Any] | None = None) -> Any:
        return TrackedRun(
            self.output_dir,
            name,
            track=self.track,
            experiment=self.experiment,
            tracking_uri=self.tracking_uri,
            parent_run_id=parent,
            tags=tags,
            required=self.tracking_required,
        )
