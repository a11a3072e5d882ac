# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Statistics against worked examples and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from monai_diffrecon.comparison.statistics import (
    LEAST_PAIRS,
    agreement,
    bootstrap_interval,
    holm,
    paired_difference,
    pool,
    signed_rank_p,
)


def test_holm_worked_example() -> None:
    # 4 x 0.01 = 0.04; 3 x 0.02 = 0.06; 2 x 0.03 = 0.06; 1 x 0.04 = 0.04, lifted to the 0.06 before it.
    corrected = holm({"c": 0.03, "a": 0.01, "d": 0.04, "none": None, "b": 0.02})
    assert corrected == {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06, "none": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_signed_rank_is_scipys_and_keeps_quiet_about_few_pairs() -> None:
    differences = np.array([0.5, -0.1, 0.9, 1.1, 0.3, 0.7, 0.2])
    assert signed_rank_p(differences) == stats.wilcoxon(differences).pvalue
    assert signed_rank_p(np.arange(1.0, LEAST_PAIRS)) is None
    assert signed_rank_p(np.arange(1.0, LEAST_PAIRS + 1)) == pytest.approx(2 / 2**LEAST_PAIRS)
    assert stats.wilcoxon(np.arange(1.0, LEAST_PAIRS)).pvalue > 0.05
    assert signed_rank_p(np.zeros(8)) == 1.0


def test_bootstrap_is_seeded_and_like_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1)
    assert (low, high) != bootstrap_interval(values, seed=2)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert low < values.mean() < high
    narrow = bootstrap_interval(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert all(map(math.isnan, bootstrap_interval([1.0])))


def test_pairs_without_a_value_are_left_out() -> None:
    d = paired_difference([3.0, math.nan, 5.0, math.inf], [1.0, 2.0, 2.0, 1.0])
    assert (d.n, d.mean, d.p) == (2, 2.5, None)
    assert d.low == 2.0
    assert d.high == 3.0
    nothing = paired_difference([math.nan], [1.0])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


def test_pooled_agreement_is_that_of_all_voxels() -> None:
    generator = np.random.default_rng(0)
    truth = [generator.normal(size=n) for n in (50, 80)]
    values = [t + generator.normal(loc, 0.3, size=len(t)) for t, loc in zip(truth, (0.1, -0.4), strict=True)]
    parts = pool([agreement(v, t) for v, t in zip(values, truth, strict=True)])
    whole = np.concatenate(values) - np.concatenate(truth)
    assert parts.n == 130
    assert parts.bias == pytest.approx(whole.mean())
    assert parts.sd == pytest.approx(whole.std())
    assert parts.limits == pytest.approx((whole.mean() - 1.96 * whole.std(), whole.mean() + 1.96 * whole.std()))
