# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Grids of images and k-space of other sizes, around the same centre: index N // 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def centred_resize(x: Tensor, dim: int, size: int) -> Tensor:
    """Return ``x`` cropped or zero-padded along ``dim`` to ``size``; index N // 2 becomes ``size`` // 2."""
    n = x.shape[dim]
    if size == n:
        return x
    if size < n:
        return x.narrow(dim, n // 2 - size // 2, size)
    out = x.new_zeros([size if axis == dim % x.ndim else extent for axis, extent in enumerate(x.shape)])
    out.narrow(dim, size // 2 - n // 2, n).copy_(x)
    return out


def crop_or_pad_kspace(k: Tensor, dim: int, size: int) -> Tensor:
    """Return centred orthonormal k-space of the same field of view in ``size`` voxels along ``dim``.

    Cropping gives larger voxels, zero-padding smaller ones: exact for images without frequencies beyond either grid.
    Intensities stay, hence the factor ``sqrt(size / N)``, which noise takes as well. Padded samples were not measured.

    Args:
        k: complex k-space.
        dim: Fourier-encoded axis.
        size: voxels along it.
    """
    n = k.shape[dim]
    return k if size == n else centred_resize(k, dim, size) * (size / n) ** 0.5


def centred_affine(
    affine: np.ndarray, shape: Sequence[int], new_shape: Sequence[int], growth: Sequence[float]
) -> np.ndarray:
    """Return the affine of a grid of other voxels around the same centre, the voxel of index N // 2.

    Args:
        affine: 4 x 4 voxel-to-world matrix.
        shape: its voxels along each axis.
        new_shape: those of the other grid.
        growth: size of the other voxels relative to its own along each axis.
    """
    out = np.array(affine, dtype=np.float64)
    out[:3, :3] *= np.asarray(growth, dtype=np.float64)
    out[:3, 3] += affine[:3, :3] @ (np.asarray(shape) // 2) - out[:3, :3] @ (np.asarray(new_shape) // 2)
    return out
