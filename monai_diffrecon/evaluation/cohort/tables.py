# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Turns rows of cases into tables over a cohort."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_diffrecon.comparison.case_metrics import finite_or_none
from monai_diffrecon.comparison.metric_info import MetricInfo
from monai_diffrecon.comparison.statistics import PairedDifference, holm, paired_difference
from monai_diffrecon.comparison.third_party_metrics import metric_infos
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.spec import CohortSpec
from monai_diffrecon.io.atomic import atomic_write, write_json


@dataclass(frozen=True)
class Summary:
    """One metric of one method over the cases.

    Attributes:
        n: cases that have it.
        mean: their mean; NaN without any.
        sd: their standard deviation (n - 1); NaN below two.
        best: no other method is better; False when there is only one.
    """

    n: int
    mean: float
    sd: float
    best: bool = False


def present(rows: Sequence[CaseRow]) -> list[MetricInfo]:
    """Return the metrics that at least one row has."""
    return [info for info in metric_infos() if any(math.isfinite(row.value(info.key)) for row in rows)]


def summarize(rows: Sequence[CaseRow], methods: Sequence[str], infos: Iterable[MetricInfo]) -> dict[str, list[Summary]]:
    """Return metric -> one summary a method, in their order; failed cases and infinite values are left out."""
    return {info.key: _best([_summary(rows, label, info.key) for label in methods], info) for info in infos}


def mean_coverage(rows: Sequence[CaseRow], label: str) -> list[tuple[float, float]]:
    """Return alternating nominal and observed coverage of a method, averaged over its cases; empty without any."""
    observed: dict[float, list[float]] = {}
    for row in rows:
        if row.method == label and not row.failed:
            for nominal, value in row.coverage:
                observed.setdefault(nominal, []).append(value)
    return [(nominal, sum(values) / len(values)) for nominal, values in sorted(observed.items())]


def compare(
    rows: Sequence[CaseRow],
    methods: Sequence[str],
    baseline: str,
    infos: Iterable[MetricInfo],
    *,
    seed: int,
    resamples: int,
) -> dict[str, dict[str, PairedDifference]]:
    """Return metric -> method -> its paired difference from the baseline, Holm-corrected over the methods.

    For a metric whose best value is a number, the distance from it is compared.
    """
    by_key = {(row.case, row.method): row for row in rows}
    cases = list(dict.fromkeys(row.case for row in rows))
    found: dict[str, dict[str, PairedDifference]] = {}
    for info in infos:
        if not info.compare:
            continue
        values = {m: [_compared(by_key.get((c, m)), info) for c in cases] for m in methods}
        plain = {
            m: paired_difference(values[m], values[baseline], seed=seed, resamples=resamples)
            for m in methods
            if m != baseline
        }
        corrected = holm({m: d.p for m, d in plain.items()})
        found[info.key] = {m: replace(d, p_holm=corrected[m]) for m, d in plain.items()}
    return found


def differences_of(rows: Sequence[CaseRow], method: str, baseline: str, info: MetricInfo) -> list[float]:
    """Return the differences of a method from the baseline, one a case that both have."""
    by_key = {(row.case, row.method): row for row in rows}
    cases = dict.fromkeys(row.case for row in rows)
    pairs = [(_compared(by_key.get((c, method)), info), _compared(by_key.get((c, baseline)), info)) for c in cases]
    return [a - b for a, b in pairs if math.isfinite(a - b)]


def write_tables(
    folder: Path, spec: CohortSpec, rows: Sequence[CaseRow], methods: Sequence[Mapping[str, Any]], data_sha256: str
) -> list[Path]:
    """Write ``cases.csv``, ``summary.csv``, ``differences.csv`` and ``results.json``; return them.

    Args:
        folder: where to.
        spec: the cohort.
        rows: its rows.
        methods: descriptions of the methods, without paths.
        data_sha256: hash over the cases.
    """
    infos, labels = present(rows), [m.label for m in spec.methods]
    summary = summarize(rows, labels, infos)
    differences = compare(rows, labels, spec.baseline, infos, seed=spec.seed, resamples=spec.resamples)
    keys = [info.key for info in infos]
    tables: dict[str, list[list[Any]]] = {
        "cases.csv": [
            ["case", "method", "status", *keys, "error"],
            *([r.case, r.method, r.status, *(cell(r.value(k)) for k in keys), r.error] for r in rows),
        ],
        "summary.csv": [
            ["metric", "method", "n", "mean", "sd"],
            *(
                [key, label, s.n, cell(s.mean), cell(s.sd)]
                for key, row in summary.items()
                for label, s in zip(labels, row, strict=True)
            ),
        ],
        "differences.csv": [
            ["metric", "method", "baseline", "n", "mean", "low", "high", "p", "p_holm"],
            *(
                [key, m, spec.baseline, d.n, *map(cell, (d.mean, d.low, d.high, d.p, d.p_holm))]
                for key, row in differences.items()
                for m, d in row.items()
            ),
        ],
    }
    for name, table in tables.items():
        write_csv(folder / name, table)
    results = {
        "title": spec.title,
        "seed": spec.seed,
        "baseline": spec.baseline,
        "data_sha256": data_sha256,
        "methods": [dict(method) for method in methods],
        "cases": [
            {
                "case": r.case,
                "method": r.method,
                "status": r.status,
                "error": r.error,
                "record_sha256": r.record_sha256,
                "metrics": {k: finite_or_none(v) for k, v in r.metrics.items()},
            }
            for r in rows
        ],
    }
    write_json(folder / "results.json", results)
    return [folder / name for name in (*tables, "results.json")]


def _summary(rows: Sequence[CaseRow], label: str, key: str) -> Summary:
    values = [row.value(key) for row in rows if row.method == label and not row.failed]
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return Summary(0, math.nan, math.nan)
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
    return Summary(len(values), mean, sd)


def _best(row: list[Summary], info: MetricInfo) -> list[Summary]:
    """Mark the best of the methods with the most cases, so that a method that failed on hard cases cannot win."""
    most = max((s.n for s in row), default=0)
    scores = [info.goodness(s.mean) if s.n == most and most else -math.inf for s in row]
    if sum(s.n > 0 for s in row) < 2:
        return row
    return [replace(s, best=score == max(scores) and score > -math.inf) for s, score in zip(row, scores, strict=True)]


def _compared(row: CaseRow | None, info: MetricInfo) -> float:
    return math.nan if row is None or row.failed else info.compared(row.value(info.key))


def cell(value: float | None) -> str:
    """Return a number for a table, nothing for one that is not finite."""
    return "" if value is None or not math.isfinite(value) else f"{value:.8g}"


def write_csv(path: Path, table: Sequence[Sequence[Any]]) -> None:
    """Write a table, atomically, so that no spreadsheet takes a text of it for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # A spreadsheet takes a cell that begins like this for a formula.
    writer.writerows([f"'{c}" if isinstance(c, str) and c[:1] in ("=", "+", "@") else c for c in row] for row in table)
    atomic_write(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))
