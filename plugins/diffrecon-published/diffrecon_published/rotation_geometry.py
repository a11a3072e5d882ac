# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The matrices of rotate-and-sum parallel-beam CT, and the layout of its published sinograms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from einops import rearrange
from scipy.sparse import csr_array, vstack
from torch import Tensor

#: Raised whenever :func:`rotation_matrix` would get other entries: matrices kept on disk carry it in their name.
ROTATION_VERSION = "rotation-1"

#: Smaller interpolation weights are rounding errors of the grid.
_NEGLIGIBLE = 1e-9


def padded_size(width: int) -> tuple[int, int]:
    """Return the size P of a slice padded to its diagonal, ``ceil(sqrt(2) width)``, and the pixels put before it."""
    size = math.isqrt(2 * width * width - 1) + 1
    return size, size // 2 - width // 2


def rotation_entries(width: int, angles: np.ndarray) -> tuple[int, int]:
    """Return estimates from above of the non-zero entries of :func:`rotation_matrix` and of the back-projection.

    A pixel's bilinear footprint, 2 x 2 pixels, casts a shadow of ``2 (|cos| + |sin|)`` bins; the back-projection
    reads two bins.
    """
    shadow = 2.0 * (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))
    return math.ceil(width * width * float(shadow.sum())), 2 * width * width * len(angles)


def rotation_matrix(width: int, angles: np.ndarray) -> csr_array:
    """Return the projections of a square image: rotate it by bilinear resampling, then sum its rows.

    The image is padded with zeros to P x P and read at ``(column, row) = R (column', row')`` about its centre, with
    ``R = [[cos, sin], [-sin, cos]]``; bin ``column'`` is the sum over ``row'``. (The projector of DiffusionMBIR,
    arXiv 2211.10655, TPDM, arXiv 2303.08440, and DDS, arXiv 2303.05754.)

    Args:
        width: pixels W along rows and columns.
        angles: angles in radians, (V,).

    Returns:
        Matrix (V * P, W * W), no unit (a bin is a sum of intensities), float32, row-major pixels.
    """
    return vstack([_projected_view(width, float(theta)) for theta in angles], format="csr")


def rotation_back_projection(width: int, angles: np.ndarray, views: int | None = None) -> csr_array:
    """Return the published back-projection: read every view where a pixel falls, sum, times ``pi / (2 V)``.

    A pixel falls on bin ``column cos - row sin`` about the centre; between bins the view is interpolated. It is
    ``pi / (2 V)`` times the adjoint of :func:`rotation_matrix` up to interpolation.

    Args:
        width: pixels W along rows and columns.
        angles: angles in radians, (V,).
        views: views the scale is for, when ``angles`` are a part of them.

    Returns:
        Matrix (W * W, V * P), float32.
    """
    scale = math.pi / (2.0 * (len(angles) if views is None else views))
    transposed = vstack([_read_view(width, float(theta), scale) for theta in angles], format="csr")
    return transposed.T.tocsr()


def to_published_layout(sinogram: Tensor) -> Tensor:
    """Return a sinogram (V, P, Z) in the layout of the published code, (Z, 1, P, V)."""
    return rearrange(sinogram, "v p z -> z 1 p v")


def from_published_layout(sinogram: Tensor) -> Tensor:
    """Return a sinogram (V, P, Z) from the layout of the published code, (Z, 1, P, V)."""
    return rearrange(sinogram, "z 1 p v -> v p z")


def _projected_view(width: int, theta: float) -> csr_array:
    """Return one view's rows (P, W * W) of the projection."""
    size, before = padded_size(width)
    cos, sin, centre = math.cos(theta), math.sin(theta), (size - 1) / 2
    offset = np.arange(size) - centre
    column = cos * offset[None] + sin * offset[:, None] + (centre - before)
    row = -sin * offset[None] + cos * offset[:, None] + (centre - before)
    near = (column > -1) & (column < width) & (row > -1) & (row < width)
    bins = np.broadcast_to(np.arange(size)[None], near.shape)[near]
    at, pixels, weights = [], [], []
    for r, row_share in _neighbours(row[near]):
        for c, column_share in _neighbours(column[near]):
            weight = row_share * column_share
            kept = (r >= 0) & (r < width) & (c >= 0) & (c < width) & (weight > _NEGLIGIBLE)
            at.append(bins[kept])
            pixels.append((r * width + c)[kept])
            weights.append(weight[kept])
    return _view(at, pixels, weights, (size, width * width))


def _read_view(width: int, theta: float, scale: float) -> csr_array:
    """Return the transpose (P, W * W) of one view's part in the back-projection."""
    size, before = padded_size(width)
    centre = (size - 1) / 2
    offset = np.arange(width) + before - centre
    position = (math.cos(theta) * offset[None] - math.sin(theta) * offset[:, None] + centre).ravel()
    pixel = np.arange(width * width)
    at, pixels, weights = [], [], []
    for detector, share in _neighbours(position):
        # Corner pixels may fall beyond the last bin: the published code reads zeros there.
        kept = (detector >= 0) & (detector < size) & (share > _NEGLIGIBLE)
        at.append(detector[kept])
        pixels.append(pixel[kept])
        weights.append(scale * share[kept])
    return _view(at, pixels, weights, (size, width * width))


def _neighbours(position: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the two indices around each position, with their shares in linear interpolation."""
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    yield low, 1.0 - fraction
    yield low + 1, fraction


def _view(
    bins: list[np.ndarray], pixels: list[np.ndarray], weights: list[np.ndarray], shape: tuple[int, int]
) -> csr_array:
    """Return one view's matrix; what repeats is summed in float64 before the values become float32."""
    place = (np.concatenate(bins).astype(np.int32), np.concatenate(pixels).astype(np.int32))
    matrix = csr_array((np.concatenate(weights), place), shape=shape)
    matrix.sum_duplicates()
    return matrix.astype(np.float32)
