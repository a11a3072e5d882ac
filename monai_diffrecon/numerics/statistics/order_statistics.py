# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Percentiles and extreme values of volumes, with little memory where they are large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: Numbers from which on memory matters more than speed; numbers that are looked at together.
LARGE, _BLOCK = 2**25, 2**22
_HALF, _SIGN = 2**16, np.uint32(0x80000000)


def percentiles(x: Tensor, q: Sequence[float], *, above: float | None = None) -> list[float]:
    """Return percentiles as ``numpy.percentile`` does, to the last bit.

    Args:
        x: any shape, real, finite.
        q: percentiles, 0 to 100.
        above: only of values above it, in double precision.

    Returns:
        One number for each percentile; none without values.
    """
    if x.numel() < LARGE or x.dtype != torch.float32:
        array = x.cpu() if above is None else x[x > above].double().cpu()
        return np.percentile(array.numpy(), q).tolist() if array.numel() else []
    count = x.numel() if above is None else sum(int((part > above).sum()) for part in _blocks(x))
    if not count:
        return []
    at = [np.float64(p) / 100 * (count - 1) for p in q]
    low = [int(np.floor(index)) for index in at]
    ranks = sorted({rank for first in low for rank in (first, min(first + 1, count - 1))})
    found = dict(zip(ranks, ranked(x, ranks, above), strict=True))
    kind = np.float32 if above is None else np.float64
    result = []
    for index, first in zip(at, low, strict=True):
        a, b, t = kind(found[first]), kind(found[min(first + 1, count - 1)]), index - first
        result.append(float(b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t))
    return result


def outermost(x: Tensor, count: int, *, lowest: bool = False) -> Tensor:
    """Return the largest values (count,), falling; or the negatives of the smallest ones, falling as well.

    Args:
        x: any shape, float32, finite.
        count: at most as many as there are.
        lowest: take the smallest.
    """
    if x.numel() < LARGE:
        return torch.topk((-x if lowest else x).flatten(), count).values
    limit = ranked(x, [count - 1 if lowest else x.numel() - count])[0]
    some = np.concatenate([-part[part <= limit] if lowest else part[part >= limit] for part in _blocks(x)])
    return torch.from_numpy(np.sort(some)[::-1][:count].copy())


def ranked(x: Tensor, ranks: Sequence[int], above: float | None = None) -> list[float]:
    """Return the values of some ranks, from 0, in rising order, counted by upper and lower halves of their bits.

    Args:
        x: any shape, float32, finite.
        ranks: the ranks, rising.
        above: only of values above it.
    """
    counts = np.zeros(_HALF, dtype=np.int64)
    for keys in _keys(x, above):
        counts += np.bincount(keys >> 16, minlength=_HALF)
    upto = np.cumsum(counts)
    upper = np.searchsorted(upto, ranks, side="right")
    lower = {int(half): np.zeros(_HALF, dtype=np.int64) for half in upper}
    for keys in _keys(x, above):
        halves = keys >> 16
        for half, among in lower.items():
            among += np.bincount(keys[halves == half] & 0xFFFF, minlength=_HALF)
    result = []
    for rank, half in zip(ranks, upper, strict=True):
        before = upto[half] - counts[half]
        rest = np.searchsorted(np.cumsum(lower[int(half)]), rank - before, side="right")
        key = np.uint32((int(half) << 16) | int(rest))
        bits = key ^ _SIGN if key & _SIGN else ~key
        result.append(float(np.array(bits, dtype=np.uint32).view(np.float32)))
    return result


def _keys(x: Tensor, above: float | None) -> Iterator[np.ndarray]:
    """Yield the numbers as integers of the same order."""
    for part in _blocks(x):
        values = part if above is None else part[part > above]
        bits = np.ascontiguousarray(values).view(np.uint32)
        yield np.where(bits & _SIGN, ~bits, bits ^ _SIGN)


def _blocks(x: Tensor) -> Iterator[np.ndarray]:
    plain = x.detach().as_subclass(Tensor).cpu()
    rows = plain.reshape(-1) if plain.is_contiguous() else plain.flatten()
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK].numpy()
