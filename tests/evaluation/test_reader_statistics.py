# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.reader_study.statistics import sign_test, weighted_kappa, wilson_interval

from ..raising import raises


def test_wilson_by_the_textbook() -> None:
    # Altman et al., Statistics with Confidence, 2000: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    low, high = wilson_interval(7, 10)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(3, 10))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 10, level=0.5)[0] > wilson_interval(5, 10)[0]
    with raises(InputError, where="wilson_interval", got=3):
        wilson_interval(3, 2)


def test_sign_test_by_hand() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 7) == pytest.approx(2 * 9 / 256)
    assert sign_test(4, 4) == sign_test(0, 0) == 1.0


def test_weighted_kappa_by_the_definition() -> None:
    generator = np.random.default_rng(0)
    a = generator.integers(1, 6, 40)
    b = np.clip(a + generator.integers(-1, 2, 40), 1, 5)
    observed, by_chance = np.zeros((5, 5)), np.zeros((5, 5))
    for one, other in zip(a, b, strict=True):
        observed[one - 1, other - 1] += 1 / 40
    by_chance = np.outer(observed.sum(1), observed.sum(0))
    weights = (np.arange(5)[:, None] - np.arange(5)) ** 2
    expected = 1 - (weights * observed).sum() / (weights * by_chance).sum()
    assert weighted_kappa(a, b) == pytest.approx(expected)
    metrics = pytest.importorskip("sklearn.metrics")
    assert weighted_kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b, weights="quadratic"))


def test_kappa_at_the_ends() -> None:
    assert weighted_kappa([1, 2, 5], [1, 2, 5]) == 1.0
    assert weighted_kappa([1, 5], [5, 1]) == -1.0
    assert weighted_kappa([3, 3, 3], [1, 3, 5]) == pytest.approx(0.0)
    assert math.isnan(weighted_kappa([4, 4], [4, 4]))
    assert math.isnan(weighted_kappa([], []))
    with raises(InputError, where="weighted_kappa", got="(2,) and (1,)"):
        weighted_kappa([1, 2], [1])
