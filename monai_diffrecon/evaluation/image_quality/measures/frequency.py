# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Axes of frequency, averages over rings, and curves of frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A function of frequency.

    Attributes:
        frequency: (n,), cycles per mm, ascending.
        value: (n,).
    """

    frequency: np.ndarray
    value: np.ndarray


def frequency_at(curve: Curve, level: float) -> float:
    """Return the frequency at which a curve first falls to ``level``, cycles per mm.

    Samples are joined by straight lines. ``frequency_at(mtf, 0.5)`` is f50.

    Returns:
        NaN when the curve begins below ``level``, or does not get there before its end or its first NaN.
    """
    f, v = curve.frequency, curve.value
    known = len(v) if not np.isnan(v).any() else int(np.argmax(np.isnan(v)))
    f, v = f[:known], v[:known]
    below = np.flatnonzero(v <= level)
    if not below.size or (below[0] == 0 and v[0] < level):
        return math.nan
    k = int(below[0])
    if k == 0:
        return float(f[0])
    return float(f[k - 1] + (f[k] - f[k - 1]) * (v[k - 1] - level) / (v[k - 1] - v[k]))


def frequency_axes(shape: Sequence[int], spacing: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Return the centred frequencies of each axis, cycles per mm: zero is at index ``n // 2``."""
    return tuple(np.fft.fftshift(np.fft.fftfreq(n, d)) for n, d in zip(shape, spacing, strict=True))


def radial_frequency(shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Return the distance to zero frequency on the centred grid, of ``shape``, cycles per mm."""
    grids = np.meshgrid(*frequency_axes(shape, spacing), indexing="ij", sparse=True)
    return np.sqrt(sum(np.square(grid) for grid in grids))


@dataclass(frozen=True)
class Rings:
    """Rings (2D) or shells (3D) about zero frequency, up to the lowest Nyquist frequency of the axes.

    They are as wide as the coarsest step of frequency, so that each has a sample on that axis; zero is a ring of its
    own.

    Attributes:
        index: of the centred grid's shape: number of the ring; what lies beyond the last has its number plus one.
        frequency: (n,): mean distance of a ring's samples, cycles per mm.
        count: (n,): samples.
    """

    index: np.ndarray
    frequency: np.ndarray
    count: np.ndarray

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of ``values``, on the centred grid, over each ring, (n,)."""
        return np.bincount(self.index.ravel(), values.ravel(), len(self.count) + 1)[: len(self.count)]

    def mean(self, values: np.ndarray) -> Curve:
        """Return the mean of ``values``, on the centred grid, over each ring."""
        return Curve(self.frequency, self.total(values) / self.count)


def rings(shape: Sequence[int], spacing: Sequence[float]) -> Rings:
    """Return the rings of the Fourier transform of an array.

    Args:
        shape: of the array, 2 or more along each axis.
        spacing: pixel size along each axis, mm.
    """
    radius = radial_frequency(shape, spacing)
    width = max(1.0 / (n * d) for n, d in zip(shape, spacing, strict=True))
    end = min((n // 2) / (n * d) for n, d in zip(shape, spacing, strict=True)) * (1 + 1e-9)
    index = np.floor(radius / width + 0.5).astype(np.int64)
    last = int(index[radius <= end].max())
    index = np.where(radius > end, last + 1, np.maximum(index, radius > 0))
    count = np.bincount(index.ravel(), minlength=last + 2)[: last + 1]
    total = np.bincount(index.ravel(), radius.ravel(), last + 2)[: last + 1]
    return Rings(index, total / count, count)
