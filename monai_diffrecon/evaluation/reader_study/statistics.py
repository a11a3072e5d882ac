# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Statistics of readings: preferences and agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from monai_diffrecon.errors import InputError


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927); (0, 1) without a trial."""
    if not 0 <= successes <= trials:
        raise InputError("no proportion", where="wilson_interval", expected="0 to trials", got=successes)
    if trials == 0:
        return 0.0, 1.0
    z = float(special.ndtri(0.5 + level / 2))
    p, spread = successes / trials, z * z / trials
    middle = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / trials + spread / (4 * trials))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def sign_test(first: int, second: int) -> float:
    """Return the two-sided exact p-value that neither of two is preferred; ties are left out, 1 without any."""
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Cohen's kappa with quadratic weights (Cohen 1968) of two ratings of the same things.

    ``1 - (mean of (a - b)^2 over the things) / (mean of (a - b)^2 over all pairs of a rating a and a rating b)``.

    Args:
        first: ratings, numbers of an ordered scale.
        second: other ratings, in the same order of things.

    Returns:
        1 for perfect agreement, 0 for chance; NaN when all ratings are one and the same number, or there are none.

    Raises:
        InputError: not as many of both.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError("ratings of different length", where="weighted_kappa", got=f"{a.shape} and {b.shape}")
    if not a.size:
        return math.nan
    by_chance = float(a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    return 1.0 - float(np.mean((a - b) ** 2)) / by_chance if by_chance > 0.0 else math.nan
