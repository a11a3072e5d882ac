# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Paired comparisons of methods over the cases of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Fewer pairs than this cannot reach p < 0.05: with 5 the smallest two-sided p of the signed-rank test is 1/16.
LEAST_PAIRS = 6


@dataclass(frozen=True)
class PairedDifference:
    """A method minus the baseline, case by case.

    Attributes:
        n: pairs.
        mean: mean of the differences.
        low: lower end of the confidence interval of the mean; NaN below two pairs.
        high: its upper end.
        p: two-sided p of the Wilcoxon signed-rank test; None below ``LEAST_PAIRS`` pairs.
        p_holm: the same, corrected for the number of methods.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], *, seed: int = 0, resamples: int = 10000, level: float = 0.95
) -> PairedDifference:
    """Compare paired values; a pair with a value that is not finite is left out.

    Args:
        values: of the method.
        baseline: of the baseline, in the same order of cases.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        level: of the confidence interval.
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    low, high = bootstrap_interval(differences, seed=seed, resamples=resamples, level=level)
    return PairedDifference(n, mean, low, high, p=signed_rank_p(differences))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 10000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron and Tibshirani 1993, section 13.3).

    NaN below two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed_rank_p(differences: Sequence[float] | np.ndarray) -> float | None:
    """Return the two-sided p of the Wilcoxon signed-rank test; None below ``LEAST_PAIRS`` pairs, 1 if all are 0."""
    from scipy.stats import wilcoxon

    differences = np.asarray(differences, dtype=np.float64)
    if len(differences) < LEAST_PAIRS:
        return None
    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values corrected for their number (Holm 1979, Scand. J. Statist. 6); None stays and does not count."""
    ordered = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        corrected[name] = largest
    return corrected


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman agreement of intensities (Bland and Altman 1986, Lancet 327).

    Attributes:
        n: voxels.
        bias: mean of reconstruction minus truth.
        sd: standard deviation of the differences.
    """

    n: int
    bias: float
    sd: float

    @property
    def limits(self) -> tuple[float, float]:
        """The 95 % limits of agreement, ``bias -+ 1.96 sd``."""
        return self.bias - 1.96 * self.sd, self.bias + 1.96 * self.sd


def agreement(values: np.ndarray, truth: np.ndarray) -> Agreement:
    """Return the agreement of voxels with the truth."""
    differences = np.asarray(values, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return Agreement(int(differences.size), float(differences.mean()), float(differences.std(ddof=0)))


def pool(parts: Sequence[Agreement]) -> Agreement:
    """Return the agreement over several cases, as if their voxels were one list."""
    n = sum(part.n for part in parts)
    if not n:
        return Agreement(0, math.nan, math.nan)
    bias = sum(part.n * part.bias for part in parts) / n
    square = sum(part.n * (part.sd**2 + part.bias**2) for part in parts) / n
    return Agreement(n, bias, math.sqrt(max(square - bias**2, 0.0)))
