# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The contrast sensitivity of the eye at a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import fft

from monai_diffrecon.errors import InputError

from .arrays import checked_number


@dataclass(frozen=True)
class EyeFilter:
    """The response of the eye to an image on a display, 1 at its peak.

    Attributes:
        pixel: size of an image pixel on the display, mm: the display's pixel times the zoom.
        distance: viewing distance, mm.
        model: ``burgess``: ``f^1.3 exp(-c f^2)`` with its peak at 4 cycles per degree (Burgess, J Opt Soc Am A 11:1237,
            1994; Burgess et al., 14:2420, 1997). ``saunders_samei``: ``(f^1.5 exp(-3.22 f^0.68))^2`` (Saunders and
            Samei, Med Phys 33:308, 2006), which clinical software for CT uses; its peak is near 0.57 cycles per degree.

    Raises:
        InputError: a length out of range, or an unknown model.
    """

    pixel: float = 0.27
    distance: float = 500.0
    model: Literal["burgess", "saunders_samei"] = "burgess"

    def __post_init__(self) -> None:
        checked_number(self.pixel, "EyeFilter", "pixel")
        checked_number(self.distance, "EyeFilter", "distance")
        if self.model not in ("burgess", "saunders_samei"):
            raise InputError("unknown model", where="EyeFilter", expected="burgess, saunders_samei", got=self.model)

    def sensitivity(self, frequency: np.ndarray) -> np.ndarray:
        """Return the response to cycles per degree of the visual angle."""
        f = np.asarray(frequency, dtype=np.float64)
        if self.model == "burgess":
            relative = f / 4.0
            return relative**1.3 * np.exp(0.65 * (1.0 - relative**2))
        peak = (1.5 / (3.22 * 0.68)) ** (1 / 0.68)
        return (f / peak) ** 3.0 * np.exp(2 * 3.22 * (peak**0.68 - f**0.68))

    def response(self, shape: Sequence[int]) -> np.ndarray:
        """Return the response on the grid of ``fft2`` of regions of ``shape``, not centred."""
        rows, columns = (fft.fftfreq(n) for n in shape)
        per_pixel = np.hypot(rows[:, None], columns[None, :])
        return self.sensitivity(per_pixel / self.pixel * self.distance * math.tan(math.radians(1.0)))
