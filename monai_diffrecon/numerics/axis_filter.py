# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A Gaussian filter along one axis, as a symmetric matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_matrix(size: int, width: float) -> Tensor:
    """Return the symmetric matrix (size, size) of a Gaussian filter, in float64.

    Values outside are zero, which keeps the matrix symmetric, so that it is its own adjoint; a row far from the ends
    sums to 1.

    Args:
        size: number of samples.
        width: standard deviation in samples, above 0.
    """
    n = torch.arange(size, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((n[:, None] - n[None, :]) / width) ** 2)
    reach = torch.arange(-round(8 * width) - 1, round(8 * width) + 2, dtype=torch.float64)
    return kernel / torch.exp(-0.5 * (reach / width) ** 2).sum()


def along_axis(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return the symmetric ``matrix`` applied along ``axis`` of a volume, real or complex."""
    return (x.movedim(axis, -1) @ matrix.to(x)).movedim(-1, axis)
