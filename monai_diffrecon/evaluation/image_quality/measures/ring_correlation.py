# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Fourier ring correlation of two images, as a whole and patch by patch.

Sources: van Heel and Schatz, J Struct Biol 151:250, 2005 (thresholds); Kc et al., arXiv:2603.04673, 2026 (scanning
patches of a reconstruction and its reference: where correlation fails early, details may be invented).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal.windows import hann, tukey

from monai_diffrecon.errors import InputError

from .arrays import checked, checked_number, checked_spacing
from .frequency import Rings, rings

Window = Literal["hann", "tukey", "none"]
Threshold = Literal["half_bit", "one_seventh"]


@dataclass(frozen=True)
class RingCorrelation:
    """Correlation of two images by frequency; zero frequency is left out, as means are subtracted.

    Attributes:
        frequency: (n,): mean of each ring, cycles per mm.
        correlation: (n,): -1 to 1; 0 where only one of the images has power, NaN where neither has.
        count: (n,): samples of each ring.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    count: np.ndarray


def ring_correlation(
    first: ArrayLike, second: ArrayLike, spacing: Sequence[float], *, window: Window = "hann"
) -> RingCorrelation:
    """Return ``Re sum F1 F2* / sqrt(sum |F1|^2 sum |F2|^2)`` over rings of frequency.

    Two images with independent noise correlate as ``SNR / (1 + SNR)``, one and the noise-free truth as its root, SNR
    being the ratio of the powers of signal and noise in the ring.

    Args:
        first: (H, W), or a volume (D, H, W) for shells.
        second: of the same shape.
        spacing: pixel size of each axis, mm.
        window: without one, edges that do not fit each other correlate along the axes; ``tukey`` tapers a quarter.

    Raises:
        InputError: arrays of other or different shape, no pixel size, or an unknown window.
    """
    where = "ring_correlation"
    one, two = (checked(x, (2, 3), where) for x in (first, second))
    if one.shape != two.shape or min(one.shape) < 4:
        got = f"{one.shape} and {two.shape}"
        raise InputError("images do not fit", where=where, expected="one shape, 4 pixels or more an axis", got=got)
    ring = rings(one.shape, checked_spacing(spacing, one.ndim, where))
    return _correlation(one, two, ring, _window(one.shape, window, where))


def threshold_curve(correlation: RingCorrelation, threshold: Threshold | float = "half_bit") -> np.ndarray:
    """Return the threshold of each ring, (n,).

    Args:
        correlation: its rings.
        threshold: ``half_bit``: ``(0.2071 + 1.9102 / sqrt(n)) / (1.2071 + 0.9102 / sqrt(n))`` for a ring of n samples:
            half a bit of information in each; ``one_seventh``: 1/7; or a number between 0 and 1, as for scanning.

    Raises:
        InputError: none of these.
    """
    if isinstance(threshold, (int, float)):
        return np.full(len(correlation.count), checked_number(threshold, "threshold_curve", "threshold", 0.0, 1.0))
    if threshold == "one_seventh":
        return np.full(len(correlation.count), 1 / 7)
    if threshold != "half_bit":
        raise InputError("unknown threshold", where="threshold_curve", expected="half_bit, one_seventh", got=threshold)
    root = np.sqrt(correlation.count)
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def crossing_frequency(correlation: RingCorrelation, threshold: Threshold | float = "half_bit") -> float:
    """Return the frequency at which the correlation first falls below a threshold, cycles per mm.

    Between rings, both are straight lines. Its inverse is the resolution, mm. Rings without power in both images are
    skipped.

    Returns:
        The first ring's frequency when that is below already; the last's when none is; NaN without any power.
    """
    known = ~np.isnan(correlation.correlation)
    if not known.any():
        return math.nan
    f = correlation.frequency[known]
    above = (correlation.correlation - threshold_curve(correlation, threshold))[known]
    below = np.flatnonzero(above < 0)
    if not below.size or below[0] == 0:
        return float(f[0] if below.size else f[-1])
    k = int(below[0])
    return float(f[k - 1] + (f[k] - f[k - 1]) * above[k - 1] / (above[k - 1] - above[k]))


@dataclass(frozen=True)
class ScanningCorrelation:
    """The crossing frequency of each patch of a slice.

    Attributes:
        crossing: (rows, columns) of patches, cycles per mm; NaN where the truth is flat.
        starts: first row of each row of patches, first column of each column, pixels.
        patch: size of the square patches, pixels.
    """

    crossing: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    patch: int

    def failing(self, frequency: float) -> list[tuple[int, int]]:
        """Return first row and column of the patches whose correlation fails below ``frequency``, cycles per mm."""
        with np.errstate(invalid="ignore"):
            found = np.argwhere(self.crossing < frequency)
        return [(int(self.starts[0][row]), int(self.starts[1][column])) for row, column in found]


def scanning_correlation(
    image: ArrayLike,
    truth: ArrayLike,
    spacing: Sequence[float],
    *,
    patch: int = 64,
    stride: int | None = None,
    threshold: Threshold | float = 0.5,
    window: Window = "hann",
    flat: float = 0.01,
) -> ScanningCorrelation:
    """Return where a slice stops to correlate with the truth early.

    A patch that fails at a low frequency is a candidate for a hallucination, and so is one that is only blurred or
    noisy: the frequency below which it counts is calibrated on cases that are known. What is invented where the truth
    is flat is not found here.

    Args:
        image: (H, W).
        truth: of the same shape.
        spacing: pixel size of the two axes, mm.
        patch: size of the square patches, pixels, 8 or more.
        stride: distance of neighbouring patches; None is ``patch``. What is left over at the far borders has no patch.
        threshold: see :func:`threshold_curve`; a constant suits the few samples of small patches (Kc et al. 2026).
        window: of each patch.
        flat: patches in which the truth's standard deviation is at most this share of that of the whole truth are flat.

    Raises:
        InputError: arrays of other or different shape, no pixel size, or a patch that does not fit.
    """
    where = "scanning_correlation"
    one, two = (checked(x, (2,), where) for x in (image, truth))
    if one.shape != two.shape:
        raise InputError("images of different shape", where=where, expected=two.shape, got=one.shape)
    sizes = checked_spacing(spacing, 2, where)
    if not 8 <= patch <= min(one.shape):
        raise InputError("patch out of range", where=where, expected=f"8 to {min(one.shape)}", got=patch)
    step = patch if stride is None else stride
    if step < 1:
        raise InputError("stride out of range", where=where, expected="1 or more", got=step)
    starts = tuple(np.arange(0, n - patch + 1, step) for n in one.shape)
    crossing = np.full((len(starts[0]), len(starts[1])), math.nan)
    ring, taper = rings((patch, patch), sizes), _window((patch, patch), window, where)
    least = flat * float(two.std())
    for i, row in enumerate(starts[0]):
        for j, column in enumerate(starts[1]):
            at = np.s_[row : row + patch, column : column + patch]
            if two[at].std() > least:
                crossing[i, j] = crossing_frequency(_correlation(one[at], two[at], ring, taper), threshold)
    return ScanningCorrelation(crossing, (starts[0], starts[1]), patch)


def _correlation(one: np.ndarray, two: np.ndarray, ring: Rings, taper: np.ndarray) -> RingCorrelation:
    # Means under the window, so that its own spectrum does not fill the first rings.
    spectra = [np.fft.fftshift(np.fft.fftn((x - (x * taper).sum() / taper.sum()) * taper)) for x in (one, two)]
    cross = ring.total((spectra[0] * spectra[1].conj()).real)[1:]
    powers = [ring.total(np.abs(s) ** 2)[1:] for s in spectra]
    # Rounding is no power: neither in a flat image, nor in what the other rings leave of it.
    has = [p > 1e-24 * max(float((x**2).sum() * taper.size), 1e-300) for p, x in zip(powers, (one, two), strict=True)]
    value = np.where(has[0] | has[1], 0.0, math.nan)
    both = has[0] & has[1]
    value[both] = np.clip(cross[both] / np.sqrt(powers[0][both] * powers[1][both]), -1.0, 1.0)
    return RingCorrelation(ring.frequency[1:], value, ring.count[1:])


def _window(shape: Sequence[int], window: Window, where: str) -> np.ndarray:
    # Without the zeros at both ends, which would discard pixels.
    makers: dict[str, Callable[[int], np.ndarray]] = {
        "hann": lambda n: hann(n + 2)[1:-1],
        "tukey": lambda n: tukey(n + 2, 0.25)[1:-1],
        "none": np.ones,
    }
    if window not in makers:
        raise InputError("unknown window", where=where, expected=", ".join(makers), got=window)
    return np.asarray(reduce(np.multiply.outer, [makers[window](n) for n in shape]))
