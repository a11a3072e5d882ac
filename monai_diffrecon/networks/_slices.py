# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the networks do to slices before and beside their layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def padded_to(x: Tensor, multiple: int) -> Tensor:
    """Return slices (B, C, H, W) whose edges are repeated until H and W are multiples."""
    pad = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
    return F.pad(x, pad, mode="replicate") if any(pad) else x


def levels_of(x: Tensor, sigma: Tensor | float | None, default: float) -> Tensor:
    """Return the noise level of each slice, (B, 1, 1, 1)."""
    level = torch.as_tensor(default if sigma is None else sigma, dtype=x.dtype, device=x.device)
    return level.reshape(-1, 1, 1, 1).expand(x.shape[0], 1, 1, 1)
