# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Non-uniform Fourier transforms of stacks of slices, by FINUFFT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytorch_finufft.functional as finufft
import torch
from torch import Tensor

#: Requested relative error: about what single precision allows, and well below what double precision is asked for.
_EPS = {torch.complex64: 1e-6, torch.complex128: 1e-12}


def nufft(x: Tensor, points: Tensor, eps: float | None = None) -> Tensor:
    """Return ``y[..., j] = sum_n x[..., n] exp(-i points[:, j] . (n - N // 2)) / sqrt(X Y)``.

    Args:
        x: complex images (..., X, Y).
        points: angular frequencies (2, samples) in [-pi, pi], radians a voxel.
        eps: relative error; None for what the data type allows.
    """
    images = x.reshape(-1, *x.shape[-2:]).contiguous()
    y = finufft.finufft_type2(points.to(x.real.dtype), images, isign=-1, modeord=0, **_options(x, eps))
    return y.reshape(*x.shape[:-2], -1) / math.sqrt(x.shape[-2] * x.shape[-1])


def nufft_adjoint(y: Tensor, points: Tensor, shape: Sequence[int], eps: float | None = None) -> Tensor:
    """Return images (..., X, Y): the adjoint of :func:`nufft` applied to samples (..., samples)."""
    values = y.reshape(-1, y.shape[-1]).contiguous()
    size = (int(shape[0]), int(shape[1]))
    x = finufft.finufft_type1(points.to(y.real.dtype), values, size, isign=1, modeord=0, **_options(y, eps))
    return x.reshape(*y.shape[:-1], *size) / math.sqrt(size[0] * size[1])


def _options(x: Tensor, eps: float | None) -> dict[str, float | int]:
    options: dict[str, float | int] = {"eps": _EPS[x.dtype] if eps is None else eps}
    if x.device.type == "cpu":  # cuFINUFFT has no threads to set
        options["nthreads"] = torch.get_num_threads()
    return options


def toeplitz_kernel(points: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the spectrum (2X, 2Y), real, by which :func:`apply_toeplitz` multiplies.

    The adjoint after the forward transform is a convolution with ``sum_j exp(i points_j . d) / (X Y)``, d up to N - 1
    (Fessler et al. 2005, doi 10.1109/TSP.2005.853152). Computed in double precision.
    """
    double = (2 * int(shape[0]), 2 * int(shape[1]))
    ones = torch.ones(points.shape[1], dtype=torch.complex128, device=points.device)
    # The normalization of the doubled grid is half that of the grid on each side.
    spread = nufft_adjoint(ones, points.double(), double) * (math.sqrt(double[0] * double[1]) / (shape[0] * shape[1]))
    # d = -N, the first entry, is reached by no pair of voxels; without it the kernel is Hermitian, its spectrum real.
    spread[0, :] = 0
    spread[:, 0] = 0
    return torch.fft.fft2(torch.fft.ifftshift(spread)).real


def apply_toeplitz(x: Tensor, kernel: Tensor) -> Tensor:
    """Return the adjoint after the forward transform of images (..., X, Y), by :func:`toeplitz_kernel`."""
    size = (int(kernel.shape[0]), int(kernel.shape[1]))
    spectrum = torch.fft.fft2(x, s=size) * kernel
    return torch.fft.ifft2(spectrum)[..., : x.shape[-2], : x.shape[-1]]
