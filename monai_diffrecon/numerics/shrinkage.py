# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Proximal maps of norms."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """Return ``argmin_u threshold |u| + 1/2 |u - v|^2`` elementwise; complex values keep their phase."""
    if v.is_complex():
        magnitude = v.abs()
        return v * ((magnitude - threshold).clamp_min(0) / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny))
    limit = torch.as_tensor(threshold, dtype=v.dtype, device=v.device)
    return v - v.clamp(-limit, limit)
