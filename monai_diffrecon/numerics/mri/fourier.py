# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Centred orthonormal Fourier transforms of volumes, over the axes that a measurement encodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: X and Y of a volume (..., X, Y, Z).
AXIAL = (-3, -2)
#: X, Y and Z.
VOLUME = (-3, -2, -1)


def centred_fft(x: Tensor, dims: Sequence[int] = AXIAL) -> Tensor:
    """Return the k-space over ``dims``, those of axial slices by default; the zero frequency lies at index N // 2."""
    shifted = torch.fft.ifftshift(x, dim=dims)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=dims, norm="ortho"), dim=dims)


def centred_ifft(k: Tensor, dims: Sequence[int] = AXIAL) -> Tensor:
    """Return the images of :func:`centred_fft`; its inverse and its adjoint."""
    shifted = torch.fft.ifftshift(k, dim=dims)
    return torch.fft.fftshift(torch.fft.ifftn(shifted, dim=dims, norm="ortho"), dim=dims)
