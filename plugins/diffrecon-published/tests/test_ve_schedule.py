# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The schedule of the variance-exploding SDE, with what float32 does to it."""

from itertools import pairwise

import numpy as np
import pytest

from diffrecon_published.ve_schedule import INDEX_RULES, VESchedule, ve_schedule


def schedule(steps: int, rule: str, time_end: float = 1e-5) -> VESchedule:
    return ve_schedule(steps, 0.01, 378.0, time_end=time_end, index_rule=rule)


@pytest.mark.parametrize(("steps", "mismatches"), [(20, 1), (50, 2), (2000, 137)])
def test_truncation_in_single_precision(steps: int, mismatches: int) -> None:
    """With the published end of DiffusionMBIR so many levels are one too low; with that of TPDM none."""
    levels = schedule(steps, "exact", 1e-10).discrete
    assert levels == tuple(sorted(set(levels), reverse=True))
    published = schedule(steps, "trunc32", 1e-10)
    wrong = [i for i in range(steps) if published.discrete[i] != levels[i]]
    assert len(wrong) == mismatches
    for i in wrong:
        assert published.discrete[i] == levels[i + 1]  # the next lower one
    assert schedule(steps, "trunc32", 1e-5) == schedule(steps, "exact", 1e-5)


def test_distinct_levels_of_the_published_schedule() -> None:
    assert len(set(schedule(2000, "trunc32", 1e-10).discrete)) == 1879


@pytest.mark.parametrize("rule", INDEX_RULES)
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_ends_and_order(rule: str, steps: int) -> None:
    s = schedule(steps, rule)
    assert s.sigma[0] == pytest.approx(378.0)
    assert s.discrete[0] == pytest.approx(378.0)
    assert s.sigma[-1] == pytest.approx(0.01, rel=2e-4)
    assert s.discrete[-1] == pytest.approx(0.01)
    assert s.following[-1] == 0.0
    assert all(a > b for a, b in pairwise(s.sigma))
    assert all(a > b for a, b in zip(s.discrete, s.following, strict=True))


def test_levels_by_hand() -> None:
    """Three levels from 100 to 1: 100, 10, 1; times 1, 0.55 and 0.1 give the levels 2, 1 and 0."""
    s = ve_schedule(3, 1.0, 100.0, time_end=0.1)
    np.testing.assert_allclose(s.sigma, [100.0, 100.0**0.55, 100.0**0.1], rtol=1e-6)
    np.testing.assert_allclose(s.discrete, [100.0, 10.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(s.following, [10.0, 1.0, 0.0], rtol=1e-12)
