# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep: a chart and a table for each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_diffrecon.comparison.metric_info import MetricInfo
from monai_diffrecon.comparison.statistics import LEAST_PAIRS
from monai_diffrecon.evaluation.pages.charts import line_plot
from monai_diffrecon.evaluation.pages.render import write_page
from monai_diffrecon.evaluation.sweep.results import SweepRow
from monai_diffrecon.evaluation.sweep.spec import SweepSpec

_TEMPLATE = Path(__file__).parent / "template" / "sweep.html.j2"
#: From this ratio of the largest to the smallest value on, the axis is logarithmic; texts below an axis.
_WIDE, _MOST_TICKS = 8, 10


def write_sweep_report(
    path: Path,
    spec: SweepSpec,
    table: Sequence[SweepRow],
    infos: Sequence[MetricInfo],
    reports: Mapping[str, Path],
    failed: Mapping[str, str],
) -> None:
    """Write the page, atomically.

    Args:
        path: HTML file to write.
        spec: the sweep.
        table: its table.
        infos: its metrics.
        reports: name of a point -> its page, below the folder of ``path``.
        failed: name of a point -> why it failed.
    """
    links = {name: quote(report.relative_to(path.parent).as_posix()) for name, report in reports.items()}
    context = {
        "spec": spec,
        "links": links,
        "failed": failed,
        "metrics": [_metric(spec, [r for r in table if r.metric == info.key], info) for info in infos],
        "least_pairs": LEAST_PAIRS,
        "intervals": any(math.isfinite(row.low) for row in table),
    }
    write_page(path, _TEMPLATE, **context)


def _metric(spec: SweepSpec, rows: Sequence[SweepRow], info: MetricInfo) -> dict[str, Any]:
    """Return what the page shows of a metric: its chart, and method -> a row for each point."""
    x, log_x = _places(spec)
    ordered = sorted(spec.points, key=lambda point: x[point.name])
    every = -(-len(ordered) // _MOST_TICKS)
    by_key = {(row.method, row.point): row for row in rows}
    found = {label: [by_key[label, point.name] for point in ordered] for label in spec.labels}
    curves = {label: [(x[row.point], row.mean, row.low, row.high) for row in line] for label, line in found.items()}
    title = f"{info.group}: {info.title}" if info.group.startswith("Within") else info.title
    plot = line_plot(
        f"{title} over {spec.parameter}",
        curves,
        spec.parameter,
        f"{info.heading}, {info.better} is better" if info.better else info.heading,
        log_x=log_x,
        ticks={x[point.name]: point.text for point in ordered[::every]},
    )
    return {"info": info, "title": title, "plot": plot, "points": ordered, "rows": found}


def _places(spec: SweepSpec) -> tuple[dict[str, float], bool]:
    """Return name of the point -> its place on the axis, and whether that is logarithmic; words are evenly spaced."""
    values = [point.value for point in spec.points]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return {point.name: float(number) for number, point in enumerate(spec.points)}, False
    wide = min(values) > 0 and max(values) >= _WIDE * min(values)
    return {point.name: float(point.value) for point in spec.points}, wide
