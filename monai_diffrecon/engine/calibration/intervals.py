# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Intervals of a reconstruction by a calibration: of voxels, and of PSNR, SSIM and the mean of a region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.engine.calibration.calibration_file import Calibration
from monai_diffrecon.engine.calibration.expected_quality import expected_psnr, expected_ssim
from monai_diffrecon.engine.calibration.residuals import floored, region_means
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.hashing import sha256_tensor
from monai_diffrecon.privacy.file_names import anonymously


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals of the nominal level.

    Attributes:
        low: lower ends of the voxels, (1, X, Y, Z).
        high: upper ends.
        numbers: ``psnr``, ``ssim`` and ``region_mean`` -> lower and upper end; without those not calibrated.
    """

    low: Tensor
    high: Tensor
    numbers: dict[str, tuple[float, float]]

    def metrics(self) -> dict[str, float]:
        """Return the ends of the numbers' intervals, for MLflow."""
        ends = {name: dict(zip(("low", "high"), pair, strict=True)) for name, pair in self.numbers.items()}
        return {f"{name}_{end}": value for name, pair in ends.items() for end, value in pair.items()}


def intervals_of(
    done: Reconstruction, calibration: Calibration, shown: Tensor, region: Tensor | None = None
) -> Intervals:
    """Return the intervals of a reconstruction.

    Args:
        done: the reconstruction, of several samples.
        calibration: the calibration, checked with its case.
        shown: the volume as it is compared with a reference.
        region: a region of interest (1, X, Y, Z), of all voxels that are not 0, or None.

    Raises:
        InputError: samples without spread.
    """
    assert done.spread is not None
    factors, count, span = calibration.nominal, done.spread.count, calibration.data_range
    volume, shown, std = (x.as_subclass(Tensor) for x in (done.volume, shown, done.spread.std))
    half = factors.voxels * floored(std)
    numbers: dict[str, tuple[float, float]] = {}
    if factors.psnr is not None:
        numbers["psnr"] = _around(expected_psnr(shown, std, count, span), factors.psnr)
    if factors.ssim is not None and math.isfinite(ssim := expected_ssim(shown, std, count, span)):
        low, high = _around(ssim, factors.ssim)
        numbers["ssim"] = max(low, -1.0), min(high, 1.0)
    if region is not None and factors.region is not None:
        _, mean, scale = region_means(shown, std, region.as_subclass(Tensor) != 0, shown)
        numbers["region_mean"] = _around(mean, factors.region * scale)
    return Intervals(volume - half, volume + half, numbers)


def read_region(path: str | Path, calibration: Calibration | None) -> Tensor:
    """Return a mask (1, X, Y, Z), a ``MetaTensor`` that says where it lies.

    Raises:
        ConfigError: no region was calibrated.
        InputError: the file cannot be read, or the mask is empty.
    """
    path = path_option(path, "region")
    found = anonymously(partial(read_scan, path), path, "region")[1]
    mask = MetaTensor(found.data, affine=torch.as_tensor(affine_of(found.geometry)))
    checked_region(mask, calibration)
    return mask


def checked_region(mask: Tensor, calibration: Calibration | None) -> str:
    """Return the hash of a region of interest.

    Raises:
        ConfigError: no region was calibrated.
        InputError: no voxel.
    """
    if calibration is None or calibration.nominal.region is None:
        raise ConfigError(
            "no region was calibrated",
            where="region",
            expected="a calibration with one",
            mend="calibrate with a cohort whose cases all have a mask, or leave region out",
        )
    inside = mask.as_subclass(Tensor) != 0
    if not bool(inside.any()):
        raise InputError("an empty mask", where="region", mend="leave it out")
    return sha256_tensor(inside)


def coverage_of(low: Tensor, high: Tensor, truth: Tensor, inside: Tensor) -> float:
    """Return the part of the voxels inside whose truth lies in its interval."""
    held = (low <= truth) & (truth <= high)
    return float(held[inside].double().mean())


def _around(center: float, half: float) -> tuple[float, float]:
    return center - half, center + half
