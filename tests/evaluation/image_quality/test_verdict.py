# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The words of the report follow from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from monai_diffrecon.evaluation.image_quality.metrics.lesion_survival import LesionSurvival
from monai_diffrecon.evaluation.image_quality.study.measured import Measured, measure, phantom_metrics
from monai_diffrecon.evaluation.image_quality.study.verdict import focus_of, said_of, sentences, verdict
from monai_diffrecon.protocols import Finding, PhantomMetric, QualityResult

NODULE = {"lesion": "nodule", "diameter": 4.0, "contrast": 40.0}


Numbers = tuple[float, float, float, float]
NAN = float("nan")


def measured(**methods: Numbers) -> Measured:
    """Results of methods: the intervals of contrast and AUC, whose middles are the values."""
    found = Measured(list(methods), [LesionSurvival()])
    for label, (low, high, auc_low, auc_high) in methods.items():
        contrast = Finding("lesion_contrast", (low + high) / 2, low, high, NODULE, 9)
        auc = Finding("cho_auc", (auc_low + auc_high) / 2, auc_low, auc_high, NODULE, 9)
        found.results[label, "lesion_survival"] = QualityResult((contrast, auc))
    return found


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.8, 1.0, 0.85, 1.0), "kept"),
        ((0.5, 0.7, 0.7, 1.0), "kept"),
        ((0.45, 0.75, 0.9, 1.0), "uncertain"),
        ((0.8, 1.0, 0.6, 0.95), "uncertain"),
        ((0.8, 1.0, 0.5, 0.79), "lost"),
        ((0.1, 0.49, 0.9, 1.0), "faded"),
        ((0.1, 0.49, 0.45, 0.9), "uncertain"),
        ((0.1, 0.3, 0.4, 0.7), "lost"),
        ((1.6, 2.4, 0.9, 1.0), "exaggerated"),
        ((-1.0, -0.8, 0.9, 1.0), "inverted"),
        ((NAN, NAN, 0.9, 1.0), "unknown"),
        ((0.8, 1.0, NAN, NAN), "unknown"),
        ((0.0, 0.0, NAN, NAN), "unknown"),
    ],
)
def test_a_lesion_is_kept_or_lost(numbers: Numbers, word: str) -> None:
    assert verdict(measured(one=numbers), "one", NODULE).word == word


def test_without_an_observer_nothing_is_said_to_be_found() -> None:
    found = measured(one=(0.0, 0.0, 0.9, 1.0))
    (contrast, _) = found.results["one", "lesion_survival"].findings
    found.results["one", "lesion_survival"] = QualityResult((contrast,))
    assert verdict(found, "one", NODULE).word == "unknown"


def test_sentences_name_who_keeps_and_who_loses() -> None:
    found = measured(good=(0.8, 1.0, 0.85, 1.0), bad=(0.1, 0.3, 0.5, 0.7))
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
