# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Spherical interpolation."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp_path(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Return ``count`` points (count, ...) evenly spaced on the great circle from one tensor to the other.

    ``sin((1 - t) angle) / sin(angle) first + sin(t angle) / sin(angle) last`` (Shoemake 1985, doi
    10.1145/325334.325242); parallel ends are joined by a straight line.

    Args:
        first: one end.
        last: the other end, of the same shape; real and imaginary parts count as coordinates.
        count: number of points, 1 or more; a single one is the first end.
    """
    a, b = (torch.view_as_real(e) if e.is_complex() else e for e in (first, last))
    cosine = (a * b).sum() / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)).clamp_min(1e-30)
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    t = torch.linspace(0.0, 1.0, count, dtype=a.dtype, device=a.device) if count > 1 else a.new_zeros(1)
    t = t.reshape(-1, *(1,) * first.ndim)
    sine = torch.sin(angle)
    if float(sine) < 1e-6:
        return (1.0 - t) * first + t * last
    return (torch.sin((1.0 - t) * angle) * first + torch.sin(t * angle) * last) / sine
