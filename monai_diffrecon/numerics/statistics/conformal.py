# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Quantiles of split conformal prediction for scores that come in groups, such as the voxels of subjects.

Voxels of one subject depend on each other; subjects are exchangeable. So each of n subjects weighs 1 / (n + 1),
shared out evenly among its scores, and the next subject weighs 1 / (n + 1) at infinity (hierarchical conformal
prediction: Lee, Barber and Willett 2023, arXiv 2306.06342). A score of the next subject, drawn evenly from all of its
scores, is at most the quantile with a probability of at least the level, whatever the distribution. With one score a
subject this is split conformal prediction: the ceil((n + 1) level)-th smallest score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from monai_diffrecon.errors import InputError

#: Scores are rounded up to powers of it, so that those of a volume are a few hundred counts.
BASE = 1.01
#: Smallest score that is told from 0, as a power.
_LOWEST = -1400


def needed_groups(level: float) -> int:
    """Return with how many groups the quantile of a level is finite: ``ceil(1 / (1 - level)) - 1``.

    Raises:
        InputError: the level is not above 0 and below 1.
    """
    return math.ceil(1 / (1 - _exact(level))) - 1


def conformal_quantile(groups: Sequence[tuple[ArrayLike, ArrayLike]], level: float, *, corrected: bool = True) -> float:
    """Return the quantile of the scores of groups.

    Args:
        groups: scores and their counts, of each group.
        level: nominal coverage, above 0 and below 1.
        corrected: with the finite-sample correction. Without it, the quantile of the groups themselves, of which
            nothing is guaranteed.

    Returns:
        The quantile; infinite with fewer than :func:`needed_groups` groups, if ``corrected``.

    Raises:
        InputError: no group, one without a score, or a level out of range.
    """
    exact, n = _exact(level), len(groups)
    pairs = [(np.asarray(scores, float), np.asarray(counts, float)) for scores, counts in groups]
    if not pairs or not all(counts.sum() > 0 for _, counts in pairs):
        raise InputError("no scores", where="calibration", expected="one or more in each group", got=n)
    if corrected and n < needed_groups(level):
        return math.inf
    scores = np.concatenate([scores for scores, _ in pairs])
    weights = np.concatenate([counts / counts.sum() for _, counts in pairs])
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order])
    wanted = float(exact * (n + 1 if corrected else n))
    # Sums of fractions are exact to some 1e-13 of the number of groups.
    return float(scores[order][min(int(np.searchsorted(reached, wanted - 1e-9 * n)), len(order) - 1)])


def rounded_up(scores: ArrayLike) -> tuple[list[int], list[int]]:
    """Return powers of :data:`BASE`, ascending, and how many scores round up to each.

    Rounded scores are exchangeable as well, so a quantile of theirs loses nothing of its guarantee; it is at most 1 %
    larger.

    Args:
        scores: 0 or more, finite.
    """
    values = np.asarray(scores, float).ravel()
    with np.errstate(divide="ignore"):
        powers = np.ceil(np.log(values) / math.log(BASE)).clip(min=_LOWEST).astype(int)
    powers += BASE ** powers.astype(float) < values  # of a power itself, by round-off
    found, counts = np.unique(powers, return_counts=True)
    return found.tolist(), counts.tolist()


def from_powers(powers: Sequence[int]) -> np.ndarray:
    """Return the scores that :func:`rounded_up` stands for."""
    return BASE ** np.asarray(powers, float)


def _exact(level: float) -> Fraction:
    """Return a level as the decimal fraction that it is written as: 1 / (1 - 0.9) is 10."""
    exact = Fraction(repr(float(level))) if math.isfinite(level) else Fraction(0)
    if not 0 < exact < 1:
        raise InputError("no nominal coverage", where="calibration, level", expected="above 0, below 1", got=level)
    return exact
