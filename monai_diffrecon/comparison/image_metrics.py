# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measures of the distance of a volume to a reference: of all voxels, slice by slice, or within a mask."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.numerics.planes import to_slices

#: Width of SSIM's Gaussian window in voxels (sigma 1.5 cut at 3.5 sigma); no slice may be smaller.
SSIM_WINDOW = 11


def psnr(x: Tensor, ref: Tensor, data_range: float) -> float:
    """Return ``10 log10(data_range^2 / mean((x - ref)^2))`` in dB over all voxels; infinite when equal."""
    return float(10 * torch.log10(data_range**2 / (x.double() - ref.double()).square().mean()))


def nmse(x: Tensor, ref: Tensor) -> float:
    """Return ``||x - ref||^2 / ||ref||^2`` over all voxels."""
    return float((x.double() - ref.double()).square().sum() / ref.double().square().sum())


def mae(x: Tensor, ref: Tensor) -> float:
    """Return the mean of ``|x - ref|`` over all voxels, in their unit."""
    return float((x.double() - ref.double()).abs().mean())


def slice_psnr(x: Tensor, ref: Tensor, data_range: float, plane: str) -> Tensor:
    """Return the PSNR (dB) of each slice in a plane, (N,), for volumes (1, X, Y, Z)."""
    squares = to_slices(x.double() - ref.double(), plane).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / squares)


def slice_ssim(x: Tensor, ref: Tensor, data_range: float, plane: str) -> Tensor:
    """Return the structural similarity of each slice in a plane, (N,), for volumes (1, X, Y, Z).

    That of Wang et al. 2004 (IEEE TIP 13(4), equation 13): Gaussian window of 1.5 voxels, K1 = 0.01,
    K2 = 0.03, mean over the windows inside the slice. scikit-image computes it: it takes under
    four seconds for all 579 slices of 181 x 217 x 181 voxels; MONAI's takes several times that, since it does not
    separate the window.

    Raises:
        ValueError: slices smaller than 11 x 11 voxels.
    """
    from skimage.metrics import structural_similarity  # slow to import

    pairs = zip(to_slices(x, plane)[:, 0], to_slices(ref, plane)[:, 0], strict=True)
    values = [
        structural_similarity(
            # In float32 the variance of a faint structure on a bright ground would be lost to cancellation.
            np.ascontiguousarray(a.double().cpu().numpy()),
            np.ascontiguousarray(b.double().cpu().numpy()),
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in pairs
    ]
    return torch.tensor(values, dtype=torch.float64)


def filled_slices(ref: Tensor, data_range: float, plane: str) -> Tensor:
    """Return which slices (N,) of a reference (1, X, Y, Z) are not empty.

    A slice is empty when its values span no more than 1 % of the data range, whatever the background's value:
    0 in MR, -1000 HU in CT.
    """
    low, high = to_slices(ref, plane).flatten(1).aminmax(dim=1)
    return high - low > 0.01 * data_range


def masked_psnr(x: Tensor, ref: Tensor, mask: Tensor, data_range: float) -> float:
    """Return ``10 log10(data_range^2 / mean((x - ref)^2))`` in dB over the voxels of a mask (bool)."""
    return float(10 * torch.log10(data_range**2 / (x[mask].double() - ref[mask].double()).square().mean()))


def masked_nmse(x: Tensor, ref: Tensor, mask: Tensor) -> float:
    """Return ``||x - ref||^2 / ||ref||^2`` over the voxels of a mask."""
    return float((x[mask].double() - ref[mask].double()).square().sum() / ref[mask].double().square().sum())


def masked_mae(x: Tensor, ref: Tensor, mask: Tensor) -> float:
    """Return the mean of ``|x - ref|`` over the voxels of a mask."""
    return float((x[mask].double() - ref[mask].double()).abs().mean())


def masked_ssim(x: Tensor, ref: Tensor, mask: Tensor, data_range: float, plane: str) -> float:
    """Return the mean over a mask of the structural similarity around each voxel, within the slices of a plane.

    The same similarity as :func:`slice_ssim`; like there, voxels whose window leaves the slice do not
    count. The windows at the mask's border look beyond it.

    Args:
        x: volume (1, X, Y, Z).
        ref: of the same shape.
        mask: of the same shape, bool.
        data_range: peak-to-peak intensity.
        plane: ``sagittal``, ``coronal`` or ``axial``.

    Returns:
        NaN when no voxel counts, or the slices are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    slices = [to_slices(v, plane)[:, 0].cpu() for v in (x, ref, mask)]
    if min(slices[0].shape[1:]) < SSIM_WINDOW:
        return math.nan
    edge, total, count = SSIM_WINDOW // 2, 0.0, 0
    for a, b, inside in zip(*slices, strict=True):
        kept = inside[edge:-edge, edge:-edge].numpy()
        if not kept.any():
            continue
        _, similarity = structural_similarity(
            np.ascontiguousarray(a.double().numpy()),
            np.ascontiguousarray(b.double().numpy()),
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        total += float(similarity[edge:-edge, edge:-edge][kept].sum())
        count += int(kept.sum())
    return total / count if count else math.nan
