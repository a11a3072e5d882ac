# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Conformal quantiles: by hand, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.statistics.conformal import (
    BASE,
    conformal_quantile,
    from_powers,
    needed_groups,
    rounded_up,
)

from ..raising import raises


def single(*scores: float) -> list[tuple[list[float], list[int]]]:
    return [([score], [1]) for score in scores]


@pytest.mark.parametrize(
    ("level", "needed"), [(0.5, 1), (0.6, 2), (0.75, 3), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.1, 1)]
)
def test_groups_that_a_level_needs(level: float, needed: int) -> None:
    """ceil(1 / alpha) - 1, without the round-off of 1 / (1 - 0.9)."""
    assert needed_groups(level) == needed
    assert math.isfinite(conformal_quantile(single(*range(needed)), level))
    if needed > 1:
        assert conformal_quantile(single(*range(needed - 1)), level) == math.inf


def test_one_score_a_group_by_hand() -> None:
    """The ceil((n + 1) level)-th smallest: of 9 at 90 % the largest, at 80 % the 8th, at 50 % the 5th."""
    groups = single(5, 1, 9, 3, 7, 2, 8, 4, 6)
    assert [conformal_quantile(groups, level) for level in (0.9, 0.8, 0.71, 0.5, 0.05)] == [9, 8, 8, 5, 1]
    # Without the correction the ceil(n level)-th.
    assert [conformal_quantile(groups, level, corrected=False) for level in (0.9, 0.8, 0.5, 0.99)] == [9, 8, 5, 9]
    assert conformal_quantile(single(2.5), 0.99, corrected=False) == 2.5


def test_groups_of_several_scores_by_hand() -> None:
    """Three groups, each of weight 1/4, shared out among 1, 2 and 4 scores."""
    groups = [([9.0], [1]), ([2.0, 3.0], [1, 1]), ([1.0, 2.0, 3.0], [2, 1, 1])]
    # At 1: 2/16; at 2: 2/16 + 1/16 more; at 3 as many more; at 9: 4/16 more.
    assert [conformal_quantile(groups, level) for level in (0.125, 0.13, 0.3125, 0.32, 0.5, 0.51, 0.75)] == [
        *(1.0, 2.0, 2.0, 3.0, 3.0, 9.0, 9.0)
    ]
    assert conformal_quantile(groups, 0.76) == math.inf
    # Counts stand for repeated scores, in any order.
    repeated = [([9.0], [5]), ([3.0, 2.0], [7, 7]), ([3.0, 1.0, 2.0, 1.0], [1, 1, 1, 1])]
    assert conformal_quantile(repeated, 0.5) == 3.0


@pytest.mark.slow
@pytest.mark.parametrize("n", [9, 12, 30])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_coverage_of_exchangeable_scores_is_exact(level: float, n: int) -> None:
    """Scores of one continuous distribution: covered with probability ceil((n + 1) level) / (n + 1), whatever it is."""
    trials, rng = 4000, np.random.default_rng(n)
    scores = np.exp(2 * rng.standard_normal((trials, n + 1)))
    held = sum(row[-1] <= conformal_quantile(single(*row[:-1]), level) for row in scores)
    exact = math.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert held / trials == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / trials))


@pytest.mark.parametrize("n", [9, 20])
@pytest.mark.parametrize("level", [0.6, 0.9])
def test_coverage_of_voxels_of_a_new_subject(level: float, n: int) -> None:
    """Subjects differ in scale and size, and all voxels of one share its scale: the unit is the subject.

    Weighing voxels alike without the correction, as if they were independent, covers too little.
    """
    trials, rng = 1500, np.random.default_rng(n)
    covered, naive = [], []
    for _ in range(trials):
        scales, sizes = np.exp(rng.standard_normal(n + 1)), rng.integers(5, 60, n + 1)
        groups = [np.abs(s * rng.standard_normal(m)) for s, m in zip(scales, sizes, strict=True)]
        q = conformal_quantile([(g, np.ones(len(g))) for g in groups[:-1]], level)
        covered.append(float((groups[-1] <= q).mean()))
        naive.append(float((groups[-1] <= np.quantile(np.concatenate(groups[:-1]), level)).mean()))
    error = np.std(covered) / math.sqrt(trials)
    assert level - 4 * error <= np.mean(covered) <= level + 1 / (n + 1) + 4 * error
    assert np.mean(naive) < np.mean(covered)


def test_scores_are_rounded_up_by_at_most_one_percent() -> None:
    scores = np.concatenate([np.exp(np.random.default_rng(0).uniform(-12, 12, 5000)), BASE ** np.arange(-50, 50.0)])
    powers, counts = rounded_up(scores)
    assert powers == sorted(set(powers))
    assert sum(counts) == len(scores)
    ends = np.repeat(from_powers(powers), counts)
    ratio = ends / np.sort(scores)
    assert ratio.min() >= 1.0
    assert ratio.max() <= BASE * (1 + 1e-9)
    assert rounded_up([0.0, 1e-300, 1.0])[1] == [2, 1]
    # A quantile of rounded scores is that of the scores, rounded up.
    groups = np.split(scores, 12)
    plain = conformal_quantile([(g, np.ones(len(g))) for g in groups], 0.9)
    rounded = conformal_quantile([(from_powers(p), c) for p, c in map(rounded_up, groups)], 0.9)
    assert plain <= rounded <= BASE * plain * (1 + 1e-9)


def test_faults() -> None:
    for level in (0.0, 1.0, -0.5, math.nan, math.inf):
        with raises(InputError, where="calibration, level", expected="above 0, below 1"):
            conformal_quantile(single(1), level)
    with raises(InputError, where="calibration", got=0):
        conformal_quantile([], 0.5)
    with raises(InputError, where="calibration", got=1):
        conformal_quantile([([], [])], 0.5)
