# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One point of a sweep: a cohort, or a study of image quality, in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.evaluation.image_quality.study.runner import QualityStudy
from monai_diffrecon.io.atomic import make_folder, write_json


@dataclass(frozen=True)
class PointResult:
    """What came of a point.

    Attributes:
        rows: its rows, the failed ones too.
        report: its page, if there are rows; a shard writes none.
        error: why it failed, or None.
        measured: what the metrics of a study found, or None.
    """

    rows: list[CaseRow]
    report: Path | None
    error: DiffReconError | None
    measured: Measured | None = None


def check_point(content: Mapping[str, Any], folder: Path, base: Path | None = None, **options: Any) -> None:
    """Check a point without computing anything: all of its files, and the settings with its first scan.

    Args:
        content: of the cohort's file, with absolute paths, or of the study's.
        folder: of the point.
        base: folder that paths of a study are relative to; None for a cohort.
        options: of :class:`~monai_diffrecon.evaluation.cohort.runner.CohortEvaluation`.

    Raises:
        DiffReconError: what the run of the point would raise before its first step.
    """
    prepared = _prepared(content, folder, base, options)
    evaluation = prepared.evaluation if isinstance(prepared, QualityStudy) else prepared
    for case in evaluation.cases[:1]:
        for method in evaluation.methods:
            if isinstance(method, PreparedMethod):
                method.inferer.check(method.inferer.pose(method.measure(case)["image"], case=case.name))


def run_point(content: Mapping[str, Any], folder: Path, base: Path | None = None, **options: Any) -> PointResult:
    """Compute what is missing of a point; its failure is part of the result.

    Args:
        content: of the cohort's file, with absolute paths, or of the study's.
        folder: of the point.
        base: folder that paths of a study are relative to; None for a cohort.
        options: of :class:`~monai_diffrecon.evaluation.cohort.runner.CohortEvaluation`.
    """
    prepared, error = None, None
    try:
        prepared = _prepared(content, folder, base, options)
        prepared.run()
    except DiffReconError as found:
        error = found
    if prepared is None:
        return PointResult([], None, error)
    if isinstance(prepared, QualityStudy):
        rows, measured = prepared.evaluation.rows, prepared.measured
    else:
        rows, measured = prepared.rows, None
    return PointResult(rows, prepared.report if rows else None, error, measured)


def _prepared(
    content: Mapping[str, Any], folder: Path, base: Path | None, options: Mapping[str, Any]
) -> CohortEvaluation | QualityStudy:
    if base is not None:
        return QualityStudy(dict(content), folder, base=base, **options)
    file = make_folder(folder) / "cohort.json"
    write_json(file, dict(content))
    return CohortEvaluation(file, folder, **options)
