# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Centred orthonormal Fourier transforms over the two axes of axial slices."""

from __future__ import annotations

import torch
from torch import Tensor

#: X and Y of a volume (..., X, Y, Z).
AXIAL = (-3, -2)


def centred_fft(x: Tensor) -> Tensor:
    """Return the k-space of axial slices; the zero frequency lies at index N // 2."""
    shifted = torch.fft.ifftshift(x, dim=AXIAL)
    return torch.fft.fftshift(torch.fft.fft2(shifted, dim=AXIAL, norm="ortho"), dim=AXIAL)


def centred_ifft(k: Tensor) -> Tensor:
    """Return the images of :func:`centred_fft`; its inverse and its adjoint."""
    shifted = torch.fft.ifftshift(k, dim=AXIAL)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, dim=AXIAL, norm="ortho"), dim=AXIAL)
