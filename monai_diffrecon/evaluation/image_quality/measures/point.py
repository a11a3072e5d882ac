# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The transfer function from a wire or a bead, and from line pairs.

Sources: ICRU Report 87, 2012 (wires and beads); Droege and Morin, Med Phys 9:758, 1982 (line pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import j1

from monai_diffrecon.errors import InputError

from .arrays import checked, checked_number, checked_spacing
from .frequency import Curve, radial_frequency, rings

#: Beyond the frequency at which the object's own spectrum is below this, the quotient is noise.
LEAST_OBJECT_SPECTRUM = 0.1


def disc_spectrum(frequency: np.ndarray, diameter: float) -> np.ndarray:
    """Return the Fourier transform of a uniform disc, 1 at zero: ``2 J1(pi d f) / (pi d f)`` (jinc).

    Args:
        frequency: distance to zero frequency, cycles per mm, of any shape.
        diameter: mm; 0 is a point.
    """
    x = np.pi * diameter * np.asarray(frequency, dtype=np.float64)
    small = x < 1e-6
    return np.where(small, 1.0, 2 * j1(x) / np.where(small, 1.0, x))


def sphere_spectrum(frequency: np.ndarray, diameter: float) -> np.ndarray:
    """Return the Fourier transform of a uniform sphere's projection, 1 at zero: ``3 (sin x - x cos x) / x^3``.

    Args:
        frequency: distance to zero frequency, cycles per mm, of any shape.
        diameter: mm; 0 is a point.
    """
    x = np.pi * diameter * np.asarray(frequency, dtype=np.float64)
    small = x < 1e-2  # the series: the quotient loses digits there
    safe = np.where(small, 1.0, x)
    return np.where(small, 1.0 - x**2 / 10, 3 * (np.sin(safe) - safe * np.cos(safe)) / safe**3)


_SPECTRA: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"wire": disc_spectrum, "bead": sphere_spectrum}


def point_transfer(
    images: ArrayLike,
    spacing: Sequence[float],
    *,
    diameter: float = 0.0,
    kind: Literal["wire", "bead"] = "wire",
    border: int = 2,
) -> Curve:
    """Return the transfer function from a wire across the slice, or from a bead.

    The background, a plane fitted to the border, is subtracted from the mean image. The modulus of its Fourier
    transform is averaged over rings and divided by the object's spectrum. The region must contain the whole spread of
    the object.

    Args:
        images: (H, W) or (N, H, W): regions with the object near the middle.
        spacing: pixel size of the two axes, mm.
        diameter: of the wire or bead, mm; 0 is a point.
        kind: a bead is the sum of the slices it appears in.
        border: width of the border, pixels.

    Returns:
        The function, 1 at zero, up to the lowest Nyquist frequency; NaN where the object's spectrum is below
        ``LEAST_OBJECT_SPECTRUM``, and everywhere when the mean image is not above or below its border.

    Raises:
        InputError: arrays of another shape, no pixel size, a diameter below 0, an unknown kind, or a border too wide.
    """
    where = "point_transfer"
    x = checked(images, (2, 3), where)
    sizes = checked_spacing(spacing, 2, where)
    if kind not in _SPECTRA:
        raise InputError("unknown kind", where=where, expected=" or ".join(_SPECTRA), got=kind)
    if not diameter >= 0:
        raise InputError("diameter out of range", where=where, expected="0 or more, mm", got=diameter)
    mean = x if x.ndim == 2 else x.mean(axis=0)
    if not 1 <= border <= (min(mean.shape) - 2) // 2:
        raise InputError("border out of range", where=where, expected=f"1 to {(min(mean.shape) - 2) // 2}", got=border)
    size = float(np.abs(mean).sum())
    mean = mean - _plane_of_border(mean, border)
    ring = rings(mean.shape, sizes)
    total = float(mean.sum())
    if abs(total) <= 1e-12 * size:
        return Curve(ring.frequency, np.full(len(ring.frequency), math.nan))
    modulus = np.abs(np.fft.fftshift(np.fft.fft2(mean))) / abs(total)
    own = _SPECTRA[kind](radial_frequency(mean.shape, sizes), diameter)
    low = ring.mean(own).value < LEAST_OBJECT_SPECTRUM
    value = ring.mean(modulus / np.where(own < LEAST_OBJECT_SPECTRUM / 2, math.inf, own)).value
    value[np.maximum.accumulate(low)] = math.nan
    return Curve(ring.frequency, value)


def fundamental_amplitude(profile: ArrayLike, spacing: float, frequency: float) -> float:
    """Return the amplitude of one frequency in a profile, for example of line pairs.

    The profile is tapered (Hann), so that neither its mean nor the ends of a pattern leak into a frequency of three
    periods or more. Divided by the amplitude of the pattern itself, it is the transfer at its frequency, without the
    harmonics that the standard deviation of bars has (Droege and Morin 1982).

    Args:
        profile: (n,): intensities across the bars.
        spacing: of the pixels, mm.
        frequency: cycles per mm, below half of the inverse spacing.

    Raises:
        InputError: no profile, or a frequency that the pixels do not show.
    """
    where = "fundamental_amplitude"
    x = checked(profile, (1,), where, least=4)
    checked_number(spacing, where, "spacing")
    checked_number(frequency, where, "frequency", 0.0, 0.5 / spacing)
    window = np.hanning(len(x) + 2)[1:-1]
    x = x - float((window * x).sum() / window.sum())
    wave = np.exp(-2j * np.pi * frequency * spacing * np.arange(len(x)))
    return float(2 * abs((window * x * wave).sum()) / window.sum())


def _plane_of_border(image: np.ndarray, border: int) -> np.ndarray:
    """Return the plane, of the image's shape, fitted to its outer ``border`` pixels."""
    rows, columns = np.indices(image.shape, dtype=np.float64)
    outer = np.ones(image.shape, dtype=bool)
    outer[border:-border, border:-border] = False
    basis = np.stack([np.ones_like(rows), rows, columns], axis=-1)
    fitted, *_ = np.linalg.lstsq(basis[outer], image[outer], rcond=None)
    return basis @ fitted
