# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers by key: a number depends on what it is for, never on when it was drawn."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from monai_diffrecon.slabs import Slab


def key_seed(*key: object) -> int:
    """Return a 63-bit seed for a key such as (seed, case, stream, step, slice)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keyed_normal(shape: tuple[int, ...], dtype: torch.dtype, *key: object) -> Tensor:
    """Return standard normal numbers of a key; complex ones have unit variance in each component."""
    return draw_normal(shape, dtype, torch.Generator().manual_seed(key_seed(*key)))


def white_noise(shape: tuple[int, ...], dtype: torch.dtype, *key: object, slab: Slab | None = None) -> Tensor:
    """Return standard normal numbers, drawn by key slice by slice along the last axis.

    Args:
        shape: of the result, one axis or more.
        dtype: real or complex; complex numbers have unit variance in each component.
        key: what the numbers are for; the index of the slice is added to it.
        slab: the part to return; None for all.
    """
    across = slab is not None and slab.dim == len(shape) - 1
    first, end = (slab.first, slab.end) if slab is not None and across else (0, shape[-1])
    part = list(shape[:-1])
    if slab is not None and not across:
        part[slab.dim] = len(slab)
    slices = torch.empty((end - first, *part), dtype=dtype)  # faster than to stack them along the last axis
    for k in range(first, end):
        drawn = keyed_normal(shape[:-1], dtype, *key, k)
        slices[k - first] = drawn if slab is None or across else slab.of(drawn)
    return slices.movedim(0, -1).contiguous()


def draw_normal(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return the generator's next standard normal numbers; complex ones have unit variance in each component."""
    real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn((*shape, 2), generator=generator, dtype=real))
    return torch.randn(shape, generator=generator, dtype=real)


def keyed_uniform(*key: object) -> float:
    """Return the uniform number in [0, 1) of a key."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(key_seed(*key))))


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
