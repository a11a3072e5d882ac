# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The metrics of the protocol as plugins; ``case_metrics`` computes them together for tables."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from monai_diffrecon.comparison import image_metrics, volume_metrics
from monai_diffrecon.comparison.visual_information import visual_information
from monai_diffrecon.protocols import PLANE_AXIS, Metric, VolumeGeometry

_Mask = Tensor | None


class PSNR(Metric):
    """Peak signal-to-noise ratio over the volume or the mask."""

    name: ClassVar[str] = "psnr"
    title: ClassVar[str] = "PSNR"
    unit: ClassVar[str] = "dB"
    digits: ClassVar[int] = 2

    def __call__(
        self, volume: Tensor, reference: Tensor, *, geometry: VolumeGeometry, data_range: float, mask: _Mask = None
    ) -> float:
        """Return it in dB."""
        if mask is not None:
            return image_metrics.masked_psnr(volume, reference, mask, data_range)
        return image_metrics.psnr(volume, reference, data_range)


class SSIM(Metric):
    """Structural similarity, mean of the three planes."""

    name: ClassVar[str] = "ssim"
    title: ClassVar[str] = "SSIM, mean of the planes"
    digits: ClassVar[int] = 4

    def __call__(
        self, volume: Tensor, reference: Tensor, *, geometry: VolumeGeometry, data_range: float, mask: _Mask = None
    ) -> float:
        """Return it; NaN for slices smaller than its window."""
        of_planes = [
            volume_metrics.ssim(volume, reference, plane, data_range)
            if mask is None
            else image_metrics.masked_ssim(volume, reference, mask, data_range, plane)
            for plane in PLANE_AXIS
        ]
        return sum(of_planes) / len(of_planes)


class NMSE(Metric):
    """Squared error over the squares of the truth."""

    name: ClassVar[str] = "nmse"
    title: ClassVar[str] = "NMSE"
    higher_is_better: ClassVar[bool] = False
    digits: ClassVar[int] = 5

    def __call__(
        self, volume: Tensor, reference: Tensor, *, geometry: VolumeGeometry, data_range: float, mask: _Mask = None
    ) -> float:
        """Return it."""
        if mask is not None:
            return image_metrics.masked_nmse(volume, reference, mask)
        return image_metrics.nmse(volume, reference)


class MAE(Metric):
    """Mean absolute error in the unit of the voxels."""

    name: ClassVar[str] = "mae"
    title: ClassVar[str] = "MAE"
    unit: ClassVar[str] = "intensity"
    higher_is_better: ClassVar[bool] = False

    def __call__(
        self, volume: Tensor, reference: Tensor, *, geometry: VolumeGeometry, data_range: float, mask: _Mask = None
    ) -> float:
        """Return it."""
        if mask is not None:
            return image_metrics.masked_mae(volume, reference, mask)
        return image_metrics.mae(volume, reference)


class VIF(Metric):
    """Visual information fidelity, mean of the three planes; needs torchmetrics and ignores masks."""

    name: ClassVar[str] = "vif"
    title: ClassVar[str] = "VIF, mean of the planes"
    digits: ClassVar[int] = 4

    def __call__(
        self, volume: Tensor, reference: Tensor, *, geometry: VolumeGeometry, data_range: float, mask: _Mask = None
    ) -> float:
        """Return it; NaN for slices smaller than 41 x 41 voxels."""
        return visual_information(volume, reference, data_range)
