# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The report of a cohort: one self-contained HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_diffrecon.comparison.metric_info import DEFINITIONS, HIGHER, MetricInfo
from monai_diffrecon.comparison.statistics import LEAST_PAIRS, PairedDifference, pool
from monai_diffrecon.comparison.third_party_metrics import metric_infos
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.spec import CohortSpec
from monai_diffrecon.evaluation.cohort.tables import Summary, compare, differences_of, mean_coverage, present, summarize
from monai_diffrecon.evaluation.pages.charts import agreement_plot, box_plot, forest_plot, line_plot
from monai_diffrecon.evaluation.pages.render import write_page

_TEMPLATE = Path(__file__).parent / "template" / "report.html.j2"
#: Metrics with charts; all are in the tables.
_CHARTS = ("psnr", "ssim", "psnr_mask")


def write_report(
    path: str | Path,
    spec: CohortSpec,
    rows: Sequence[CaseRow],
    methods: Sequence[Mapping[str, Any]],
    data_sha256: str,
    pictures: Mapping[str, Path | None],
    pages: Mapping[str, Path],
) -> None:
    """Write the report, atomically.

    Args:
        path: HTML file to write.
        spec: the cohort.
        rows: its rows.
        methods: descriptions of the methods, without paths.
        data_sha256: hash over the cases.
        pictures: case -> picture of all its reconstructions.
        pages: case -> page that shows them in a browser, in a folder beside the report.
    """
    views = {case: quote(f"{page.parent.name}/{page.name}") for case, page in pages.items()}
    write_page(path, _TEMPLATE, **_context(spec, rows, methods, data_sha256, pictures), views=views)


def best_median_worst(rows: Sequence[CaseRow]) -> dict[str, str]:
    """Return ``best``, ``median`` and ``worst`` -> name of the case, by PSNR; empty without any."""
    finite = [row for row in rows if not row.failed and math.isfinite(row.value("psnr"))]
    ranked = [row.case for row in sorted(finite, key=lambda row: (-row.value("psnr"), row.case))]
    if not ranked:
        return {}
    return {"best": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[-1]}


def shown_cases(rows: Sequence[CaseRow], labels: Sequence[str]) -> dict[str, str]:
    """Return the best, the median and the worst case of the method with the best mean PSNR; empty without any."""
    (psnr,) = (info for info in metric_infos() if info.key == "psnr")
    means = summarize(rows, labels, [psnr])["psnr"]
    most = max((s.n for s in means), default=0)
    label = max(
        (pair for pair in zip(labels, means, strict=True) if pair[1].n == most),
        key=lambda pair: pair[1].mean if pair[1].n else -math.inf,
    )[0]
    return best_median_worst([row for row in rows if row.method == label])


def _context(
    spec: CohortSpec,
    rows: Sequence[CaseRow],
    methods: Sequence[Mapping[str, Any]],
    data_sha256: str,
    pictures: Mapping[str, Path | None],
) -> dict[str, Any]:
    labels, infos = [m.label for m in spec.methods], present(rows)
    summary = summarize(rows, labels, infos)
    differences = compare(rows, labels, spec.baseline, infos, seed=spec.seed, resamples=spec.resamples)
    by_key = {info.key: info for info in metric_infos()}
    groups = {info.group: [i for i in infos if i.group == info.group] for info in infos}
    return {
        "spec": spec,
        "labels": labels,
        "methods": methods,
        "counts": {m: sum(r.method == m and not r.failed for r in rows) for m in labels},
        "failures": _failures(rows),
        "tables": [_table(name, group, labels, summary) for name, group in groups.items()],
        "differences": [_difference(by_key[key], row, rows, spec.baseline) for key, row in differences.items() if row],
        "dots": [_dots(info, rows, labels) for info in infos if info.key in (*_CHARTS, "seconds")],
        "definitions": [(info, DEFINITIONS[info.key]) for info in infos if info.key in DEFINITIONS],
        "montages": _montages(rows, labels, pictures),
        "few": max((d.n for row in differences.values() for d in row.values()), default=0) < LEAST_PAIRS,
        "spread": max((s.n for row in summary.values() for s in row), default=0) >= LEAST_PAIRS,
        "agreements": _agreements(rows, labels),
        "calibration": _calibration(rows, labels),
        "rows": rows,
        "least_pairs": LEAST_PAIRS,
        "least_p": _least_p(differences),
        "versions": _versions(rows),
        "data_sha256": data_sha256,
    }


def _least_p(differences: Mapping[str, Mapping[str, PairedDifference]]) -> float:
    """Return the smallest corrected p that the metric with the most tests could have had; 0 without a test.

    That of a signed-rank test of n pairs is ``2 / 2^n``, when all differences have one sign.
    """
    least = 0.0
    for row in differences.values():
        tested = [d.n for d in row.values() if d.p is not None]
        if tested:
            least = max(least, len(tested) * 2.0 ** (1 - max(tested)))
    return least


def _failures(rows: Sequence[CaseRow]) -> list[dict[str, Any]]:
    """Return one entry a method and error, with all its cases."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.failed:
            found.setdefault((row.method, row.error), []).append(row.case)
    return [{"method": method, "error": error, "cases": cases} for (method, error), cases in found.items()]


def _table(
    name: str, infos: Sequence[MetricInfo], labels: Sequence[str], summary: Mapping[str, list[Summary]]
) -> dict[str, Any]:
    rows = [(label, [(info, summary[info.key][n]) for info in infos]) for n, label in enumerate(labels)]
    return {"name": name, "infos": infos, "rows": rows}


def _difference(
    info: MetricInfo, row: Mapping[str, PairedDifference], rows: Sequence[CaseRow], baseline: str
) -> dict[str, Any]:
    title = f"{info.group}: {info.title}" if info.group.startswith("Within") else info.title
    unit = f"difference, {info.unit}" if info.unit else "difference"
    if info.target is not None:
        unit = f"difference of the distance from {info.target:g}"
    note = "right of 0 is better" if info.better == HIGHER else "left of 0 is better"
    plot, about = None, f"{title}: methods minus {baseline}"
    if info.key in _CHARTS and min(d.n for d in row.values()) < LEAST_PAIRS:
        values = {m: differences_of(rows, m, baseline, info) for m in row}
        plot = box_plot(f"{about}, one dot a case", values, f"{unit}; {note}", zero=True)
    elif info.key in _CHARTS:
        plot = forest_plot(about, {m: (d.mean, d.low, d.high) for m, d in row.items()}, unit, note)
    sign = "positive" if info.better == HIGHER else "negative"
    return {"info": info, "title": title, "sign": sign, "rows": row, "plot": plot}


def _dots(info: MetricInfo, rows: Sequence[CaseRow], labels: Sequence[str]) -> dict[str, Any]:
    title = f"{info.group}: {info.title}" if info.group.startswith("Within") else info.title
    values = {m: [r.value(info.key) for r in rows if r.method == m and not r.failed] for m in labels}
    return {
        "title": title,
        "plot": box_plot(f"{title} by method, one dot a case", values, f"{info.heading}, {info.better} is better"),
    }


def _montages(
    rows: Sequence[CaseRow], labels: Sequence[str], pictures: Mapping[str, Path | None]
) -> list[dict[str, str]]:
    """Return the pictures of the best, the median and the worst case, with captions."""
    roles: dict[str, list[str]] = {}
    for role, case in shown_cases(rows, labels).items():
        roles.setdefault(case, []).append(role)
    shown = []
    for case, found in roles.items():
        path = pictures.get(case)
        if path is not None:
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            shown.append({"case": case, "roles": " and ".join(found), "data": f"data:image/png;base64,{data}"})
    return shown


def _agreements(rows: Sequence[CaseRow], labels: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for label in labels:
        with_truth = [row for row in rows if row.method == label and row.agreement is not None]
        if with_truth:
            pooled = pool([row.agreement for row in with_truth if row.agreement is not None])
            found.append((label, pooled, [pair for row in with_truth for pair in row.sample]))
    # One scale for all methods, so that they can be compared by eye.
    span = max((1.3 * max(map(abs, a.limits)) for _, a, _ in found), default=1.0) or 1.0
    return [
        {
            "label": label,
            "agreement": a,
            "plot": agreement_plot(f"Bland-Altman plot of {label}", pairs, a.bias, a.limits, span),
        }
        for label, a, pairs in found
    ]


def _calibration(rows: Sequence[CaseRow], labels: Sequence[str]) -> dict[str, Any] | None:
    """Return the curves of the methods that drew samples, or None when none did."""
    curves = {label: curve for label in labels if (curve := mean_coverage(rows, label))}
    if not curves:
        return None
    return {
        "levels": sorted({nominal for curve in curves.values() for nominal, _ in curve}),
        "rows": {label: dict(curve) for label, curve in curves.items()},
        "cases": {m: sum(r.method == m and not r.failed and bool(r.coverage) for r in rows) for m in curves},
        "plot": line_plot(
            "Observed over nominal coverage of the intervals of the samples",
            curves,
            "nominal coverage",
            "observed coverage",
            diagonal=True,
        ),
    }


def _versions(rows: Sequence[CaseRow]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.versions.items():
            found.setdefault(name, set()).add(version or "not installed")
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}
