# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs a study of image quality: makes phantoms, reconstructs them with every method, measures, and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.evaluation.image_quality.study.measured import (
    Measured,
    measure,
    phantom_metrics,
    write_curves,
    write_findings,
)
from monai_diffrecon.evaluation.image_quality.study.report import write_report, write_summary
from monai_diffrecon.evaluation.image_quality.study.scans import operators_of, phantom_cases, scans_of, write_phantoms
from monai_diffrecon.evaluation.image_quality.study.spec import QualitySpec, checked_study, read_study
from monai_diffrecon.io.atomic import make_folder, write_json


class QualityStudy:
    """Measures phantoms with every method, and answers what each keeps, blurs, and invents.

    The folder gets ``image_quality.html``, ``summary.html`` and ``summary.md`` (one page, for a model card),
    ``findings.csv``, ``curves.csv``, the phantoms, and in ``reconstructions`` the cohort over them
    (:class:`~monai_diffrecon.evaluation.cohort.runner.CohortEvaluation`), which resumes and runs on any executor.

    Args:
        study: file of the study, or its content.
        output_dir: folder for everything.
        base: folder that paths in the content are relative to; that of the file for a file.
        options: of the cohort: executor, tracking, resume.

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
        **options: Any,
    ) -> None:
        if isinstance(study, dict):
            self.spec: QualitySpec = checked_study(study, "study")
            folder = Path("." if base is None else base)
        else:
            self.spec, folder = read_study(study), path_option(study, "--config").resolve().parent
        self.output_dir = Path(output_dir).expanduser()
        make_folder(self.output_dir)
        self.cases = phantom_cases(self.spec)
        write_phantoms(self.cases, self.output_dir / "phantoms")
        cohort = self.output_dir / "cohort.json"
        write_json(cohort, cohort_of(self.spec, self.cases, folder))
        self.evaluation = CohortEvaluation(cohort, self.output_dir / "reconstructions", **options)
        self.metrics = phantom_metrics(self.spec.metrics)

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.output_dir / "image_quality.html"

    def run(self) -> Measured:
        """Reconstruct what is missing, measure, and write tables and report.

        Raises:
            BusyError: another process works in the same folder.
            DiffReconError: some reconstructions failed; the report is of the others.
        """
        failure: DiffReconError | None = None
        try:
            self.evaluation.run()
        except DiffReconError as error:
            if not self.evaluation.rows:
                raise
            failure = error
        measured = self.measure()
        write_findings(self.output_dir / "findings.csv", measured)
        write_curves(self.output_dir / "curves.csv", measured)
        rows, described = self.evaluation.rows, [m.description for m in self.evaluation.methods]
        write_report(self.report, self.spec, measured, rows, described, self.cases)
        write_summary(self.output_dir, self.spec, measured, rows, described)
        if failure is not None:
            raise failure
        return measured

    def measure(self) -> Measured:
        """Return what the metrics find in the reconstructions that are there."""
        root = self.output_dir / "reconstructions"
        folders = {method.label: root / method.folder for method in self.evaluation.methods}
        operators = operators_of(self.cases, list(folders.values()))
        scans = {label: scans_of(self.cases, folder, operators) for label, folder in folders.items()}
        return measure({label: found for label, found in scans.items() if found}, self.metrics)


def cohort_of(spec: QualitySpec, cases: list[Any], base: Path) -> dict[str, Any]:
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
    """Return a method with absolute paths, as far as there are such files."""
    placed = dict(method)
    for key in ("bundle", "volumes"):
        if isinstance(placed.get(key), str):
            placed[key] = str((base / placed[key]).resolve())
    return placed
