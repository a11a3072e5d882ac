# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of what the measures are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from monai_diffrecon.errors import InputError


def checked(x: ArrayLike, dims: Sequence[int], where: str, least: int = 1) -> np.ndarray:
    """Return ``x`` in float64.

    Args:
        x: real, finite.
        dims: the numbers of dimensions allowed.
        where: the function, for messages.
        least: entries along the first axis.

    Raises:
        InputError: complex, of another number of dimensions, too short, empty, or not finite.
    """
    array = np.asarray(x)
    if np.iscomplexobj(array):
        raise InputError("complex values", where=where, expected="real values", mend="take the magnitude")
    array = array.astype(np.float64)
    if array.ndim not in dims or array.size == 0 or len(array) < least:
        expected = f"{' or '.join(map(str, dims))} dimensions, at least {least} along the first"
        raise InputError("array of another shape", where=where, expected=expected, got=array.shape)
    if not np.isfinite(array).all():
        raise InputError("values that are not finite", where=where, expected="finite values")
    return array


def checked_spacing(spacing: Sequence[float], dims: int, where: str) -> tuple[float, ...]:
    """Return the pixel size, mm, one number an axis.

    Raises:
        InputError: not ``dims`` positive numbers.
    """
    values = tuple(float(s) for s in spacing)
    if len(values) != dims or not all(math.isfinite(s) and s > 0 for s in values):
        raise InputError("no pixel size", where=where, expected=f"{dims} positive numbers, mm", got=tuple(spacing))
    return values


def checked_number(value: float, where: str, what: str, low: float = 0.0, high: float = math.inf) -> float:
    """Return ``value`` if it lies between ``low`` and ``high``, both left out.

    Raises:
        InputError: it does not.
    """
    if not low < value < high:
        raise InputError(f"{what} out of range", where=where, expected=f"between {low:g} and {high:g}", got=value)
    return float(value)
