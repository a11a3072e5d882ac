# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep: a row for each value, method and metric, the same bytes whenever it is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.comparison.case_metrics import finite_or_none
from monai_diffrecon.comparison.metric_info import MetricInfo
from monai_diffrecon.comparison.statistics import LEAST_PAIRS, bootstrap_interval
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.tables import cell, present, write_csv
from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.evaluation.image_quality.study.verdict import said_of
from monai_diffrecon.evaluation.image_quality.study.words import better_of, unit_of
from monai_diffrecon.evaluation.sweep.spec import Point, SweepSpec
from monai_diffrecon.io.atomic import write_json


@dataclass(frozen=True)
class SweepRow:
    """A metric of a method at a point, over the cases.

    Attributes:
        point: name of the point.
        method: label of the method.
        metric: key of the metric.
        n: cases that have it; of a study, what the number is from.
        mean: their mean; NaN without any.
        low: lower end of the 95 % interval of the mean; NaN below six cases; of a study, its own.
        high: its upper end.
    """

    point: str
    method: str
    metric: str
    n: int
    mean: float
    low: float
    high: float


def shown_metrics(spec: SweepSpec, rows: Sequence[CaseRow]) -> list[MetricInfo]:
    """Return the metrics of a sweep that at least one row has, costs never: they differ from run to run.

    Args:
        spec: the sweep.
        rows: the rows of all points.
    """
    return [info for info in present(rows) if (info.key in spec.metrics if spec.metrics else info.compare)]


def sweep_rows(spec: SweepSpec, rows: Mapping[str, Sequence[CaseRow]], infos: Sequence[MetricInfo]) -> list[SweepRow]:
    """Return the table, in the order of the points, the methods and the metrics.

    Args:
        spec: the sweep.
        rows: name of the point -> its rows.
        infos: the metrics.
    """
    return [
        _row(point, label, info, rows.get(point.name, ()), spec)
        for point in spec.points
        for label in spec.labels
        for info in infos
    ]


def study_table(
    spec: SweepSpec, measured: Mapping[str, Measured | None], unit: str
) -> tuple[list[SweepRow], list[MetricInfo]]:
    """Return the table of a sweep of studies, and what its numbers are: one for each quantity and setting.

    Args:
        spec: the sweep.
        measured: name of the point -> what was found; None where nothing was.
        unit: of intensities.
    """
    found = [m for m in measured.values() if m is not None]
    quantities = {key: q for m in found for metric in m.metrics for key, q in metric.quantities.items()}
    infos: dict[str, MetricInfo] = {}
    settings: dict[str, tuple[str, dict[str, Any]]] = {}
    for key, quantity in quantities.items():
        if spec.metrics and key not in spec.metrics:
            continue
        for setting in [s for m in found for s in m.settings(key)]:
            said = said_of(setting, unit)
            name, title = (key, quantity.title) if said == "all" else (f"{key}: {said}", f"{quantity.title}: {said}")
            settings[name] = key, setting
            infos[name] = MetricInfo(
                name, title, better_of(quantity), "", unit_of(quantity, unit), quantity.digits, compare=False
            )
    rows = []
    for point in spec.points:
        mine = measured.get(point.name)
        for label in spec.labels:
            for name, (key, setting) in settings.items():
                one = None if mine is None else mine.finding(label, key, **setting)
                numbers = (math.nan,) * 3 if one is None else (one.value, one.low, one.high)
                rows.append(SweepRow(point.name, label, name, 0 if one is None else one.n, *numbers))
    return rows, list(infos.values())


def write_results(
    folder: Path, spec: SweepSpec, table: Sequence[SweepRow], failed: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write ``sweep.csv`` and ``sweep.json``; return them.

    Args:
        folder: where to.
        spec: the sweep.
        table: its table.
        failed: name of a point -> why it failed.
    """
    texts = {point.name: point.text for point in spec.points}
    files = folder / "sweep.csv", folder / "sweep.json"
    lines = [
        [spec.parameter, texts[r.point], r.method, r.metric, r.n, *map(cell, (r.mean, r.low, r.high))] for r in table
    ]
    write_csv(files[0], [["parameter", "value", "method", "metric", "n", "mean", "low", "high"], *lines])
    numbers = [
        {"point": r.point, "method": r.method, "metric": r.metric, "n": r.n}
        | {key: finite_or_none(value) for key, value in (("mean", r.mean), ("low", r.low), ("high", r.high))}
        for r in table
    ]
    points = [{"name": p.name, "value": p.value, "error": failed.get(p.name, "")} for p in spec.points]
    results: dict[str, Any] = {"title": spec.title, "parameter": spec.parameter, "points": points, "rows": numbers}
    write_json(files[1], results)
    return files


def _row(point: Point, label: str, info: MetricInfo, rows: Sequence[CaseRow], spec: SweepSpec) -> SweepRow:
    found = [row.value(info.key) for row in rows if row.method == label and not row.failed]
    values = [value for value in found if math.isfinite(value)]
    low, high = math.nan, math.nan
    if len(values) >= LEAST_PAIRS:
        low, high = bootstrap_interval(values, seed=spec.seed, resamples=spec.resamples)
    mean = sum(values) / len(values) if values else math.nan
    return SweepRow(point.name, label, info.key, len(values), mean, low, high)
