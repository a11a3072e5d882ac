# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measures along one axis: lost detail, and steps between slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def high_frequency_ratio(x: Tensor, ref: Tensor, axis: int, cutoff: float = 0.25) -> float:
    """Return the energy of ``x`` above a frequency along ``axis``, relative to the reference's.

    1 is right, less is blur, more is noise or aliasing. The frequencies are those of the cosine transform (DCT-II),
    whose even continuation makes no step between the last slice and the first, as the Fourier transform's would.

    Args:
        x: real, of any shape.
        ref: of the same shape.
        axis: the axis.
        cutoff: in cycles a voxel, 0 up to 0.5 (Nyquist), itself left out.

    Returns:
        NaN when the reference has no such energy.
    """
    reference = _energy_above(ref, axis, cutoff)
    return _energy_above(x, axis, cutoff) / reference if reference > 0 else math.nan


def jump_ratio(x: Tensor, ref: Tensor, axis: int, borders: Sequence[int] | None = None) -> float:
    """Return the mean of ``|x[i] - x[i - 1]|`` along ``axis``, relative to the reference's.

    1 is right; at the borders of thick slices, more is their staircase.

    Args:
        x: real, of any shape.
        ref: of the same shape.
        axis: the axis.
        borders: the ``i`` to take the mean over; None takes all.

    Returns:
        NaN when there are no borders, or the reference does not change there.
    """
    at = torch.arange(1, x.shape[axis]) if borders is None else torch.tensor(list(borders), dtype=torch.long)
    if not at.numel():
        return math.nan
    steps = [
        float((v.index_select(axis, at.to(v.device)) - v.index_select(axis, at.to(v.device) - 1)).double().abs().mean())
        for v in (x, ref)
    ]
    return steps[0] / steps[1] if steps[1] > 0 else math.nan


def thick_slice_borders(size: int, spacing: float, thickness: float, gap: float = 0.0) -> list[int]:
    """Return the first thin slice behind each border of thick slices that begin at the edge of the first voxel.

    A border inside a thin slice belongs to its nearer edge.

    Args:
        size: thin slices.
        spacing: their distance in mm.
        thickness: of the thick slices, mm.
        gap: between them, mm; its middle is the border.
    """
    pitch = (thickness + gap) / spacing
    first = (thickness + gap / 2) / spacing
    found = {math.floor(first + k * pitch + 0.5) for k in range(math.ceil(size / pitch))}
    return sorted(i for i in found if 0 < i < size)


def _energy_above(x: Tensor, axis: int, cutoff: float) -> float:
    from scipy.fft import dct

    coefficients = dct(x.detach().cpu().double().numpy(), type=2, norm="ortho", axis=axis)
    size = x.shape[axis]
    kept = np.arange(size) / (2 * size) > cutoff
    return float(np.square(np.compress(kept, coefficients, axis=axis)).sum())
