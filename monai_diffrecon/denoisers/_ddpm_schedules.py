# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The noise schedules of DDPM training, by the names that MONAI's schedulers give them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("linear_beta", "scaled_linear_beta", "cosine")


def alphas_cumprod(schedule: str, timesteps: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> Tensor:
    """Return the cumulative product of alpha at each timestep, (timesteps,) in float64.

    Args:
        schedule: ``linear_beta`` (Ho et al. 2020, arXiv 2006.11239, section 4), ``scaled_linear_beta`` (linear in
            the square root of beta; Rombach et al. 2022, arXiv 2112.10752) or ``cosine`` (Nichol and Dhariwal 2021,
            arXiv 2102.09672, equation 17, s = 0.008, beta at most 0.999).
        timesteps: number of timesteps of the training.
        beta_start: first beta; the cosine schedule has none.
        beta_end: last beta; the cosine schedule has none.

    Raises:
        ValueError: unknown schedule.
    """
    if schedule == "linear_beta":
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    elif schedule == "scaled_linear_beta":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
    elif schedule == "cosine":
        t = torch.linspace(0.0, 1.0, timesteps + 1, dtype=torch.float64)
        curve = torch.cos((t + 0.008) / 1.008 * (math.pi / 2)) ** 2
        betas = (1.0 - curve[1:] / curve[:-1]).clamp(0.0, 0.999)
    else:
        raise ValueError(f"unknown schedule {schedule!r}")
    return torch.cumprod(1.0 - betas, dim=0)


def timestep_of(sigma: Tensor, levels: Tensor, *, interpolate: bool) -> Tensor:
    """Return the timestep of each noise level.

    Between two timesteps the logarithm of sigma is what a network's error is uniform in, so that is what is compared.

    Args:
        sigma: variance-exploding noise levels, (B,).
        levels: noise level of each timestep, ascending and positive, (T,) in float64.
        interpolate: return fractions, in float32; else the nearest timesteps, in int64.
    """
    query, table = sigma.to(levels).log(), levels.log()
    above = torch.searchsorted(table, query).clamp(1, len(table) - 1)
    lower, upper = table[above - 1], table[above]
    position = (above - 1) + ((query - lower) / (upper - lower)).clamp(0.0, 1.0)
    return position.float() if interpolate else position.round().long()
