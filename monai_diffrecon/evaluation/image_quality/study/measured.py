# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What all metrics found of all methods."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.evaluation.cohort.tables import cell, write_csv
from monai_diffrecon.evaluation.image_quality.metrics.regions import order_of
from monai_diffrecon.protocols import Curve, Finding, PhantomMetric, PhantomScan, Picture, QualityResult

logger = logging.getLogger(__name__)


@dataclass
class Measured:
    """The results of a study.

    Attributes:
        labels: of the methods.
        metrics: those that were computed, in the order of the report.
        results: (method, metric) -> what was found.
    """

    labels: list[str]
    metrics: list[PhantomMetric]
    results: dict[tuple[str, str], QualityResult] = field(default_factory=dict)

    def findings(self, label: str, key: str) -> list[Finding]:
        """Return the numbers of a method under a key."""
        return [f for m in self.metrics for f in self.result_of(label, m).findings if f.key == key]

    def finding(self, label: str, key: str, **setting: Any) -> Finding | None:
        """Return the number of a method under a key whose setting has these entries, or None."""
        found = [f for f in self.findings(label, key) if setting.items() <= f.setting.items()]
        return found[0] if found else None

    def settings(self, key: str) -> list[dict[str, Any]]:
        """Return the settings that any method has a number for, sorted for readers."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for label in self.labels:
            for finding in self.findings(label, key):
                found.setdefault(tuple(finding.setting.items()), finding.setting)
        return sorted(found.values(), key=order_of)

    def curves(self, label: str, key: str) -> list[Curve]:
        """Return the curves of a method under a key."""
        return [c for m in self.metrics for c in self.result_of(label, m).curves if c.key == key]

    def picture(self, label: str, key: str) -> Picture | None:
        """Return the image of a method under a key, or None."""
        return next((p for m in self.metrics for p in self.result_of(label, m).pictures if p.key == key), None)

    def result_of(self, label: str, metric: PhantomMetric) -> QualityResult:
        """Return what a metric found of a method; nothing if it was not computed."""
        return self.results.get((label, metric.name), QualityResult())


def phantom_metrics(names: Sequence[str] | None) -> list[PhantomMetric]:
    """Return the metrics of image quality of these names; None takes all that are installed and can be loaded."""
    if names is not None:
        return [registry.create("metrics", name) for name in names]
    found = []
    for info in registry.available("metrics"):
        try:
            cls = registry.load("metrics", f"{info.distribution}:{info.name}")
        except DiffReconError as error:
            logger.warning("the metric %s is skipped: %s", info.name, error.what)
            continue
        if issubclass(cls, PhantomMetric):
            found.append(cls())
    order = ("contrast", "resolution", "noise", "invented")
    known = [metric for metric in found if metric.question in order]
    for metric in found:
        if metric.question not in order:
            logger.warning("the metric %s is skipped: it answers no question of the report", metric.name)
    return sorted(known, key=lambda metric: (order.index(metric.question), metric.name))


def measure(scans: Mapping[str, Sequence[PhantomScan]], metrics: Sequence[PhantomMetric]) -> Measured:
    """Compute all metrics of all methods; one that fails is a warning of the report.

    Args:
        scans: label of a method -> its reconstructions.
        metrics: the metrics.
    """
    measured = Measured(list(scans), list(metrics))
    for label, mine in scans.items():
        for metric in metrics:
            fitting = [scan for scan in mine if any(site.kind in metric.kinds for site in scan.sites)]
            if not fitting:
                continue
            try:
                result = metric(fitting)
            except Exception as error:  # a third party's may raise anything; the others are still wanted
                logger.warning("the metric %s of %s failed: %s", metric.name, label, error)
                result = QualityResult(warnings=(f"{metric.name} failed: {type(error).__name__}",))
            measured.results[label, metric.name] = result
    return measured


def write_findings(path: Path, measured: Measured) -> None:
    """Write all numbers as CSV, one a row: method, metric, key, setting, value, interval, count."""
    settings = list(dict.fromkeys(k for r in measured.results.values() for f in r.findings for k in f.setting))
    rows: list[list[Any]] = [["method", "metric", "quantity", *settings, "value", "low", "high", "n"]]
    for (label, name), result in measured.results.items():
        for f in result.findings:
            numbers = [cell(v) for v in (f.value, f.low, f.high)]
            rows.append([label, name, f.key, *(f.setting.get(k, "") for k in settings), *numbers, f.n])
    write_csv(path, rows)


def write_curves(path: Path, measured: Measured) -> None:
    """Write all curves as CSV, one point a row."""
    rows: list[list[Any]] = [["method", "curve", "setting", "x", "y"]]
    for (label, _), result in measured.results.items():
        for curve in result.curves:
            said = " ".join(f"{k}={v}" for k, v in curve.setting.items())
            rows += [[label, curve.key, said, cell(x), cell(y)] for x, y in zip(curve.x, curve.y, strict=True)]
    write_csv(path, rows)
