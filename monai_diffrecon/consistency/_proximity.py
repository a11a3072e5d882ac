# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weight of the clean estimate relative to the measurement."""

from __future__ import annotations

import math

from monai_diffrecon.errors.options import check_choice, check_number
from monai_diffrecon.protocols import Problem


def check_gamma(gamma: object, words: tuple[str, ...] = ("auto",)) -> float | str:
    """Return one of the words, or a relative weight of 0 or more.

    Raises:
        ConfigError: something else.
    """
    if isinstance(gamma, str):
        return check_choice(gamma, "consistency#gamma (or a number)", words)
    return check_number(gamma, f"consistency#gamma (or {' or '.join(map(repr, words))})", low=0.0)


def proximity_weight(gamma: float | str, problem: Problem, sigma: float) -> float:
    """Return the weight of ``1/2 ||x - x0||^2`` beside ``1/2 ||A x - y||^2``.

    Args:
        gamma: a weight relative to ``||A^T A||``, or ``"auto"``: the maximum a posteriori for a Gaussian of standard
            deviation ``sigma`` around x0, that is ``noise_std^2 / sigma^2``.
        problem: the inverse problem.
        sigma: noise level, in network units.
    """
    if not isinstance(gamma, str):
        return gamma * problem.operator.norm() if gamma else 0.0
    if problem.noise_std == 0.0:
        return 0.0
    return (problem.noise_std / sigma) ** 2 if sigma > 0.0 else math.inf
