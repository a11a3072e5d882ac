# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The ramp filter of filtered back-projection."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def ramp_filter(sinogram: Tensor, spacing: float, window: str = "ramp", *, fan_step: float = 0.0) -> Tensor:
    """Filter projections along their detector axis.

    The ramp is sampled in space, which keeps the mean value right (Kak and Slaney 1988, section 3.3, eq. 61). For
    fan beams of equal angles its samples at the angle g are multiplied by ``(g / sin g)^2`` (section 3.4.1).

    Args:
        sinogram: projections (V, D, Z).
        spacing: detector spacing (mm); of a fan, where it crosses the axis of rotation.
        window: ``ramp``, or ``hann`` for less noise.
        fan_step: angle between the rays of a fan of equal angles (radians); 0 for other rays.
    """
    detectors = sinogram.shape[1]
    length = 2 ** math.ceil(math.log2(max(2 * detectors, 64)))
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 1.0 / (4.0 * spacing**2)
    odd = n % 2 == 1
    kernel[odd] = -1.0 / (np.pi * n[odd] * spacing) ** 2
    if fan_step > 0.0:
        # Rays of one view are less than pi apart; what the padding has beyond that is never met.
        near = odd & (n < detectors)
        kernel[near] *= (n[near] * fan_step / np.sin(n[near] * fan_step)) ** 2
    response = np.fft.rfft(kernel).real * spacing
    if window == "hann":
        response *= 0.5 + 0.5 * np.cos(np.pi * np.arange(len(response)) / (len(response) - 1))
    spectrum = torch.fft.rfft(sinogram, n=length, dim=1)
    gain = torch.from_numpy(response).to(sinogram)[None, :, None]
    return torch.fft.irfft(spectrum * gain, n=length, dim=1)[:, :detectors]
