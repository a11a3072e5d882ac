# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The power spectrum of noise, and how far noise is the same everywhere.

Sources: ICRU Report 87, 2012; Siewerdsen et al., Med Phys 29:2655, 2002; Samei et al., AAPM TG-233, Med Phys
46:e735, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from scipy.ndimage import uniform_filter

from monai_diffrecon.errors import InputError

from .arrays import checked, checked_spacing
from .frequency import Curve, frequency_axes, rings

Detrend = Literal["ensemble", "constant", "linear", "quadratic"]
_ORDERS = {"constant": 0, "linear": 1, "quadratic": 2}


@dataclass(frozen=True)
class NoisePower:
    """A noise power spectrum and its figures.

    Attributes:
        axes: frequencies of each axis of ``spectrum``, centred, cycles per mm.
        spectrum: (H, W) or (D, H, W), intensity^2 mm^2 or mm^3.
        radial: mean over rings or shells, in the same units.
        std: magnitude of the noise, the root of the spectrum's integral.
        peak_frequency: frequency of the largest radial value, cycles per mm. Zero is left out: its one sample is what
            detrending leaves.
        mean_frequency: ``int f NPS df / int NPS df`` of the radial curve without zero (TG-233), cycles per mm; NaN
            without noise.
    """

    axes: tuple[np.ndarray, ...]
    spectrum: np.ndarray
    radial: Curve
    std: float
    peak_frequency: float
    mean_frequency: float


def noise_power_spectrum(
    realizations: ArrayLike, spacing: Sequence[float], *, detrend: Detrend | None = None
) -> NoisePower:
    """Return the noise power spectrum of regions of interest.

    ``NPS = dx dy / (Nx Ny) <|DFT(detrended)|^2>``: its integral over the cells of frequency is the variance exactly
    (Parseval). No window is applied.

    Args:
        realizations: (N, H, W) or (N, D, H, W): the same region of N scans, or, with a polynomial, N regions.
        spacing: pixel size of the 2 or 3 last axes, mm.
        detrend: ``ensemble`` subtracts the mean of the realizations and multiplies by N / (N - 1), which leaves every
            frequency without bias. ``constant``, ``linear`` and ``quadratic`` subtract a polynomial fitted to each
            region, which takes noise of the lowest frequencies away with it. None is ``ensemble`` for more than one
            realization, else ``quadratic``.

    Returns:
        The spectrum and its figures. Spectra of several regions are averaged with :func:`noise_power_of`.

    Raises:
        InputError: arrays of another shape, no pixel size, an unknown detrending, or an ensemble of one.
    """
    where = "noise_power_spectrum"
    x = checked(realizations, (3, 4), where)
    sizes = checked_spacing(spacing, x.ndim - 1, where)
    if min(x.shape[1:]) < 4:
        raise InputError("region too small", where=where, expected="4 pixels along each axis", got=x.shape[1:])
    kind = detrend or ("ensemble" if len(x) > 1 else "quadratic")
    if kind == "ensemble":
        if len(x) < 2:
            raise InputError(
                "an ensemble of one", where=where, expected="2 realizations", mend="detrend by a polynomial"
            )
        residual, correction = x - x.mean(axis=0), len(x) / (len(x) - 1)
    elif kind in _ORDERS:
        residual, correction = _without_polynomial(x, _ORDERS[kind]), 1.0
    else:
        raise InputError("unknown detrending", where=where, expected=f"ensemble, {', '.join(_ORDERS)}", got=kind)
    power = np.zeros(x.shape[1:])
    for region in residual:  # one transform in memory at a time
        power += np.abs(np.fft.fftn(region)) ** 2
    scale = correction * math.prod(sizes) / (power.size * len(x))
    return noise_power_of(np.fft.fftshift(power) * scale, sizes)


def noise_power_of(spectrum: ArrayLike, spacing: Sequence[float]) -> NoisePower:
    """Return the figures of a centred spectrum, for instance of the mean of those of several regions.

    Args:
        spectrum: (H, W) or (D, H, W), intensity^2 mm^2 or mm^3.
        spacing: pixel size of the regions along each axis, mm.
    """
    power = checked(spectrum, (2, 3), "noise_power_of")
    sizes = checked_spacing(spacing, power.ndim, "noise_power_of")
    radial = rings(power.shape, sizes).mean(power)
    f, v = radial.frequency[1:], radial.value[1:]
    weight, moment = float(trapezoid(v, f)), float(trapezoid(f * v, f))
    return NoisePower(
        axes=frequency_axes(power.shape, sizes),
        spectrum=power,
        radial=radial,
        std=math.sqrt(power.mean() / math.prod(sizes)),
        peak_frequency=float(f[np.argmax(v)]),
        mean_frequency=moment / weight if weight > 0 else math.nan,
    )


@dataclass(frozen=True)
class Stationarity:
    """Where noise is how strong.

    Attributes:
        local_std: local standard deviation, divided by its mean; for windows that lie inside the region, so each axis
            has ``window - 1`` fewer entries.
        variation: coefficient of variation of the true local standard deviation: that of the map, less the part that
            the finite number of realizations makes; 0 for stationary noise.
        raw_variation: coefficient of variation of the map itself.
    """

    local_std: np.ndarray
    variation: float
    raw_variation: float


def stationarity(realizations: ArrayLike, window: int) -> Stationarity:
    """Return a map of the strength of noise, and how much it varies.

    The sampling variance of each entry of the map is found by leaving out one realization after the other (jackknife;
    Efron and Stein 1981), so that correlated noise and overlapping windows are accounted for. Its mean is subtracted
    from the map's variance.

    Args:
        realizations: (N, H, W) or (N, D, H, W): the same region of N >= 3 scans.
        window: pixels along each axis over which the variance is averaged.

    Raises:
        InputError: fewer than 3 realizations, no window that fits, or no noise.
    """
    where = "stationarity"
    x = checked(realizations, (3, 4), where, least=3)
    if not 1 <= window <= min(x.shape[1:]):
        raise InputError("window out of range", where=where, expected=f"1 to {min(x.shape[1:])}", got=window)
    n = len(x)
    squares = np.stack([_windowed(r, window) for r in (x - x.mean(axis=0)) ** 2])
    total = squares.sum(axis=0)
    std = np.sqrt(total / (n - 1))
    if not std.mean() > 0:
        raise InputError("no noise", where=where, expected="realizations that differ")
    # Without d, the sum of squares about the mean of the others is less by d^2 n / (n - 1).
    without = np.sqrt(np.maximum(total - squares * (n / (n - 1)), 0.0) / (n - 2))
    without /= without.reshape(n, -1).mean(axis=1).reshape(n, *([1] * std.ndim))
    sampling = (n - 1) * without.var(axis=0).mean()
    local = std / std.mean()
    variance = float(local.var())
    return Stationarity(local, math.sqrt(max(variance - float(sampling), 0.0)), math.sqrt(variance))


def _windowed(x: np.ndarray, window: int) -> np.ndarray:
    """Return the means over all windows that lie inside."""
    before = window // 2
    inside = tuple(slice(before, before + size - window + 1) for size in x.shape)
    return np.maximum(uniform_filter(x, window, mode="nearest")[inside], 0.0)  # its running sums round


def _without_polynomial(x: np.ndarray, order: int) -> np.ndarray:
    """Return what a polynomial of at most ``order`` in the coordinates, fitted to each entry of ``x``, leaves."""
    grids = [g.ravel() for g in np.meshgrid(*(np.linspace(-1, 1, n) for n in x.shape[1:]), indexing="ij")]
    terms = [
        np.prod([grids[axis] for axis in chosen], axis=0) if chosen else np.ones_like(grids[0])
        for degree in range(order + 1)
        for chosen in combinations_with_replacement(range(len(grids)), degree)
    ]
    basis, _ = np.linalg.qr(np.stack(terms, axis=1))
    flat = x.reshape(len(x), -1)
    return (flat - (flat @ basis) @ basis.T).reshape(x.shape)
