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
from monai_diffrecon.evaluation.sweep.spec import Point, SweepSpec
from monai_diffrecon.io.atomic import write_json


@dataclass(frozen=True)
class SweepRow:
    """A metric of a method at a point, over the cases.

    Attributes:
        point: name of the point.
        method: label of the method.
        metric: key of the metric.
        n: cases that have it.
        mean: their mean; NaN without any.
        low: lower end of the 95 % interval of the mean; NaN below six cases.
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
        low, high = bootstrap_interval(values, seed=spec.cohort.seed, resamples=spec.cohort.resamples)
    mean = sum(values) / len(values) if values else math.nan
    return SweepRow(point.name, label, info.key, len(values), mean, low, high)
