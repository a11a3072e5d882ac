# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Choosing a weight so that the residual is as large as the noise."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_discrepancy(
    solve: Callable[[float, Tensor], Tensor],
    misfit: Callable[[Tensor], float],
    x0: Tensor,
    *,
    target: float,
    low: float,
    high: float,
    tolerance: float = 0.02,
    evaluations: int = 12,
) -> tuple[Tensor, float]:
    """Return the solution whose misfit is ``target``, and its weight (Morozov's discrepancy principle, 1966).

    The misfit rises with the weight of x0, so the weight is found by bisection of its logarithm.

    Args:
        solve: ``(weight, start) -> x``.
        misfit: norm of the residual of a volume.
        x0: the solution for an infinite weight; returned with it when it fits as well as the noise allows.
        target: norm of the noise of the measurement.
        low: smallest weight.
        high: largest weight.
        tolerance: relative tolerance of the misfit.
        evaluations: most solutions.
    """
    if misfit(x0) <= target:
        return x0, float("inf")
    x, weight = x0, low
    for _ in range(evaluations):
        weight = (low * high) ** 0.5
        x = solve(weight, x0)
        ratio = misfit(x) / target
        if abs(ratio - 1.0) <= tolerance:
            break
        low, high = (low, weight) if ratio > 1.0 else (weight, high)
    return x, weight
