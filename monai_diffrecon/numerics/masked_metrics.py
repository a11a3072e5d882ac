# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measures of the distance of a volume to a reference within a mask."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.numerics.image_metrics import SSIM_WINDOW
from monai_diffrecon.numerics.planes import to_slices


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

    The same similarity as :func:`~monai_diffrecon.numerics.image_metrics.slice_ssim`; like there, voxels whose window
    leaves the slice do not count. The windows at the mask's border look beyond it.

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
