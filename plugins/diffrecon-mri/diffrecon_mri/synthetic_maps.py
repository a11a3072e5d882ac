# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic coil maps and phases, for simulations and tests."""

from __future__ import annotations

import math

import sigpy.mri
import torch
from torch import Tensor


def birdcage_maps(coils: int, shape: tuple[int, int, int], radius: float = 1.5) -> Tensor:
    """Return smooth complex maps (coils, X, Y, Z) of coils around Z, complex64; the sum of squared magnitudes is 1.

    Args:
        coils: number of coils, in rings of eight.
        shape: (X, Y, Z).
        radius: of the ring, relative to the field of view.
    """
    x, y, z = shape
    maps = sigpy.mri.birdcage_maps((coils, z, y, x), r=radius, nzz=8)
    return torch.from_numpy(maps).to(torch.complex64).permute(0, 3, 2, 1).contiguous()


def smooth_phase(shape: tuple[int, int, int], seed: int = 0, strength: float = 1.0) -> Tensor:
    """Return ``exp(i phi)`` (X, Y, Z), complex64, of a quadratic polynomial phi with random coefficients.

    Args:
        shape: (X, Y, Z).
        seed: seed of the coefficients.
        strength: their standard deviation, radians over half the field of view.
    """
    generator = torch.Generator().manual_seed(seed)
    ramps = torch.meshgrid(*(torch.linspace(-1.0, 1.0, n) if n > 1 else torch.zeros(1) for n in shape), indexing="ij")
    terms = [*ramps, *(a * b for i, a in enumerate(ramps) for b in ramps[i:])]
    phase = sum(
        (c * t for c, t in zip(strength * torch.randn(len(terms), generator=generator), terms, strict=True)),
        torch.full(shape, math.pi / 7),
    )
    return torch.polar(torch.ones_like(phase), phase)
