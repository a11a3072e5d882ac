# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Time, noise levels and their indices in the variance-exploding SDE of the founding papers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: exact: floor(t (N - 1)) as it would be without rounding; trunc32: as float32 gives it, which is sometimes one less.
INDEX_RULES = ("exact", "trunc32")


@dataclass(frozen=True)
class VESchedule:
    """The steps of a reverse VE-SDE.

    Attributes:
        sigma: continuous noise level at each step, descending; the networks are conditioned on it.
        discrete: level of the discrete schedule at each step.
        following: the next lower level of the discrete schedule, 0 below the lowest.
    """

    sigma: tuple[float, ...]
    discrete: tuple[float, ...]
    following: tuple[float, ...]


def ve_schedule(
    steps: int, sigma_min: float, sigma_max: float, *, time_end: float = 1e-5, index_rule: str = "exact"
) -> VESchedule:
    """Return the steps of the reverse VE-SDE ``sigma(t) = sigma_min (sigma_max / sigma_min)^t``.

    Times are evenly spaced from 1 to ``time_end``, the schedule is geometric with ``steps`` levels, and the index of a
    time is that of the level below it (Song et al. 2021, arXiv 2011.13456, appendix F and G).

    Args:
        steps: number of steps, 2 or more.
        sigma_min: lowest level.
        sigma_max: highest level.
        time_end: last time; the papers' codes have 1e-10 (DiffusionMBIR) and 1e-5 (TPDM).
        index_rule: one of :data:`INDEX_RULES`.
    """
    levels = np.exp(np.linspace(np.log(sigma_min), np.log(sigma_max), steps))
    exact = np.linspace(1.0, time_end, steps)
    single = linspace32(1.0, time_end, steps)
    if index_rule == "trunc32":
        index = (single * np.float32(steps - 1)).astype(np.int64)
    else:
        index = np.floor(exact * (steps - 1) + 1e-6).astype(np.int64)
    sigma = sigma_min * (sigma_max / sigma_min) ** single.astype(np.float64)
    below = np.where(index > 0, levels[np.maximum(index - 1, 0)], 0.0)
    return VESchedule(tuple(map(float, sigma)), tuple(map(float, levels[index])), tuple(map(float, below)))


def linspace32(start: float, end: float, steps: int) -> np.ndarray:
    """Return torch's float32 linspace, which the published codes index by."""
    import torch

    return torch.linspace(start, end, steps, dtype=torch.float32).numpy()
