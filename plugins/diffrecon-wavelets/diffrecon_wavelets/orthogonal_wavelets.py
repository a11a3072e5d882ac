# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Orthogonal wavelet transforms of arrays of any size; pure functions on top of PyWavelets."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import product
from typing import Any

import numpy as np
import pywt

from monai_diffrecon.errors import ConfigError


def orthogonal_wavelet(name: str, where: str) -> Any:
    """Return the PyWavelets wavelet of this name.

    The filters are measured: PyWavelets calls ``dmey`` orthogonal, whose finite filters are so to 1e-3 only.

    Raises:
        ConfigError: unknown name, or a wavelet whose transform is not orthogonal.
    """
    names = pywt.wavelist(kind="discrete")
    if name not in names:
        close = get_close_matches(str(name), names, n=1)
        raise ConfigError(
            "unknown wavelet",
            where=where,
            expected="haar, db2 to db38, sym2 to sym20 or coif1 to coif17",
            got=repr(name),
            mend=f"did you mean {close[0]!r}?" if close else None,
        )
    wavelet = pywt.Wavelet(name)
    low = np.asarray(wavelet.dec_lo)
    lags = np.correlate(low, low, mode="full")[len(low) - 1 :: 2]
    if not wavelet.orthogonal or np.abs(lags - np.eye(1, len(lags))[0]).max() > 1e-6:
        raise ConfigError(
            "not an orthogonal wavelet, so its adjoint would not be its inverse",
            where=where,
            expected="a wavelet of the families haar, db, sym or coif",
            got=repr(name),
        )
    return wavelet


def padded_shape(shape: Sequence[int], axes: Sequence[int], level: int) -> tuple[int, ...]:
    """Return ``shape`` with each of ``axes`` rounded up to a multiple of ``2 ** level``."""
    block = 2**level
    return tuple(-(-n // block) * block if axis in axes else n for axis, n in enumerate(shape))


def approximation_box(shape: Sequence[int], axes: Sequence[int], level: int) -> tuple[slice, ...]:
    """Return where the coarsest approximation lies in the coefficients of :func:`forward`."""
    return tuple(slice(0, n >> level if axis in axes else n) for axis, n in enumerate(shape))


def forward(x: np.ndarray, wavelet: Any, axes: Sequence[int], level: int) -> np.ndarray:
    """Return the coefficients W x, in the usual pyramid: the approximation at the start of each axis.

    W is orthogonal because the signal is continued periodically (mode ``periodization``) and each axis has a
    length that is a multiple of ``2 ** level`` (Mallat, A Wavelet Tour of Signal Processing, section 7.5.1).
    """
    out = x.copy()
    for depth in range(level):
        box = approximation_box(x.shape, axes, depth)
        bands = pywt.dwtn(out[box], wavelet, mode="periodization", axes=axes)
        for band, place in _bands(x.shape, axes, depth).items():
            out[place] = bands[band]
    return out


def inverse(v: np.ndarray, wavelet: Any, axes: Sequence[int], level: int) -> np.ndarray:
    """Return ``W^T v``, which is also the inverse of :func:`forward`."""
    out = v.copy()
    for depth in reversed(range(level)):
        bands = {band: out[place] for band, place in _bands(v.shape, axes, depth).items()}
        out[approximation_box(v.shape, axes, depth)] = pywt.idwtn(bands, wavelet, mode="periodization", axes=axes)
    return out


def _bands(shape: Sequence[int], axes: Sequence[int], depth: int) -> dict[str, tuple[slice, ...]]:
    """Return PyWavelets' name of each band of one level (``ad``: low in the first axis, high in the second)."""
    places = {}
    for letters in product("ad", repeat=len(axes)):
        place = [slice(0, n) for n in shape]
        for axis, letter in zip(axes, letters, strict=True):
            half = shape[axis] >> (depth + 1)
            place[axis] = slice(0, half) if letter == "a" else slice(half, 2 * half)
        places["".join(letters)] = tuple(place)
    return places
