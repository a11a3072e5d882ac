# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The ramp filter of filtered back-projection."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def ramp_filter(sinogram: Tensor, spacing: float, window: str = "ramp") -> Tensor:
    """Filter parallel projections along their detector axis.

    The ramp is sampled in space, which keeps the mean value right (Kak and Slaney 1988, section 3.3, eq. 61).

    Args:
        sinogram: projections (V, D, Z).
        spacing: detector spacing (mm).
        window: ``ramp``, or ``hann`` for less noise.
    """
    detectors = sinogram.shape[1]
    length = 2 ** math.ceil(math.log2(max(2 * detectors, 64)))
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 1.0 / (4.0 * spacing**2)
    odd = n % 2 == 1
    kernel[odd] = -1.0 / (np.pi * n[odd] * spacing) ** 2
    response = np.fft.rfft(kernel).real * spacing
    if window == "hann":
        response *= 0.5 + 0.5 * np.cos(np.pi * np.arange(len(response)) / (len(response) - 1))
    spectrum = torch.fft.rfft(sinogram, n=length, dim=1)
    gain = torch.from_numpy(response).to(sinogram)[None, :, None]
    return torch.fft.irfft(spectrum * gain, n=length, dim=1)[:, :detectors]
