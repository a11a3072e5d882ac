# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Evaluating a cohort at each value of a setting: one command, one table, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import ConfigError, DiffReconError, common_kind
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.cohort.shards import Shard, evaluation_lock
from monai_diffrecon.evaluation.image_quality.study.words import unit_for
from monai_diffrecon.evaluation.sweep.point import PointResult, check_point, run_point
from monai_diffrecon.evaluation.sweep.report import write_sweep_report
from monai_diffrecon.evaluation.sweep.results import SweepRow, shown_metrics, study_table, sweep_rows, write_results
from monai_diffrecon.evaluation.sweep.spec import SweepSpec, read_sweep
from monai_diffrecon.io.atomic import make_folder
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.run_notes import is_server


class Sweep:
    """Evaluates a cohort, or a study of image quality, at each value of one setting, one point after the other.

    The constructor checks all points with their first scan, so that a wrong value is found before anything is
    computed. The run writes ``sweep.html``, ``sweep.csv`` and ``sweep.json`` to ``output_dir``, and each point's
    cohort to ``points/<name>``. What is there already is not computed again.

    Args:
        config: the sweep's file, see :func:`~monai_diffrecon.evaluation.sweep.spec.read_sweep`.
        output_dir: folder for everything.
        track: track in MLflow: one run for the sweep, with the nested runs of the cohorts.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        tracking_required: an MLflow failure ends the sweep; otherwise a warning is logged and it continues.
        resume: as of :class:`~monai_diffrecon.evaluation.cohort.runner.CohortEvaluation`, as all that follow.
        checkpoint_every: steps between checkpoints.
        executor: what runs the cases of a point.
        shard: ``i/n``: a share of the cases of each point, without tables.

    Attributes:
        rows: the table, after the run.
        points: name of the point -> what came of it, after the run.

    Raises:
        InputError: a file is missing or cannot be read.
        ConfigError: a key or a value that is wrong.
        IntegrityError: weights that were changed.
    """

    def __init__(
        self,
        config: str | Path,
        output_dir: str | Path,
        *,
        track: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "monai_diffrecon",
        tracking_required: bool = False,
        resume: str = "auto",
        checkpoint_every: int | None = None,
        executor: Any = "serial",
        shard: str | None = None,
    ) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.spec: SweepSpec = read_sweep(config, self.output_dir)
        if Path(config).expanduser().resolve() == (self.output_dir / "sweep.json").resolve():
            raise ConfigError("its results would replace the sweep's file", where="output_dir", mend="choose another")
        self.shard = None if shard is None else Shard.read(shard)
        self.track = check_flag(track, "track") and (self.shard is None or is_server(tracking_uri))
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.tracking_required = check_flag(tracking_required, "tracking_required")
        store = f"sqlite:///{self.output_dir.resolve() / 'mlflow.db'}" if tracking_uri is None else tracking_uri
        self._options: dict[str, Any] = {
            "track": self.track,
            "tracking_uri": store,
            "experiment": experiment,
            "tracking_required": self.tracking_required,
            "resume": resume,
            "checkpoint_every": checkpoint_every,
            "executor": executor,
            "shard": shard,
        }
        self.rows: list[SweepRow] = []
        self.points: dict[str, PointResult] = {}
        for point in self.spec.points:
            try:
                check_point(point.content, self._folder(point.name), self.spec.base, **self._options)
            except DiffReconError as error:
                where = f"{self.spec.parameter} {point.text}: {error.where or ''}".removesuffix(": ")
                raise type(error)(
                    error.what, where=where, expected=error.expected, got=error.got, mend=error.mend
                ) from error

    @property
    def report(self) -> Path:
        """The page's file."""
        return self.output_dir / "sweep.html"

    def run(self) -> list[SweepRow]:
        """Compute what is missing, and write table and page.

        Raises:
            BusyError: another process works in the same folder.
            DiffReconError: some points failed, with the failures' class if they share one; the others, the table and
                the page are complete.
        """
        self.rows, self.points = [], {}
        make_folder(self.output_dir)
        with stop_on_sigterm(), evaluation_lock(self.output_dir, self.shard), self._run_of_all() as run:
            for point in self.spec.points:
                options = self._options | {"parent_run_id": run.run_id}
                self.points[point.name] = run_point(point.content, self._folder(point.name), self.spec.base, **options)
            if self.shard is None:
                self._write(run)
            errors = {name: result.error for name, result in self.points.items() if result.error is not None}
            if errors:
                raise common_kind([error.exit_code for error in errors.values()])(
                    f"{len(errors)} of {len(self.points)} points failed",
                    where="sweep",
                    got="; ".join(f"{name}: {error.got or error.what}" for name, error in list(errors.items())[:3]),
                    mend="see sweep.html; run the same command again to compute only what is missing",
                )
        return self.rows

    def _write(self, run: Any) -> None:
        if self.spec.base is None:
            infos = shown_metrics(self.spec, [row for result in self.points.values() for row in result.rows])
            self.rows = sweep_rows(self.spec, {name: result.rows for name, result in self.points.items()}, infos)
        else:
            unit = unit_for(str(self.spec.points[0].content["modality"]))
            self.rows, infos = study_table(self.spec, {n: r.measured for n, r in self.points.items()}, unit)
        failed = {name: str(result.error) for name, result in self.points.items() if result.error is not None}
        files = write_results(self.output_dir, self.spec, self.rows, failed)
        reports = {
            name: result.report
            for name, result in self.points.items()
            if result.report is not None and result.report.is_file()
        }
        write_sweep_report(self.report, self.spec, self.rows, infos, reports, failed)
        run.log_params({"vary": {self.spec.parameter: [point.value for point in self.spec.points]}})
        for step, point in enumerate(self.spec.points):
            means = {f"{r.metric}/{slug(r.method)}": r.mean for r in self.rows if r.point == point.name and r.n}
            run.log_metrics(means, step)
        for path in (*files, self.report):
            run.log_artifact(path)

    def _folder(self, name: str) -> Path:
        return self.output_dir / "points" / name

    def _run_of_all(self) -> TrackedRun:
        return TrackedRun(
            self.output_dir,
            self.spec.title,
            track=self.track,
            experiment=self.experiment,
            tracking_uri=self.tracking_uri,
            tags={"title": self.spec.title},
            required=self.tracking_required,
        )
