# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The words of the report follow from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from monai_diffrecon.evaluation.image_quality.metrics.lesion_survival import LesionSurvival
from monai_diffrecon.evaluation.image_quality.study.measured import Measured, measure, phantom_metrics
from monai_diffrecon.evaluation.image_quality.study.verdict import focus_of, said_of, sentences, verdict
from monai_diffrecon.protocols import Finding, PhantomMetric, PhantomScan, QualityResult

NODULE = {"lesion": "nodule", "diameter": 4.0, "contrast": 40.0}


def measured(**methods: tuple[float, float, float, float]) -> Measured:
    """Results of methods: contrast, its interval, AUC."""
    found = Measured(list(methods), [LesionSurvival()])
    for label, (value, low, high, auc) in methods.items():
        findings = (Finding("lesion_contrast", value, low, high, NODULE, 9), Finding("cho_auc", auc, setting=NODULE))
        found.results[label, "lesion_survival"] = QualityResult(findings)
    return found


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.9, 0.8, 1.0, 0.95), "kept"),
        ((0.6, 0.5, 0.7, 0.9), "kept"),
        ((0.6, 0.45, 0.75, 0.99), "uncertain"),
        ((0.9, 0.8, 1.0, 0.8), "uncertain"),
        ((0.9, 0.8, 1.0, 0.7), "lost"),
        ((0.3, 0.1, 0.49, 0.99), "faded"),
        ((0.3, 0.1, 0.49, 0.6), "lost"),
        ((2.0, 1.6, 2.4, 0.99), "exaggerated"),
        ((0.9, float("nan"), float("nan"), 0.99), "unknown"),
        ((0.9, 0.8, 1.0, float("nan")), "uncertain"),
    ],
)
def test_a_lesion_is_kept_or_lost(numbers: tuple[float, float, float, float], word: str) -> None:
    assert verdict(measured(one=numbers), "one", NODULE).word == word


def test_sentences_name_who_keeps_and_who_loses() -> None:
    found = measured(good=(0.9, 0.8, 1.0, 0.95), bad=(0.2, 0.1, 0.3, 0.6))
    first, second, third = sentences(found, NODULE, "HU")
    assert "good" in third
    assert "good" in first
    assert "bad" not in first
    assert "bad" in second
    assert said_of(NODULE, "HU") in first


def test_the_focus_is_the_smallest_and_faintest() -> None:
    found = Measured(["one"], [LesionSurvival()])
    settings: list[dict[str, Any]] = [
        {"lesion": "calcification", "diameter": 1.0, "contrast": 800.0},
        {"lesion": "nodule", "diameter": 4.0, "contrast": 100.0},
        {"lesion": "nodule", "diameter": 4.0, "contrast": -40.0},
        {"lesion": "nodule", "diameter": 6.0, "contrast": 10.0},
        {"lesion": "disc", "diameter": 2.0, "contrast": 10.0},
    ]
    findings = tuple(Finding("lesion_contrast", 1.0, setting=setting) for setting in settings)
    found.results["one", "lesion_survival"] = QualityResult(findings)
    assert focus_of(found, None) == settings[2]
    assert focus_of(found, {"diameter": 6.0}) == settings[3]
    assert focus_of(Measured([], []), None) is None


class Failing(LesionSurvival):
    """A metric of a third party that fails."""

    def __call__(self, scans: Any) -> QualityResult:
        """Fail."""
        raise RuntimeError("of its own")


def test_a_metric_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Scan:
        sites = (type("Site", (), {"kind": "lesion"}),)

    scans: Any = {"one": [Scan()]}
    found = measure(scans, [Failing()])
    assert found.results["one", "lesion_survival"].warnings
    assert caplog.records[-1].levelname == "WARNING"


def test_the_installed_metrics_are_those_of_phantoms() -> None:
    found = phantom_metrics(None)
    assert {"lesion_survival", "noise_power"} <= {metric.name for metric in found}
    assert all(isinstance(metric, PhantomMetric) for metric in found)
    assert [m.name for m in phantom_metrics(["noise_power"])] == ["noise_power"]
    assert PhantomScan.__dataclass_params__.frozen  # type: ignore[attr-defined]
