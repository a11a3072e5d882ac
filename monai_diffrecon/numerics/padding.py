# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Padding of CT images: found by its values, taken out, and put back."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_propagation
from torch import Tensor

from monai_diffrecon.protocols import Padding

#: Hounsfield units of air: nothing attenuates less.
AIR = -1000.0
#: HU below air where noise ends: from here on a value that neighbours share is padding, and further below every value.
_NOISE, _NOTHING = 100.0, 500.0
#: Part of all voxels that must hold a value, and part of these that must have it as a neighbour too.
_SHARED, _FLAT = 1e-3, 0.5


def padding_mask(x: Tensor, air: float = AIR) -> Tensor:
    """Return which voxels of a CT image are padding by their values.

    Noise of air hardly reaches 100 HU below air, and no two neighbours of it are equal.

    Args:
        x: (..., X, Y, Z), HU.
        air: lowest value that is measured, HU.

    Returns:
        bool, of the shape of ``x``.
    """
    low = x < air - _NOISE
    mask = x < air - _NOTHING
    rest = low & ~mask
    if bool(rest.any()):
        same = torch.zeros_like(mask)
        along_x, along_y = x[..., 1:, :, :] == x[..., :-1, :, :], x[..., :, 1:, :] == x[..., :, :-1, :]
        same[..., 1:, :, :] |= along_x
        same[..., :, 1:, :] |= along_y
        values, counts = torch.unique(x[rest], return_counts=True)
        for value in values[counts >= _SHARED * x.numel()].tolist():
            equal = x == value
            if int((same & equal).sum()) >= _FLAT * int(equal.sum()):
                mask |= equal
    return mask


def reaching_border(mask: np.ndarray) -> np.ndarray:
    """Return the part of a mask (rows, columns) that is connected with the border of the image."""
    seeds = mask.copy()
    seeds[1:-1, 1:-1] = False
    return np.asarray(binary_propagation(seeds, mask=mask))


def padding_at(padding: Padding, affine: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Return the padding of another grid of the same image, (X, Y, Z), each voxel's that of the nearest one.

    Args:
        padding: the padding.
        affine: 4 x 4 voxel-to-world matrix of the grid.
        shape: its voxels along X, Y, Z.
    """
    to_index = np.linalg.inv(np.asarray(padding.affine)) @ affine
    last = np.array(padding.values.shape) - 1
    out = torch.empty(shape, dtype=padding.values.dtype)
    plane = np.stack([*np.indices(shape[:2]), np.zeros(shape[:2])], axis=-1) @ to_index[:3, :3].T + to_index[:3, 3]
    for k in range(shape[2]):  # slice by slice: coordinates take far more memory than the volume
        nearest = np.clip(np.floor(plane + k * to_index[:3, 2] + 0.5 + 1e-6), 0, last).astype(np.int64)
        out[..., k] = padding.values[torch.from_numpy(nearest).unbind(-1)]
    return out


def with_padding(volume: Tensor, affine: np.ndarray, padding: Padding | None) -> Tensor:
    """Return a volume (1, X, Y, Z) with the padding of the scan that it was made from."""
    if padding is None:
        return volume
    values = padding_at(padding, affine, tuple(volume.shape[1:])).to(volume)
    return torch.where(values.isnan(), volume, values)


def without_padding(volume: Tensor, affine: np.ndarray, padding: Padding | None) -> Tensor:
    """Return a volume (1, X, Y, Z) with the floor where it holds padding, as it is compared with others."""
    if padding is None:
        return volume
    values = padding_at(padding, affine, tuple(volume.shape[1:])).to(volume.device)
    return torch.where(values.isnan(), volume, padding.floor)
