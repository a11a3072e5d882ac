# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Resampling by two with a binomial filter, so that nothing aliases (Zhang 2019, arXiv 1904.11486)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TAPS = (1.0, 3.0, 3.0, 1.0)


def _kernel(x: Tensor, gain: float) -> Tensor:
    """Return the 4 x 4 kernel whose sum is ``gain``, once a channel of ``x``: (C, 1, 4, 4)."""
    taps = torch.tensor(_TAPS, dtype=x.dtype, device=x.device) / sum(_TAPS)
    return (gain * torch.outer(taps, taps)).repeat(x.shape[1], 1, 1, 1)


def fir_downsample(x: Tensor) -> Tensor:
    """Filter and halve: (B, C, H, W) to (B, C, H/2, W/2), H and W even."""
    return F.conv2d(x, _kernel(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def fir_upsample(x: Tensor) -> Tensor:
    """Double by zeros and filter: (B, C, H, W) to (B, C, 2H, 2W); a constant stays one away from the border."""
    return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def fir_blur(x: Tensor, padding: int) -> Tensor:
    """Filter at full resolution: (B, C, H, W) to (B, C, H + 2 padding - 3, W + 2 padding - 3)."""
    return F.conv2d(x, _kernel(x, 1.0), padding=padding, groups=x.shape[1])
