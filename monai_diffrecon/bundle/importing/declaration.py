# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Properties of a network that no checkpoint holds and the user must state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai_diffrecon.bundle.metadata import check_range
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.pixel_range import PixelRange, PixelSizes
from monai_diffrecon.numerics.planes import check_plane


@dataclass(frozen=True)
class Declaration:
    """The user's declaration of a network.

    Attributes:
        plane: plane of the slices it was trained on.
        spacing: voxel size (mm) within the slice, in RAS+ order, or the range of them that it was trained on.
        intensity: ``{"map": "percentile", "q": ...}`` or ``{"map": "window", "low": ..., "high": ...}``.
        window: largest slice (height, width) denoised whole, or None.
        license_note: the licence of the weights as far as known, or None.

    Raises:
        ConfigError: no plane, lengths that are not above 0, no intensity map.
    """

    plane: str
    spacing: PixelSizes
    intensity: dict[str, Any]
    window: tuple[int, int] | None = None
    license_note: str | None = None

    def __post_init__(self) -> None:
        check_plane(self.plane, "--plane")
        where = "--spacing-range" if isinstance(self.spacing, PixelRange) else "--spacing"
        for length in self.spacing:
            check_number(length, where, low=0.0, open_low=True)
        if isinstance(self.spacing, PixelRange):
            check_range(self.spacing[:2], where)
        for size in self.window or ():
            check_integer(size, "--window", low=1)


def parse_intensity(words: Sequence[str]) -> dict[str, Any]:
    """Return the intensity map of ``percentile Q`` or ``window LOW HIGH``.

    Raises:
        ConfigError: it is neither.
    """
    where = "--intensity"
    try:
        kind, *numbers = words[0], *map(float, words[1:])
    except (ValueError, IndexError):
        kind, numbers = "", []
    if kind == "percentile" and len(numbers) == 1:
        return {"map": "percentile", "q": check_number(numbers[0], where, low=0.0, high=100.0, open_low=True)}
    if kind == "window" and len(numbers) == 2:
        low, high = (check_number(n, where) for n in numbers)
        IntensityMap.window(low, high)
        return {"map": "window", "low": low, "high": high}
    raise ConfigError(
        "not an intensity map", where=where, expected="percentile Q, or window LOW HIGH", got=" ".join(words)
    )
