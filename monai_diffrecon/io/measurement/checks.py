# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of measurements, both when written and when read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, check_finite
from monai_diffrecon.protocols import Measurement

#: Units of a volume's intensity.
UNITS = ("HU", "1/mm", "arbitrary")
#: Types of what was measured.
DATA_TYPES = ("float32", "complex64")
#: Types of arrays that are options of an operator.
OPTION_TYPES = ("bool", "uint8", "int32", "int64", "float32", "float64", "complex64")
#: Name of an option.
OPTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: More voxels than these no machine reconstructs.
_MOST_VOXELS = 1 << 36
#: So many more voxels than entries of its measurement, and of any measurement, a volume may have.
_MOST_UNMEASURED, _FEW_VOXELS = 4096, 1 << 20
#: Nothing that is scanned is so many mm away, or has larger voxels; and none are smaller than a nanometre.
_FAR, _TINY = 1e9, 1e-6


def check_affine(affine: np.ndarray, where: str) -> None:
    """Refuse a voxel-to-world matrix (4, 4) of no place.

    Raises:
        InputError: not finite, not of one space, or beyond all sizes.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.abs(affine) < _FAR).all() or sizes.min() < _TINY or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-9:
        raise InputError("a singular affine", where=where, mend="repair the header")
    if np.abs(affine[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        raise InputError("no affine", where=where, expected="0, 0, 0, 1 as its last row", mend="repair the header")


def check_amount(voxels: int, entries: int, where: str) -> None:
    """Refuse a volume that is far too large for what was measured of it, before anything of its size is made.

    Raises:
        InputError: it is.
    """
    limit = max(_MOST_UNMEASURED * entries, _FEW_VOXELS)
    if voxels > min(limit, _MOST_VOXELS):
        raise InputError(
            "the volume is too large for its measurement",
            where=where,
            expected=f"at most {min(limit, _MOST_VOXELS)} voxels for {entries} entries",
            got=voxels,
        )


def check_measurement(m: Measurement, where: str) -> None:
    """Refuse what a measurement cannot be.

    Args:
        m: the measurement.
        where: name of its file.

    Raises:
        InputError: types, shapes or units that cannot be, or numbers that are not finite.
    """
    if str(m.data.dtype).removeprefix("torch.") not in DATA_TYPES or m.data.ndim == 0:
        raise InputError("of the wrong type", where=f"{where}#data", expected=" or ".join(DATA_TYPES), got=m.data.dtype)
    check_finite(m.data, f"{where}#data")
    shape = m.geometry.shape
    affine = affine_of(m.geometry)
    if min(shape) < 1:
        raise InputError("not the shape of a volume", where=f"{where}#geometry@shape", got=shape)
    check_amount(math.prod(shape), m.data.numel(), f"{where}#geometry@shape")
    check_affine(affine, f"{where}#geometry@affine")
    if m.operator is None and tuple(m.data.shape) != (1, *shape):
        raise InputError(
            "of the wrong shape",
            where=f"{where}#data",
            expected=f"an image {(1, *shape)}, since no operator is named",
            got=tuple(m.data.shape),
        )
    if m.operator is not None:
        if not isinstance(m.operator.get("name"), str):
            raise InputError("names no operator", where=f"{where}#operator", expected='{"name": ..., options}')
        if strays := [str(k) for k in m.operator if not (isinstance(k, str) and OPTION_NAME.fullmatch(k))]:
            raise InputError("invalid option names", where=f"{where}#operator", got=", ".join(strays)[:80])
        for key, value in m.operator.items():
            if any(set(text) & set("/\\\0") for text in _texts(value)):
                # A measurement that a stranger made must not have its reader open other files.
                raise InputError(
                    "names another file, which is not read",
                    where=f"{where}#operator/{key}",
                    expected="a measurement that contains its whole operator",
                    mend="set the option in the configuration, or use options that do not need a file",
                )
            if isinstance(value, Tensor) and str(value.dtype).removeprefix("torch.") not in OPTION_TYPES:
                raise InputError("of the wrong type", where=f"{where}#operator/{key}", got=value.dtype)
    if m.weights is not None:
        _check_weights(m.weights, tuple(m.data.shape), f"{where}#weights")
    if not (math.isfinite(m.noise_std) and m.noise_std >= 0.0):
        raise InputError("out of range", where=f"{where}@noise_std", expected="0 or more", got=m.noise_std)
    if not isinstance(m.unit, str) or m.unit not in UNITS:
        raise InputError("unknown unit", where=f"{where}@unit", expected=" or ".join(UNITS), got=repr(m.unit)[:80])
    if m.source_sha256 is not None and not (isinstance(m.source_sha256, str) and _SHA256.fullmatch(m.source_sha256)):
        raise InputError("not a sha256", where=f"{where}@source_sha256", expected="64 hexadecimal digits")
    if m.header is not None and not all(isinstance(v, str) for pair in m.header.items() for v in pair):
        raise InputError("not keywords with text values", where=f"{where}@header")
    if not (isinstance(m.notices, tuple) and all(isinstance(line, str) for line in m.notices)):
        raise InputError("not sentences", where=f"{where}@notices")


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in an option, nested ones too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _check_weights(weights: Tensor, shape: tuple[int, ...], where: str) -> None:
    if tuple(weights.shape) != shape:
        raise InputError(
            "of the wrong shape", where=where, expected=f"that of the data, {shape}", got=tuple(weights.shape)
        )
    check_finite(weights, where)
    if weights.is_complex() or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InputError("no weights", where=where, expected="numbers of 0 or more, not all of them 0")
