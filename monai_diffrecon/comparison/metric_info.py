# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Names of the metrics of a comparison, and which values are better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monai_diffrecon.comparison.builtin_metrics import MAE, NMSE, PSNR, SSIM, VIF
from monai_diffrecon.protocols import Metric

HIGHER, LOWER, ONE, NINETY, ZERO = "higher", "lower", "nearer to 1", "nearer to 0.9", "nearer to 0"
_TARGETS = {ONE: 1.0, NINETY: 0.9, ZERO: 0.0}


@dataclass(frozen=True)
class MetricInfo:
    """One number of a case.

    Attributes:
        key: its name in tables and in MLflow.
        title: its name for readers.
        better: ``higher``, ``lower``, ``nearer to 1``, ``nearer to 0.9`` or ``nearer to 0``.
        group: the table it stands in.
        unit: its unit, or nothing.
        digits: digits behind the point.
        compare: methods are compared by it.
    """

    key: str
    title: str
    better: str
    group: str
    unit: str = ""
    digits: int = 3
    compare: bool = True

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def target(self) -> float | None:
        """The best value, or None where the highest or the lowest is best."""
        return _TARGETS.get(self.better)

    def goodness(self, value: float) -> float:
        """Return a number that grows with the quality."""
        compared = self.compared(value)
        return compared if self.better == HIGHER else -compared

    def compared(self, value: float) -> float:
        """Return the quantity whose differences are compared: the value, or its distance from the best one."""
        return value if self.target is None else abs(value - self.target)


def info_of(metric: Metric | type[Metric], **further: Any) -> MetricInfo:
    """Return the description of a third-party metric, in the group of the whole volume."""
    better = HIGHER if metric.higher_is_better else LOWER
    title = metric.title or metric.name
    return MetricInfo(metric.name, title, better, VOLUME, metric.unit, metric.digits, **further)


VOLUME, PLANES, ALONG, MASK, COST = "Whole volume", "Plane by plane", "Along the slices", "Within the mask", "Cost"
UNCERTAINTY = "Uncertainty"

METRICS = (
    info_of(PSNR),
    info_of(SSIM),
    info_of(NMSE),
    info_of(MAE, compare=False),
    info_of(VIF),
    MetricInfo("data_residual", "Data residual", LOWER, VOLUME, digits=5, compare=False),
    *(MetricInfo(f"psnr_{p}", f"PSNR {p}", HIGHER, PLANES, "dB", 2) for p in ("axial", "coronal", "sagittal")),
    *(MetricInfo(f"ssim_{p}", f"SSIM {p}", HIGHER, PLANES, digits=4) for p in ("axial", "coronal", "sagittal")),
    MetricInfo("high_frequency_ratio", "High-frequency energy", ONE, ALONG, "of the truth's"),
    MetricInfo("jump_ratio", "Jump between slices", ONE, ALONG, "of the truth's"),
    MetricInfo("psnr_mask", "PSNR", HIGHER, MASK, "dB", 2),
    MetricInfo("nmse_mask", "NMSE", LOWER, MASK, digits=5),
    MetricInfo("mae_mask", "MAE", LOWER, MASK, "intensity", 3, compare=False),
    *(MetricInfo(f"ssim_{p}_mask", f"SSIM {p}", HIGHER, MASK, digits=4) for p in ("axial", "coronal", "sagittal")),
    MetricInfo("coverage_90", "Coverage of the 90 % interval", NINETY, UNCERTAINTY, compare=False),
    MetricInfo(
        "coverage_excess", "Coverage of the calibrated interval, less nominal", ZERO, UNCERTAINTY, compare=False
    ),
    MetricInfo("calibration_error", "Expected calibration error", LOWER, UNCERTAINTY, compare=False),
    MetricInfo("seconds", "Time", LOWER, COST, "s", 1, compare=False),
    MetricInfo("denoiser_calls", "Denoiser calls a slice", LOWER, COST, digits=0, compare=False),
    MetricInfo("network_calls", "Network calls", LOWER, COST, "batches", 0, compare=False),
    MetricInfo("peak_memory", "Peak memory", LOWER, COST, "GB", 2, compare=False),
)

_PLANES = ("axial", "coronal", "sagittal")

#: Metric -> its definition.
DEFINITIONS = {
    "psnr": "all voxels of the volume, relative to the range of the truth or the given one",
    "ssim": "structural similarity in windows of 1.5 voxels, slice by slice",
    "nmse": "squared error over the squared truth, all voxels",
    "mae": "mean absolute error, all voxels",
    "vif": "visual information fidelity, mean over slices and planes",
    "data_residual": "norm of A x - y over that of y, of the volume as written",
    **{f"psnr_{plane}": f"mean over the {plane} slices that are not empty" for plane in _PLANES},
    **{f"ssim_{plane}": f"mean over the {plane} slices that are not empty" for plane in _PLANES},
    "high_frequency_ratio": "energy of high frequencies along z relative to the truth; below 1 is blur",
    "jump_ratio": "mean step between slices relative to the truth; above 1 is a staircase",
    "psnr_mask": "the same formula over the voxels of the mask",
    "nmse_mask": "the same formula over the voxels of the mask",
    "mae_mask": "the same formula over the voxels of the mask",
    **{f"ssim_{plane}_mask": "mean of the SSIM map over the mask" for plane in _PLANES},
    "coverage_90": "part of the voxels whose nominal 90 % interval, of the samples, holds the truth",
    "coverage_excess": "coverage of the calibrated intervals minus their level",
    "calibration_error": "mean absolute difference of observed and nominal coverage",
    "seconds": "wall time of the reconstruction",
    "denoiser_calls": "passes of a network over all slices",
    "network_calls": "batches of slices that went through a network",
    "peak_memory": "of the GPU, or of the whole process",
}
