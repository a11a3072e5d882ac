# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How far the truth of one case lies from the mean of its samples, in the units that intervals are calibrated in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from monai_diffrecon.engine.calibration.conditions import conditions_of
from monai_diffrecon.engine.calibration.expected_quality import expected_psnr, expected_ssim
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.file_validation import Number, Text
from monai_diffrecon.numerics.statistics.conformal import rounded_up

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Whole = Annotated[int, Field(strict=True)]
_Pair = tuple[Number, Number]

#: Smallest standard deviation of a voxel, relative to the root mean square of all: some voxels of a few samples agree.
FLOOR = 0.01


@dataclass(frozen=True)
class CaseResiduals:
    """What one case contributes to a calibration.

    Attributes:
        subject: whose case it is.
        measurement_sha256: hash of the measurement.
        conditions: see :func:`~monai_diffrecon.engine.calibration.conditions.conditions_of`.
        spacing: voxel size, mm.
        noise_std: noise of the measurement, network units.
        powers: residuals ``|x - mean| / std`` of the foreground, as :func:`rounded_up` gives them.
        counts: how many voxels have each of them.
        psnr: PSNR of the mean, and the expected one; None where it is not finite.
        ssim: the same of the structural similarity.
        region: means over the region of interest of the truth, of the samples' mean and of their standard deviation;
            None without a region.
        data_range: peak-to-peak intensity of PSNR and SSIM; None takes that of each volume.
    """

    subject: Text
    measurement_sha256: Sha256
    conditions: dict[str, str]
    spacing: tuple[Number, Number, Number]
    noise_std: Number
    powers: list[_Whole]
    counts: list[Annotated[int, Field(strict=True, gt=0)]]
    psnr: _Pair | None = None
    ssim: _Pair | None = None
    region: tuple[Number, Number, Number] | None = None
    data_range: Number | None = None


def floored(std: Tensor) -> Tensor:
    """Return a standard deviation that is nowhere below a hundredth of its root mean square.

    Raises:
        InputError: it is 0 everywhere, or not finite.
    """
    size = float(std.double().square().mean().sqrt())
    if not (math.isfinite(size) and size > 0.0):
        raise InputError("no spread of samples", where="calibration, std", expected="above 0, finite", got=size)
    return std.clamp_min(FLOOR * size)


def case_residuals(
    case: PosedCase,
    volume: Tensor,
    std: Tensor,
    truth: Tensor,
    inside: Tensor,
    *,
    subject: str,
    metrics: dict[str, float],
    region: Tensor | None = None,
    data_range: float | None = None,
    postprocessing: Sequence[Any] = (),
) -> CaseResiduals:
    """Return the residuals of a case.

    Args:
        case: the case.
        volume: mean of the samples as written, (1, X, Y, Z).
        std: their standard deviation, of the same shape.
        truth: the ground truth.
        inside: foreground, bool.
        subject: whose case it is.
        metrics: ``psnr`` and ``ssim`` of the volume.
        region: region of interest, bool, or None.
        data_range: peak-to-peak intensity of the metrics; None: of the volume, for the expected ones.
        postprocessing: its recorded steps.

    Raises:
        InputError: samples without spread.
        ConfigError: a run without intervals.
    """
    count = case.recipe.num_samples
    scores = (truth - volume).double().abs()[inside] / floored(std).double()[inside]
    powers, counts = rounded_up(scores.numpy())
    return CaseResiduals(
        subject=subject,
        measurement_sha256=case.sha256,
        conditions=conditions_of(case, postprocessing),
        spacing=case.geometry.spacing,
        noise_std=case.posed.problem.noise_std,
        powers=powers,
        counts=counts,
        psnr=_finite(metrics["psnr"], expected_psnr(volume, std, count, data_range)),
        ssim=_finite(metrics["ssim"], expected_ssim(volume, std, count, data_range)),
        region=None if region is None else region_means(volume, std, region, truth),
        data_range=data_range,
    )


def region_means(volume: Tensor, std: Tensor, region: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Return the means over a region of the truth, of the volume, and of the standard deviation."""
    a, b, c = (float(x.as_subclass(Tensor).double()[region].mean()) for x in (truth, volume, floored(std)))
    return a, b, c


def _finite(*values: float) -> tuple[float, float] | None:
    a, b = values
    return (a, b) if math.isfinite(a) and math.isfinite(b) else None
