# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pixel-driven back-projection, the last step of filtered back-projection."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Numbers held at once: pixels times views.
_BLOCK = 2_000_000


def back_projection(
    filtered: Tensor, pixels: int, locate: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
) -> Tensor:
    """Return the sum (P, Z) over the views of what each pixel reads, linearly between bins; 0 outside the detector.

    Args:
        filtered: filtered views (V, D, Z).
        pixels: pixels P.
        locate: returns, for the views from ``first`` to before ``last``, the bin at which each pixel is seen, a
            fraction, and what that counts: both (P, last - first).
    """
    views, bins, slices = filtered.shape
    image = filtered.new_zeros((pixels, slices))
    count = max(1, _BLOCK // pixels)
    for first in range(0, views, count):
        last = min(first + count, views)
        dense = filtered[first:last].reshape(-1, slices).contiguous()
        position, weight = locate(first, last)
        low = np.floor(position)
        start_of_view = np.arange(last - first) * bins
        for neighbour, share in ((low, 1.0 - (position - low)), (low + 1.0, position - low)):
            inside = (neighbour >= 0) & (neighbour < bins)
            index = (np.clip(neighbour, 0, bins - 1) + start_of_view[None]).astype(np.int64)
            image = image + F.embedding_bag(
                torch.from_numpy(index).to(dense.device),
                dense,
                mode="sum",
                per_sample_weights=torch.from_numpy(np.where(inside, share * weight, 0.0)).to(dense),
            )
    return image


def pixel_coordinates(
    shape: tuple[int, int], spacing: tuple[float, float], angles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``x cos + y sin`` and ``y cos - x sin`` of the pixels (mm), row-major, each (X * Y, V).

    Args:
        shape: pixels (X, Y), centred on the origin.
        spacing: pixel size (mm).
        angles: angles of the views (radians), (V,).
    """
    x, y = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True))
    cos, sin = np.cos(angles), np.sin(angles)
    across = x[:, None, None] * cos + y[None, :, None] * sin
    along = y[None, :, None] * cos - x[:, None, None] * sin
    return across.reshape(-1, len(angles)), along.reshape(-1, len(angles))


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
