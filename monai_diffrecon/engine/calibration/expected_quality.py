# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The quality that samples expect of their mean, from mean and standard deviation alone.

If the truth is one more draw of the distribution of n samples, its mean squared distance from their mean is
``(1 + 1 / n) std^2``. Where samples spread too little the expectation is too high; conformal intervals around it
(:mod:`~monai_diffrecon.engine.calibration.intervals`) hold all the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_diffrecon.comparison.image_metrics import SSIM_WINDOW, filled_slices
from monai_diffrecon.comparison.volume_metrics import default_data_range
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.protocols import PLANE_AXIS

_SIGMA = 1.5


def expected_psnr(mean: Tensor, std: Tensor, num_samples: int, data_range: float | None = None) -> float:
    """Return the expected PSNR (dB) of the mean.

    Args:
        mean: mean of the samples, (1, X, Y, Z), real.
        std: their standard deviation, of the same shape.
        num_samples: number of samples.
        data_range: peak-to-peak intensity; None takes that of the mean.
    """
    span = default_data_range(mean) if data_range is None else data_range
    return float(10 * torch.log10(span**2 / ((1 + 1 / num_samples) * std.double().square().mean())))


def expected_ssim(mean: Tensor, std: Tensor, num_samples: int, data_range: float | None = None) -> float:
    """Return the expected structural similarity of the mean, averaged over planes as ``ssim`` is.

    Within a window the truth has the mean's structure, and the variance of the samples in addition, so that Wang's
    formula becomes ``(2 v + C) / (2 v + s^2 + C)`` with v the local variance of the mean and s^2 the local mean of the
    squared deviation.

    Args:
        mean: as of :func:`expected_psnr`.
        std: as there.
        num_samples: as there.
        data_range: as there.

    Returns:
        NaN when all slices of a plane are empty, or smaller than the window.
    """
    span = default_data_range(mean) if data_range is None else data_range
    return sum(_of_plane(mean, std, num_samples, span, plane) for plane in PLANE_AXIS) / len(PLANE_AXIS)


def _of_plane(mean: Tensor, std: Tensor, num_samples: int, span: float, plane: str) -> float:
    kept = filled_slices(mean, span, plane)
    x, s = (to_slices(v.double(), plane)[kept] for v in (mean, std))
    if not len(x) or min(x.shape[2:]) < SSIM_WINDOW:
        return math.nan
    variance = (_windowed(x * x) - _windowed(x).square()).clamp_min(0.0)
    added, constant = (1 + 1 / num_samples) * _windowed(s * s), (0.03 * span) ** 2
    return float(((2 * variance + constant) / (2 * variance + added + constant)).mean())


def _windowed(x: Tensor) -> Tensor:
    """Return the Gaussian mean of each window that lies inside its slice, for slices (N, 1, H, W)."""
    at = torch.arange(SSIM_WINDOW, dtype=x.dtype) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (at / _SIGMA).square())
    weights = weights / weights.sum()
    rows = torch.nn.functional.conv2d(x, weights.reshape(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, weights.reshape(1, 1, 1, -1))
