# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Matrices along one axis of a volume, and Gaussian filters: a symmetric matrix, or a local mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_diffrecon import slabs

#: What a matrix may lack, relative to its largest entry.
_NEGLIGIBLE = 1e-20

#: Samples of an axis that a product with a band makes at a time.
_BLOCK = 48

#: From so many samples on a product with a band is faster than one with the whole matrix.
_BAND_PAYS = 192


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
    return without_tails(kernel / torch.exp(-0.5 * (reach / width) ** 2).sum())


def without_tails(matrix: Tensor) -> Tensor:
    """Return a matrix with zeros in place of entries below 1e-20 of its largest one.

    Such entries change no sum, not even in float64. In float32 they, or their products, may be subnormal numbers, which
    a processor multiplies some thirty times more slowly.
    """
    size = matrix.abs()
    return torch.where(size < _NEGLIGIBLE * size.max(), 0.0, matrix)


def reach_of(matrix: Tensor) -> int:
    """Return how far from the diagonal the entries of a square matrix go."""
    row, column = matrix.nonzero(as_tuple=True)
    return int((row - column).abs().max()) if len(row) else 0


def along_axis(matrix: Tensor, x: Tensor, axis: int, reach: int | None = None) -> Tensor:
    """Return ``matrix @ x`` along ``axis`` of a volume, real or complex.

    Args:
        matrix: (rows, size of the axis).
        x: of any shape.
        axis: not negative.
        reach: of a square matrix, as :func:`reach_of` says it; a band is multiplied block by block where that is
            faster, and the result is the same to round-off. None takes the matrix as a whole.
    """
    size, last = x.shape[axis], axis == x.ndim - 1
    flat = x.reshape(-1, size) if last else x.reshape(-1, size, math.prod(x.shape[axis + 1 :]))
    matrix = matrix.to(x)
    if reach is None or size < _BAND_PAYS or 2 * (_BLOCK + 2 * reach) > size:
        out = flat @ matrix.T if last else matrix @ flat
    else:
        out = _band_product(matrix, flat, reach, last)
    return out.reshape(*x.shape[:axis], len(matrix), *x.shape[axis + 1 :])


def gaussian_mean(x: Tensor, width: float, axis: int) -> Tensor:
    """Return the Gaussian mean along ``axis`` around each voxel, of the voxels that are there.

    The kernel ends at four standard deviations, which leaves out 6e-5 of it, so its matrix is a band. The band is
    multiplied block by block, which is faster than a convolution of one channel, and than the whole matrix.

    Args:
        x: real, of any shape.
        width: standard deviation in samples, above 0.
        axis: not negative.
    """
    reach = math.ceil(4.0 * width)
    return slabs.with_neighbours(lambda whole: _gaussian_mean(whole, width, axis, reach), x, axis, reach, reach)


def _gaussian_mean(x: Tensor, width: float, axis: int, reach: int) -> Tensor:
    size = x.shape[axis]
    n = torch.arange(size, dtype=torch.float64)
    distance = n[:, None] - n[None, :]
    matrix = torch.exp(-0.5 * (distance / width) ** 2) * (distance.abs() <= reach)
    matrix = (matrix / matrix.sum(1, keepdim=True)).to(x)
    last = axis == x.ndim - 1
    flat = x.reshape(-1, size) if last else x.reshape(-1, size, math.prod(x.shape[axis + 1 :]))
    return _band_product(matrix, flat, reach, last).reshape(x.shape)


def _band_product(matrix: Tensor, flat: Tensor, reach: int, last: bool) -> Tensor:
    """Return a band matrix times ``flat``, (n, size) or (n, size, rest), block by block of its rows."""
    size = flat.shape[1]
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        low, high = max(start - reach, 0), min(end + reach, size)
        band = matrix[start:end, low:high]
        out[:, start:end] = flat[:, low:high] @ band.T if last else band @ flat[:, low:high]
    return out
