# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Evaluating methods over a cohort: one command, one report."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffrecon.comparison.case_metrics import magnitude
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.engine.cases.case_record import comparable
from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import ConfigError, DiffReconError, common_kind
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.case_runner import CaseRunner
from monai_diffrecon.evaluation.cohort.cases import anonymous, check_case, cohort_digest
from monai_diffrecon.evaluation.cohort.method import PreparedMethod, digest
from monai_diffrecon.evaluation.cohort.read import read_cohort, slug
from monai_diffrecon.evaluation.cohort.report import write_report
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortSpec
from monai_diffrecon.evaluation.cohort.tables import write_tables
from monai_diffrecon.io.atomic import make_folder, remove_leftovers
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.tracking.export_run import TrackedRun

logger = logging.getLogger(__name__)

_COLUMN_LETTERS = 22  # above a picture


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
    ) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.tracking_required = check_flag(tracking_required, "tracking_required")
        self.track = check_flag(track, "track")
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.parent_run_id = parent_run_id
        self.spec: CohortSpec = read_cohort(cohort, self.output_dir, default_bundle)
        self.methods = [PreparedMethod(method, self.spec) for method in self.spec.methods]
        first = self.methods[0]
        self.hashes = {
            case.name: check_case(case, first.reader, correct_tilt=first.correct_tilt) for case in self.spec.cases
        }
        self._check_truths()
        self._runner = CaseRunner(self.spec, self.output_dir, resume=resume, checkpoint_every=checkpoint_every)
        self.rows: list[CaseRow] = []

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.output_dir / "report.html"

    def run(self) -> list[CaseRow]:
        """Compute what is missing, and write tables and report.

        Raises:
            DiffReconError: some reconstructions failed, with the failures' class if they share one; the others, the
                tables and the report are complete.
        """
        with stop_on_sigterm():
            return self._run()

    def _run(self) -> list[CaseRow]:
        remove_leftovers(make_folder(self.output_dir))
        self.rows = []
        data = cohort_digest(list(self.hashes.values()))
        with self._open("cohort", self.parent_run_id, {"title": self.spec.title}) as parent:
            described = [method.description for method in self.methods]
            parent.log_params({"seed": self.spec.seed, "baseline": self.spec.baseline, "methods": described})
            parent.log_dataset("cohort", data, {"cases": len(self.spec.cases)})
            pictures = {case.name: self._case(case, parent) for case in self.spec.cases}
            files = write_tables(self.output_dir, self.spec, self.rows, described, data)
            write_report(self.report, self.spec, self.rows, described, data, pictures)
            for path in (*files, self.report):
                parent.log_artifact(path)
            for method in self.methods:
                values = [r.value("psnr") for r in self.rows if r.method == method.label and not r.failed]
                values = [v for v in values if math.isfinite(v)]
                if values:
                    parent.log_metrics({f"psnr/{method.folder}": sum(values) / len(values)})
            failed = [row for row in self.rows if row.failed]
            if failed:
                raise common_kind([row.exit_code for row in failed])(
                    f"{len(failed)} of {len(self.rows)} reconstructions failed",
                    where="cohort",
                    got="; ".join(f"{r.case} {r.method}: {r.error}" for r in failed[:3]),
                    mend="see report.html; run the same command again to compute only what is missing",
                )
        return self.rows

    def _check_truths(self) -> None:
        """Refuse a reference that a simulation would replace by the scan itself."""
        for method in self.methods:
            for case in self.spec.cases:
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

    def _case(self, case: CohortCase, parent: Any) -> Path | None:
        """Reconstruct a case with every method; return the picture of all, or None without a reference."""
        measured: dict[str, dict[str, Any]] = {}
        truths: dict[str, Tensor] = {}
        images: dict[str, Tensor] = {}
        for method in self.methods:
            tags = {"case": case.name, "method": method.label}
            row = CaseRow(case.name, method.label)
            try:
                with self._open(f"{case.name} {method.folder}", parent.run_id, tags) as run:
                    if method.measures not in measured:
                        measured = {method.measures: method.measure(case)}
                    data = measured[method.measures]
                    row = self._runner.row(case, method, data, self.hashes[case.name], run)
                    run.set_tags({"computed": str(row.status == "computed").lower()})
                if data.get("reference") is not None:
                    truths[method.label], images[method.label] = data["reference"], data["image"]
            except Exception as error:  # the other methods and cases go on
                ours = isinstance(error, DiffReconError)
                text = redact(anonymous(error, case)) if ours else type(error).__name__
                row.status, row.error = "failed", text
                row.exit_code = error.exit_code if isinstance(error, DiffReconError) else 1
                logger.error("%s, %s: %s", case.name, method.label, text)
            self.rows.append(row)
        return self._picture(case, truths, images)

    def _picture(self, case: CohortCase, truths: dict[str, Tensor], images: dict[str, Tensor]) -> Path | None:
        """Draw all methods beside the truth, unless the picture exists."""
        rows = [r for r in self.rows if r.case == case.name and not r.failed and r.method in truths]
        if not rows:
            return None
        truth = magnitude(truths[rows[0].method])
        rows = [r for r in rows if truths[r.method].shape == truth.shape]
        name = digest([[r.method, r.record_sha256] for r in rows])[:12]
        path = self.output_dir / "montages" / f"{case.name}-{name}.png"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            volumes: dict[str, Tensor] = {}
            spacing = (1.0, 1.0, 1.0)
            for row in rows:
                volume, geometry = read_volume(self.output_dir / slug(row.method) / f"{case.name}_recon.nii.gz")
                volumes[_column(row.method, volumes)] = comparable(volume, geometry, images[row.method])
                spacing = geometry.spacing
            metrics = {title: row.metrics for title, row in zip(volumes, rows, strict=True)}
            montage(volumes, truth, path, spacing=spacing, metrics=metrics)
        return path


def _column(label: str, taken: Collection[str]) -> str:
    """Return a label that fits above a picture; the truth's column has a name of its own."""
    short = label if len(label) <= _COLUMN_LETTERS else label[: _COLUMN_LETTERS - 1] + "\u2026"
    return f"{len(taken) + 1}: {short[: _COLUMN_LETTERS - 3]}" if short in taken or short == "truth" else short
