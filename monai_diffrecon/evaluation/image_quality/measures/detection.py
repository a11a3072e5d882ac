# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How well scores tell regions with a signal from those without: AUC and d', with intervals.

Finite samples bias a trained observer. With the covariance estimated from n degrees of freedom and m channels, the
plug-in d' (trained and tested on the same regions) is too large: ``E[d^2] = n / (n - m - 1) (d^2 + m (1 / N1 + 1 /
N0))``, n = N1 + N0 - 2, from the mean of the noncentral F distribution of Hotelling's statistic (Anderson, An
Introduction to Multivariate Statistical Analysis, 5.2; Wunderlich and Noo, IEEE TMI 28:1198, 2009). Scores of regions
held out are those of an observer trained on fewer regions than there are: their AUC is too low (Fukunaga and Hayes,
IEEE PAMI 11:873, 1989). Truth lies between the two, and both near it when there are many times more regions than
channels. Intervals take the template as given: that training on other regions would give another one is not in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import rankdata, t

from monai_diffrecon.errors import InputError

from .arrays import checked, checked_number


@dataclass(frozen=True)
class Detection:
    """AUC and d' of a detection task with their confidence intervals.

    Attributes:
        auc: area under the ROC curve, the share of correct choices between two (Mann-Whitney; ties count half).
        auc_interval: lower and upper end.
        d_prime: ``sqrt(2) Phi^-1(AUC)``, see :func:`d_prime`.
        d_prime_interval: the same of the ends; an upper end at AUC 1 is only the largest number that the sample can
            show.
        interval: ``delong``; ``bootstrap`` over groups; ``exact`` for an AUC of 0 or 1, which have no variance.
    """

    auc: float
    auc_interval: tuple[float, float]
    d_prime: float
    d_prime_interval: tuple[float, float]
    interval: str


def area_under_curve(present: ArrayLike, absent: ArrayLike) -> float:
    """Return the share of pairs in which the region with the signal scores higher; ties count half.

    Raises:
        InputError: no scores, or ones that are not finite.
    """
    one, zero = (checked(x, (1,), "area_under_curve") for x in (present, absent))
    rank = rankdata(np.concatenate([one, zero]))[: len(one)].sum()
    return float((rank - len(one) * (len(one) + 1) / 2) / (len(one) * len(zero)))


def d_prime(auc: float, present: int, absent: int) -> float:
    """Return ``sqrt(2) Phi^-1(AUC)``, the separation of two normal distributions of equal width with this AUC.

    An AUC within half its smallest step, ``1 / (2 N1 N0)``, of 0 or 1 is taken as that far from it, so that the result
    is finite (the continuity rule of Macmillan and Kaplan, Psychol Bull 98:185, 1985, for the steps of this statistic).

    Args:
        auc: 0 to 1.
        present: scores with the signal, N1.
        absent: those without, N0.
    """
    step = 0.5 / (present * absent)
    return math.sqrt(2.0) * float(ndtri(min(max(auc, step), 1.0 - step)))


def detection(
    present: ArrayLike,
    absent: ArrayLike,
    *,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Detection:
    """Return AUC and d' of scores, with intervals.

    The standard error is DeLong's (Biometrics 44:837, 1988), or that of a bootstrap that draws whole groups, separately
    those with both classes and those with one. The interval is symmetric in the logit of the AUC, so it stays within 0
    and 1; with groups, its quantile is that of Student's t for the smaller number of groups with a class, less one.
    Without variance, at an AUC of 1, the lower end is that of n right choices of n (Clopper and Pearson 1934), n the
    smaller number of regions, or of groups, with a class: so many pairs share nothing. At 0, it is mirrored.

    Args:
        present: (N1,): scores of regions with the signal.
        absent: (N0,): scores of those without.
        groups: labels of both: scores that share one are not independent. None: all are.
        level: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two scores of a class, fewer than two groups, or labels that do not fit.
    """
    one, zero = (checked(x, (1,), "detection", least=2) for x in (present, absent))
    tail = (1 - checked_number(level, "detection", "level", 0.0, 1.0)) / 2
    auc, size = area_under_curve(one, zero), min(len(one), len(zero))
    if groups is None:
        kind, error, quantile = "delong", _delong_error(one, zero), float(-ndtri(tail))
    else:
        labels = tuple(np.asarray(g) for g in groups)
        if any(label.shape != x.shape for label, x in zip(labels, (one, zero), strict=True)):
            got = f"{labels[0].shape} and {labels[1].shape}"
            raise InputError("labels do not fit the scores", where="detection", expected="one a score", got=got)
        size = min(len(np.unique(label)) for label in labels)
        if size < 2:
            raise InputError("fewer than two groups", where="detection", expected="2 groups of each class", got=size)
        kind, error = "bootstrap", _grouped_error(one, zero, labels, resamples, seed)
        quantile = float(t.isf(tail, size - 1))
    if auc in (0.0, 1.0):
        kind, bound = "exact", tail ** (1 / size)
        interval = (bound, 1.0) if auc == 1.0 else (0.0, 1.0 - bound)
    else:
        logit, half = math.log(auc / (1 - auc)), quantile * error / (auc * (1 - auc))
        interval = (1 / (1 + math.exp(min(half - logit, 700.0))), 1 / (1 + math.exp(-min(logit + half, 700.0))))
    low, high = (d_prime(end, len(one), len(zero)) for end in interval)
    return Detection(auc, interval, d_prime(auc, len(one), len(zero)), (low, high), kind)


def _wins(one: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return, (N1, N0), 1 where the region with the signal scores higher, 1/2 for ties, 0 otherwise."""
    return (one[:, None] > zero) + 0.5 * (one[:, None] == zero)


def _delong_error(one: np.ndarray, zero: np.ndarray) -> float:
    wins = _wins(one, zero)
    return math.sqrt(wins.mean(axis=1).var(ddof=1) / len(one) + wins.mean(axis=0).var(ddof=1) / len(zero))


def _grouped_error(
    one: np.ndarray, zero: np.ndarray, labels: tuple[np.ndarray, ...], resamples: int, seed: int
) -> float:
    """Return the bootstrap's standard error of the AUC over groups.

    A sample is a number of times that each group is drawn; the pairs won are sums over pairs of groups, counted once.
    """
    kinds, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    first, second = (np.eye(len(kinds))[n] for n in np.split(numbers, [len(one)]))  # (N1, G) and (N0, G)
    won, n1, n0 = first.T @ _wins(one, zero) @ second, first.sum(axis=0), second.sum(axis=0)
    generator, drawn = np.random.default_rng(seed), np.zeros((resamples, len(kinds)))
    for stratum in ((n1 > 0) & (n0 > 0), (n1 > 0) & (n0 == 0), (n1 == 0) & (n0 > 0)):
        if size := int(stratum.sum()):
            drawn[:, stratum] = generator.multinomial(size, np.full(size, 1 / size), resamples)
    aucs = np.einsum("bg,gh,bh->b", drawn, won, drawn, optimize=True) / ((drawn @ n1) * (drawn @ n0))
    smallest = min(int((n > 0).sum()) for n in (n1, n0))
    return float(aucs.std(ddof=1)) * math.sqrt(smallest / (smallest - 1))  # drawing from so few spreads too little
