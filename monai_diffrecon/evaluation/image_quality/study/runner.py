# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs a study of image quality: makes phantoms, reconstructs them with every method, measures, and reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import ConfigError, DiffReconError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.evaluation.image_quality.metrics.regions import setting_of
from monai_diffrecon.evaluation.image_quality.study.measured import (
    Measured,
    measure,
    phantom_metrics,
    write_curves,
    write_findings,
)
from monai_diffrecon.evaluation.image_quality.study.report import write_report, write_summary
from monai_diffrecon.evaluation.image_quality.study.scans import (
    PhantomCase,
    operators_of,
    phantom_cases,
    scans_of,
    write_phantoms,
)
from monai_diffrecon.evaluation.image_quality.study.spec import QualitySpec, checked_study, read_study
from monai_diffrecon.evaluation.image_quality.study.verdict import said_of
from monai_diffrecon.io.atomic import make_folder, write_json
from monai_diffrecon.tracking.export_run import TrackedRun


class QualityStudy:
    """Measures phantoms with every method, and answers what each keeps, blurs, and invents.

    The folder gets ``image_quality.html``, ``summary.html`` and ``summary.md`` (one page, for a model card),
    ``findings.csv``, ``curves.csv``, the phantoms, and in ``reconstructions`` the cohort over them
    (:class:`~monai_diffrecon.evaluation.cohort.runner.CohortEvaluation`), which resumes and runs on any executor.

    Args:
        study: file of the study, or its content.
        output_dir: folder for everything.
        base: folder that paths in the content are relative to; that of the file for a file.
        track: track in MLflow: one run for the study with its numbers, above that of the cohort.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        tracking_required: an MLflow failure ends the study; otherwise a warning is logged and it continues.
        parent_run_id: run of several studies that this one is nested under.
        options: of the cohort: executor, resume, shard.

    Attributes:
        evaluation: of the cohort over the phantoms.
        measured: what the metrics found, after the run.

    Raises:
        InputError: a file is missing or cannot be read.
        ConfigError: a key or a value that is wrong.
        IntegrityError: weights that were changed.
    """

    def __init__(
        self,
        study: str | Path | dict[str, Any],
        output_dir: str | Path,
        *,
        base: str | Path | None = None,
        track: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "monai_diffrecon",
        tracking_required: bool = False,
        parent_run_id: str | None = None,
        **options: Any,
    ) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.spec = checked_study(study, "study") if isinstance(study, dict) else read_study(study)
        self.cases = write_cohort(study, output_dir, base=base)
        cohort = self.output_dir / "cohort.json"
        store = f"sqlite:///{self.output_dir.resolve() / 'mlflow.db'}" if tracking_uri is None else tracking_uri
        self._tracking: dict[str, Any] = {"track": track, "tracking_uri": store, "experiment": experiment}
        self._required, self._parent_run_id = tracking_required, parent_run_id
        self.evaluation = CohortEvaluation(
            cohort,
            self.output_dir / "reconstructions",
            tracking_required=tracking_required,
            **self._tracking,
            **options,
        )
        specs = {m.label: m.inferer.specs["operator"] for m in self.evaluation.methods if isinstance(m, PreparedMethod)}
        self._operator = next(iter(specs.values()), None)
        for label, operator in specs.items():
            if operator != self._operator:
                raise ConfigError(
                    "methods with different measurements",
                    where=f"method {label!r}: operator",
                    expected=f"{self._operator}, as of the first method",
                    got=operator,
                    mend="make a study of each, or a sweep of the setting",
                )
        _check_focus(self.spec, self.cases)
        self.metrics = phantom_metrics(self.spec.metrics)
        self.measured: Measured | None = None

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.output_dir / "image_quality.html"

    def run(self) -> Measured:
        """Reconstruct what is missing, measure, and write tables and report; a shard only reconstructs its share.

        Raises:
            BusyError: another process works in the same folder.
            DiffReconError: some reconstructions failed; the report is of the others.
        """
        tracked = TrackedRun(
            self.output_dir,
            self.spec.title,
            parent_run_id=self._parent_run_id,
            tags={"title": self.spec.title},
            required=self._required,
            **{**self._tracking, "track": self.evaluation.track},
        )
        with tracked as run:
            self.evaluation.parent_run_id = run.run_id
            failure: DiffReconError | None = None
            try:
                self.evaluation.run()
            except DiffReconError as error:
                if not self.evaluation.rows or self.evaluation.shard is not None:
                    raise
                failure = error
            if self.evaluation.shard is not None:
                return Measured([], [])
            measured = self.measured = self.measure()
            self._write(measured, run)
            if failure is not None:
                raise failure
        return measured

    def _write(self, measured: Measured, run: Any) -> None:
        write_findings(self.output_dir / "findings.csv", measured)
        write_curves(self.output_dir / "curves.csv", measured)
        rows, described = self.evaluation.rows, [m.description for m in self.evaluation.methods]
        write_report(self.report, self.spec, measured, rows, described, self.cases)
        write_summary(self.output_dir, self.spec, measured, rows, described)
        run.log_metrics(
            {
                f"{'_'.join([f.key, *(str(v) for v in f.setting.values())])}/{slug(label)}": f.value
                for (label, _), result in measured.results.items()
                for f in result.findings
                if math.isfinite(f.value)
            }
        )
        run.log_note((self.output_dir / "summary.md").read_text(encoding="utf-8"))
        for name in ("findings.csv", "curves.csv", "summary.html", self.report.name):
            run.log_artifact(self.output_dir / name)

    def measure(self) -> Measured:
        """Return what the metrics find in the reconstructions that did not fail."""
        root = self.output_dir / "reconstructions"
        folders = {method.label: root / method.folder for method in self.evaluation.methods}
        operators = operators_of(self.cases, self._operator)
        done = {
            label: {r.case for r in self.evaluation.rows if r.method == label and not r.failed} for label in folders
        }
        scans = {
            label: scans_of([case for case in self.cases if case.case in done[label]], folder, operators)
            for label, folder in folders.items()
        }
        return measure({label: found for label, found in scans.items() if found}, self.metrics)


def write_cohort(
    study: str | Path | dict[str, Any], output_dir: str | Path, *, base: str | Path | None = None
) -> list[PhantomCase]:
    """Write the phantoms of a study and the cohort over them, ``cohort.json``; return its measurements.

    Args:
        study: as of :class:`QualityStudy`, as all that follow.
        output_dir: folder for everything.
        base: folder that paths in the content are relative to.

    Raises:
        InputError: a file is missing or cannot be read.
        ConfigError: a key or a value that is wrong.
    """
    if isinstance(study, dict):
        spec, folder = checked_study(study, "study"), Path("." if base is None else base)
    else:
        spec, folder = read_study(study), path_option(study, "--config").resolve().parent
    cases, output = phantom_cases(spec, folder), make_folder(Path(output_dir).expanduser())
    write_phantoms(cases, output / "phantoms")
    write_json(output / "cohort.json", cohort_of(spec, cases, folder))
    return cases


def _check_focus(spec: QualitySpec, cases: list[PhantomCase]) -> None:
    """Refuse a focus that no lesion of the study has."""
    found = [setting_of(site) for case in cases for site in case.phantom.sites if site.kind == "lesion"]
    if spec.focus is not None and not any(spec.focus.items() <= setting.items() for setting in found):
        said = sorted({said_of(setting, "") for setting in found})
        raise ConfigError("no such lesion", where="focus", expected=" or ".join(said) or "none", got=spec.focus)


def cohort_of(spec: QualitySpec, cases: list[PhantomCase], base: Path) -> dict[str, Any]:
    """Return the file of the cohort that a study evaluates.

    Args:
        spec: the study.
        cases: its measurements.
        base: folder that the paths of its methods are relative to.
    """
    content: dict[str, Any] = {
        "title": spec.title,
        "cases": [
            {"name": c.case, "image": f"phantoms/{c.case}.nii.gz", "realization": c.noise, "subject": slug(c.label)}
            for c in cases
        ],
        "methods": [_placed(method, base) for method in spec.methods],
        "seed": spec.seed,
        "simulate": spec.simulate,
    }
    return content if spec.data_range is None else {**content, "data_range": spec.data_range}


def _placed(method: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a method with absolute paths; auxiliary bundles may also be named as seen from the bundle."""
    placed = dict(method)
    for key in ("bundle", "volumes"):
        if isinstance(placed.get(key), str):
            placed[key] = str((base / placed[key]).resolve())
    auxiliary = placed.get("auxiliary_bundle")
    names = [auxiliary] if isinstance(auxiliary, str) else auxiliary
    if isinstance(names, list):
        found = [str((base / n).resolve()) if isinstance(n, str) and (base / n).is_dir() else n for n in names]
        placed["auxiliary_bundle"] = found if isinstance(auxiliary, list) else found[0]
    return placed
