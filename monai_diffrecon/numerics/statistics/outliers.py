# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Voxels of an image that no tissue explains: saturated or dead ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_diffrecon.numerics.statistics.order_statistics import outermost, percentiles

#: An outlier leaves at least so many of the 24 voxels around it in its slice behind, so that up to five may touch.
_NEIGHBOURS = 20
#: The outermost values, this part of all, are outliers too when a gap of this factor parts them from the others.
_OUTERMOST, _GAP = 1e-3, 2.0
#: Slices that are looked at together.
_TOGETHER = 16


def replace_outliers(image: Tensor, axis: int, step: float, *, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """Return ``image`` with its outliers replaced by the median of their neighbours in the slice, and where they were.

    A voxel is an outlier when it exceeds at least 20 of the 24 voxels around it by ``step`` times the image's range
    (its 0.5th to its 99.5th percentile), or falls below them as far. Larger groups, up to 0.1 % of all voxels, are
    outliers when they lie at least twice as far out as all others; they are replaced by the outermost of these.

    Args:
        image: (1, X, Y, Z), real.
        axis: spatial axis, 0 to 2, along which the slices are stacked.
        step: relative to the image's range, above 0.
        in_place: write into the image, to save memory.

    Returns:
        The image (1, X, Y, Z) and the mask (1, X, Y, Z) of the voxels that were replaced.
    """
    low, high = percentiles(image, (0.5, 99.5))
    slices = image.movedim(axis + 1, 0)  # (N, 1, H, W)
    if not low < high or min(slices.shape[2:]) < 3:
        return image, torch.zeros_like(image, dtype=torch.bool)
    below, above = -_last_before_gap(image, -high, lowest=True), _last_before_gap(image, low)
    clean = image if in_place else image.clone(memory_format=torch.contiguous_format)
    mask = torch.zeros_like(image, dtype=torch.bool)
    # Some slices at a time: their differences take far more memory than they do.
    for part, out, found_out in zip(
        slices.split(_TOGETHER), *(t.movedim(axis + 1, 0).split(_TOGETHER) for t in (clean, mask)), strict=True
    ):
        padded = F.pad(part, (2, 2, 2, 2), mode="reflect")
        found = _isolated(part, padded, step * (high - low)) | (part < below) | (part > above)
        n, _, h, w = torch.nonzero(found, as_tuple=True)
        window = torch.arange(5, device=image.device)
        around = padded[n[:, None, None], 0, (h[:, None] + window)[:, :, None], (w[:, None] + window)[:, None, :]]
        out[n, 0, h, w] = around.flatten(1).median(dim=1).values.clamp(below, above)
        found_out.copy_(found)
    return clean, mask


def _isolated(slices: Tensor, padded: Tensor, step: float) -> Tensor:
    """Return the mask of the voxels that differ from most of their neighbours by more than ``step``."""
    height, width = slices.shape[2:]
    above, below = (torch.zeros(slices.shape, dtype=torch.uint8, device=slices.device) for _ in range(2))
    for i in range(5):
        for j in range(5):
            if (i, j) != (2, 2):
                difference = slices - padded[:, :, i : i + height, j : j + width]
                above += difference > step
                below += difference < -step
    return (above >= _NEIGHBOURS) | (below >= _NEIGHBOURS)


def _last_before_gap(image: Tensor, low: float, *, lowest: bool = False) -> float:
    """Return the largest value that no gap parts from the smaller ones; distances are from ``low``.

    Of the negative of the image, if ``lowest``.
    """
    count = max(round(_OUTERMOST * image.numel()), 1)
    values = outermost(image, count + 1, lowest=lowest)  # falling
    gaps = torch.nonzero(values[:-1] - low > _GAP * (values[1:] - low)).flatten()
    return float(values[int(gaps[-1]) + 1 if len(gaps) else 0])
