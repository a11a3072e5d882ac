# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Channels of model observers: each function returns a matrix (pixels, channels) for regions of one shape.

Pixels are in the order of ``region.ravel()``, so the channel outputs of a region are ``channels.T @ region.ravel()``.
Laguerre-Gauss and difference-of-Gaussians channels are symmetric under rotation: only for signals that are so too, with
noise about as symmetric. Gabor channels are for any signal, and need more regions: several times as many as channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import eval_laguerre

from monai_diffrecon.errors import InputError

from .arrays import checked_number


def laguerre_gauss(
    shape: Sequence[int], width: float, count: int = 6, centre: Sequence[float] | None = None
) -> np.ndarray:
    """Return Laguerre-Gauss channels, the efficient choice for smooth round signals (Gallas and Barrett 2003).

    ``u_p(r) = sqrt(2) / a exp(-pi r^2 / a^2) L_p(2 pi r^2 / a^2)`` for p = 0 to ``count - 1`` (J Opt Soc Am A 20:1725).
    They are orthonormal in the continuum: in a region of several ``width``, nearly so.

    Args:
        shape: rows and columns of the regions.
        width: ``a``, pixels; about the extent of the signal.
        count: channels.
        centre: of the signal, row and column; None is the middle.

    Returns:
        (pixels, count).

    Raises:
        InputError: an option out of range.
    """
    checked_number(width, "laguerre_gauss", "width")
    _check_count(count, "laguerre_gauss")
    rows, columns = _offsets(shape, centre, "laguerre_gauss")
    x = 2 * np.pi * (rows**2 + columns**2) / width**2
    envelope = math.sqrt(2.0) / width * np.exp(-x / 2)
    return np.stack([envelope * eval_laguerre(p, x) for p in range(count)], axis=1)


def difference_of_gaussians(
    shape: Sequence[int],
    count: int = 10,
    *,
    first: float = 0.005,
    ratio: float = 1.4,
    bandwidth: float = 1.67,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """Return dense difference-of-Gaussians channels (Abbey and Barrett 2001), which follow human observers.

    Channel j passes ``exp(-(f / (Q s_j))^2 / 2) - exp(-(f / s_j)^2 / 2)`` with ``s_j = first ratio^j``, j from 0 (J Opt
    Soc Am A 18:473); the defaults are that paper's dense set. The inverse Fourier transform is taken analytically, so
    that the lowest channels are cut by the region and not wrapped around.

    Args:
        shape: rows and columns of the regions.
        count: channels.
        first: standard deviation of the first, cycles per pixel.
        ratio: of neighbouring ones.
        bandwidth: Q.
        centre: of the signal, row and column; None is the middle.

    Returns:
        (pixels, count).

    Raises:
        InputError: an option out of range.
    """
    where = "difference_of_gaussians"
    _check_count(count, where)
    for what, value, least in (("first", first, 0.0), ("ratio", ratio, 1.0), ("bandwidth", bandwidth, 1.0)):
        checked_number(value, where, what, least)
    rows, columns = _offsets(shape, centre, where)
    squared = rows**2 + columns**2

    def gaussian(s: float) -> np.ndarray:
        return 2 * np.pi * s**2 * np.exp(-2 * np.pi**2 * s**2 * squared)

    scales = [first * ratio**j for j in range(count)]
    return np.stack([gaussian(bandwidth * s) - gaussian(s) for s in scales], axis=1)


def gabor(
    shape: Sequence[int],
    *,
    lowest: float = 1 / 64,
    bands: int = 4,
    orientations: int = 5,
    phases: int = 2,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """Return Gabor channels in bands of an octave (Eckstein et al., Opt Express 11:460, 2003).

    ``exp(-4 ln2 r^2 / w^2) cos(2 pi f (x cos t + y sin t) + b)`` with f in the middle of a band and ``w = 4 ln2 / (pi
    times its width)``, half the response at the band's ends. Bands begin at ``lowest``, twice that, and so on. The 40
    default channels (1/64 to 1/4 cycles per pixel, 5 orientations, even and odd) are those common for CT (Wunderlich et
    al., IEEE TMI 34:453, 2015); ``lowest=1/128`` with 6 bands makes 60, which need regions of 128 pixels and more.

    Args:
        shape: rows and columns of the regions.
        lowest: lower end of the first band, cycles per pixel.
        bands: their number; the last must end at 1/2 or below.
        orientations: spread over half a turn.
        phases: 1 (even) or 2 (even and odd).
        centre: of the signal, row and column; None is the middle.

    Returns:
        (pixels, bands x orientations x phases), in that order, the phase fastest.

    Raises:
        InputError: an option out of range.
    """
    for count in (bands, orientations, phases):
        _check_count(count, "gabor")
    if phases > 2:
        raise InputError("too many phases", where="gabor", expected="1 or 2", got=phases)
    checked_number(lowest * 2**bands, "gabor", "upper end of the last band", 0.0, 0.5 * (1 + 1e-9))
    rows, columns = _offsets(shape, centre, "gabor")
    squared, found = rows**2 + columns**2, []
    for band in range(bands):
        low = lowest * 2**band
        width = 4 * math.log(2.0) / (math.pi * low)  # the band is as wide as its lower end
        envelope = np.exp(-4 * math.log(2.0) * squared / width**2)
        for k in range(orientations):
            angle = math.pi * k / orientations
            wave = 2 * np.pi * 1.5 * low * (columns * math.cos(angle) + rows * math.sin(angle))
            found += [envelope * np.cos(wave + phase * math.pi / 2) for phase in range(phases)]
    return np.stack(found, axis=1)


def _offsets(shape: Sequence[int], centre: Sequence[float] | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of all pixels, in the order of ``ravel``, relative to the centre."""
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("no shape", where=where, expected="rows and columns", got=tuple(shape))
    middle = [(n - 1) / 2 for n in shape] if centre is None else centre
    rows, columns = np.indices(tuple(shape), dtype=np.float64)
    return rows.ravel() - middle[0], columns.ravel() - middle[1]


def _check_count(count: int, where: str) -> None:
    if count < 1:
        raise InputError("no channels", where=where, expected="1 or more", got=count)
