# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The pixel sizes that a network knows: one size, or a range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: A training for a range of pixel sizes draws pixels up to so many times longer than wide.
MOST_OBLONG = 2.5


class PixelRange(NamedTuple):
    """Pixels whose sides are ``low`` to ``high`` mm, one at most ``ratio`` times the other.

    Attributes:
        low: shortest side (mm).
        high: longest side (mm).
        ratio: longer over shorter side of one pixel.
    """

    low: float
    high: float
    ratio: float = MOST_OBLONG


#: The sides of the one pixel (mm) that a network knows, or their range.
PixelSizes = tuple[float, float] | PixelRange


def nearest_pixel(known: PixelSizes, pixel: Sequence[float], kept: int | None = None) -> tuple[float, float]:
    """Return the sides (mm) of the known pixel that is most like a given one.

    In a range, one side is cut off at the ends of the range, and the other one follows as far as the ratio asks for it.

    Args:
        known: what the network knows.
        pixel: two sides in mm.
        kept: index of the side that the other one follows; None: the shorter one, so that no detail is lost.
    """
    if not isinstance(known, PixelRange):
        return known
    first = int(pixel[1] < pixel[0]) if kept is None else kept
    a = min(max(pixel[first], known.low), known.high)
    b = min(max(pixel[1 - first], known.low, a / known.ratio), known.high, a * known.ratio)
    return (b, a) if first else (a, b)


def describe_pixels(known: PixelSizes) -> str:
    """Return the pixels in words, for messages and model cards."""
    if not isinstance(known, PixelRange):
        return f"{known[0]:g} x {known[1]:g} mm"
    return f"{known.low:g} to {known.high:g} mm, one side at most {known.ratio:g} times the other"
