# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.detection import area_under_curve, d_prime, detection

from ...raising import raises


def test_area_by_counting_pairs() -> None:
    assert area_under_curve([3, 2, 2], [1, 2]) == pytest.approx((1 + 1 + 1 + 1 + 0.5 + 0.5 - 0) / 6)
    one, zero = np.random.default_rng(0).integers(0, 9, (2, 40))
    naive = np.mean([(a > b) + 0.5 * (a == b) for a in one for b in zero])
    assert area_under_curve(one, zero) == pytest.approx(naive)
    assert area_under_curve(zero, one) == pytest.approx(1 - naive)


def test_d_prime_of_normal_scores() -> None:
    for d in (0.0, 0.7, 2.0):
        assert d_prime(stats.norm.cdf(d / math.sqrt(2)), 1000, 1000) == pytest.approx(d, abs=1e-9)
    one, zero = np.random.default_rng(1).normal(size=(2, 20000))
    found = detection(one[:3000] + 1.5, zero[:3000])
    assert d_prime(area_under_curve(one + 1.5, zero), 20000, 20000) == pytest.approx(1.5, rel=0.02)
    assert found.d_prime_interval[0] < 1.5 < found.d_prime_interval[1]
    assert found.interval == "delong"
    assert found.d_prime == pytest.approx(1.5, rel=0.05)


def test_d_prime_is_finite() -> None:
    assert d_prime(1.0, 10, 20) == pytest.approx(math.sqrt(2) * stats.norm.ppf(1 - 1 / 400))
    assert d_prime(0.0, 10, 20) == pytest.approx(-d_prime(1.0, 10, 20))
    assert d_prime(1 - 1 / 200, 10, 20) < d_prime(1.0, 10, 20)
    found = detection(np.arange(10, 20), np.arange(10))
    assert (found.auc, found.interval) == (1.0, "exact")
    assert found.auc_interval == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert found.auc_interval[0] == pytest.approx(stats.binomtest(10, 10).proportion_ci().low)
    assert found.d_prime_interval[0] < found.d_prime == found.d_prime_interval[1] < math.inf
    mirrored = detection(np.arange(10), np.arange(10, 20))
    assert mirrored.auc_interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))


def test_delong_by_the_definition() -> None:
    one, zero = np.array([1.0, 3.0, 4.0, 5.0]), np.array([0.0, 2.0, 3.0])
    psi = np.array([[(a > b) + 0.5 * (a == b) for b in zero] for a in one])
    variance = psi.mean(1).var(ddof=1) / 4 + psi.mean(0).var(ddof=1) / 3
    a = psi.mean()
    half = stats.norm.ppf(0.95) * math.sqrt(variance) / (a * (1 - a))
    expected = [1 / (1 + math.exp(-(math.log(a / (1 - a)) + sign * half))) for sign in (-1, 1)]
    assert detection(one, zero, level=0.9).auc_interval == pytest.approx(expected)
    ties = detection([1.0, 1.0], [1.0, 1.0])
    assert (ties.auc, ties.d_prime) == (0.5, 0.0)


@pytest.mark.parametrize(("d", "sizes"), [(0.5, (30, 50)), (1.5, (40, 40)), (2.5, (60, 60))])
def test_intervals_cover(d: float, sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(2)
    truth, inside = stats.norm.cdf(d / math.sqrt(2)), 0
    for _ in range(400):
        found = detection(generator.normal(d, 1, sizes[0]), generator.normal(0, 1, sizes[1]))
        inside += found.auc_interval[0] <= truth <= found.auc_interval[1]
    assert 0.92 <= inside / 400 <= 0.985


@pytest.mark.parametrize("groups", [4, 20])
def test_intervals_over_groups_cover(groups: int) -> None:
    """Scores of a volume share an offset: its own for each class, as of regions at different places."""
    generator = np.random.default_rng(3)
    truth, inside, naive = stats.norm.cdf(1.2 / math.sqrt(2) / math.sqrt(1.5)), 0, 0
    labels = np.repeat(np.arange(groups), 6)
    for _ in range(200):
        one, zero = (m + generator.normal(0, 1, 6 * groups) for m in (1.2, 0.0))
        one += np.repeat(generator.normal(0, math.sqrt(0.5), groups), 6)
        zero += np.repeat(generator.normal(0, math.sqrt(0.5), groups), 6)
        low, high = detection(one, zero, groups=(labels, labels), resamples=250).auc_interval
        inside += low <= truth <= high
        low, high = detection(one, zero).auc_interval
        naive += low <= truth <= high
    assert 0.90 <= inside / 200 <= 0.99
    assert naive / 200 < 0.88


def test_groups_of_one_are_as_no_groups() -> None:
    one, zero = np.random.default_rng(4).normal(size=(2, 60))
    plain = detection(one + 1, zero)
    grouped = detection(one + 1, zero, groups=(np.arange(60), 60 + np.arange(60)), resamples=4000)
    assert grouped.interval == "bootstrap"
    assert grouped.auc == plain.auc
    assert grouped.auc_interval == pytest.approx(plain.auc_interval, abs=0.01)
    again = detection(one + 1, zero, groups=(np.arange(60), 60 + np.arange(60)), resamples=4000)
    assert again == grouped
    text = [f"volume {k}" for k in np.arange(60) // 10]
    assert detection(one + 5, zero - 5, groups=(text, text)).auc_interval[0] == pytest.approx(0.025 ** (1 / 6))


def test_bad_scores() -> None:
    with raises(InputError, where="detection"):
        detection([1.0], [0.0, 1.0])
    with raises(InputError, where="detection", got=1.0):
        detection([1.0, 2.0], [0.0, 1.0], level=1.0)
    with raises(InputError, where="detection", got="(2,) and (1,)"):
        detection([1.0, 2.0], [0.0, 1.0], groups=([0, 1], [0]))
    with raises(InputError, where="detection", got=1):
        detection([1.0, 2.0], [0.0, 1.0], groups=([0, 0], [0, 1]))
    with raises(InputError, where="area_under_curve"):
        area_under_curve([math.nan], [0.0])
