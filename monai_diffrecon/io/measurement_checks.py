# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every measurement in a file must be, alike when it is written and when it is read."""

from __future__ import annotations

import math
import re

import numpy as np
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement import affine_of, check_finite
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
    if min(shape) < 1 or math.prod(shape) > _MOST_VOXELS:
        raise InputError("no shape of a volume", where=f"{where}#geometry@shape", got=shape)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9 or min(m.geometry.spacing) <= 0:
        raise InputError("an affine that spans no space", where=f"{where}#geometry@affine")
    if m.operator is None and tuple(m.data.shape) != (1, *shape):
        raise InputError(
            "of the wrong shape",
            where=f"{where}#data",
            expected=f"an image {(1, *shape)}, as no operator is named",
            got=tuple(m.data.shape),
        )
    if m.operator is not None:
        if not isinstance(m.operator.get("name"), str):
            raise InputError("names no operator", where=f"{where}#operator", expected='{"name": ..., options}')
        if strays := [str(k) for k in m.operator if not (isinstance(k, str) and OPTION_NAME.fullmatch(k))]:
            raise InputError("not names of options", where=f"{where}#operator", got=", ".join(strays)[:80])
        for key, value in m.operator.items():
            if isinstance(value, Tensor) and str(value.dtype).removeprefix("torch.") not in OPTION_TYPES:
                raise InputError("of the wrong type", where=f"{where}#operator/{key}", got=value.dtype)
    if m.weights is not None:
        _check_weights(m.weights, tuple(m.data.shape), f"{where}#weights")
    if not (math.isfinite(m.noise_std) and m.noise_std >= 0.0):
        raise InputError("out of range", where=f"{where}@noise_std", expected="0 or more", got=m.noise_std)
    if m.unit not in UNITS:
        raise InputError("unknown unit", where=f"{where}@unit", expected=" or ".join(UNITS), got=repr(m.unit)[:80])
    if m.source_sha256 is not None and not (isinstance(m.source_sha256, str) and _SHA256.fullmatch(m.source_sha256)):
        raise InputError("no sha256", where=f"{where}@source_sha256", expected="64 hexadecimal digits")
    if m.header is not None and not all(isinstance(v, str) for pair in m.header.items() for v in pair):
        raise InputError("not keywords and texts", where=f"{where}@header")


def _check_weights(weights: Tensor, shape: tuple[int, ...], where: str) -> None:
    if tuple(weights.shape) != shape:
        raise InputError(
            "of the wrong shape", where=where, expected=f"that of the data, {shape}", got=tuple(weights.shape)
        )
    check_finite(weights, where)
    if weights.is_complex() or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InputError("no weights", where=where, expected="numbers of 0 or more, not all of them 0")
