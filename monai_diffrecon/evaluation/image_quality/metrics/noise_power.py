# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The strength and the texture of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.noise_power import noise_power_spectrum, stationarity
from monai_diffrecon.evaluation.image_quality.metrics.regions import cut, phantom_of, slices_of
from monai_diffrecon.protocols import Curve, Finding, PhantomMetric, PhantomScan, Picture, QualityResult, Quantity, Site

#: Regions of the stationarity map, in mm, and the slices that count as independent are so far apart, in mm.
_WINDOW, _APART = 9.0, 4.0
#: Side of the regions of noise power, in mm: several fit into the uniform area.
_SIDE = 40.0


class NoisePowerMetric(PhantomMetric):
    """Noise power spectrum of a uniform region: magnitude, peak, mean frequency, stationarity."""

    name: ClassVar[str] = "noise_power"
    question: ClassVar[str] = "noise"
    kinds: ClassVar[tuple[str, ...]] = ("uniform",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "noise_std": Quantity("Noise", "intensity", None, 1),
        "noise_peak": Quantity("Peak frequency", "1/mm", None, 3),
        "noise_mean_frequency": Quantity("Mean frequency", "1/mm", None, 3),
        "noise_along_z": Quantity("Correlation of neighbouring slices", "", None),
        "noise_variation": Quantity("Variation of noise over the region", "of its mean", "lower"),
        "bias_std": Quantity("Fixed pattern (streaks, texture that is not noise)", "intensity", "lower", 1),
        "nps": Quantity("Noise power spectrum", "intensity\u00b2 mm\u00b2", axis="frequency (1/mm)"),
        "nps_shape": Quantity("Noise power spectrum, divided by its integral", "mm", axis="frequency (1/mm)"),
        "noise_picture": Quantity("Noise of one slice, each on its own grey scale of two standard deviations"),
    }
    method: ClassVar[str] = (
        "What realizations of a uniform phantom have in common is the fixed pattern, and what they differ by is noise. "
        "Its power spectrum is averaged over squares and rings (ICRU Report 87, 2012; Samei "
        "et al., AAPM TG-233, Med Phys 46:e735, 2019). A peak at a lower frequency than that of the classical "
        "reconstruction is blotchy noise. The variation of the local standard deviation is corrected for the finite "
        "ensemble by the jackknife."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        named, results = phantom_of(scans), list[QualityResult]()
        for phantom in dict.fromkeys(scan.phantom for scan in scans):
            mine = [scan for scan in scans if scan.phantom == phantom]
            results.append(_measured(mine, named(mine[0])))
        return QualityResult(
            tuple(finding for result in results for finding in result.findings),
            tuple(curve for result in results for curve in result.curves),
            tuple(picture for result in results[:1] for picture in result.pictures),
            tuple(warning for result in results for warning in result.warnings),
        )


def _measured(scans: Sequence[PhantomScan], setting: dict[str, Any]) -> QualityResult:
    """Return the noise of one phantom from its realizations (R, slices, H, W)."""
    regions = [_region(scan, site) for scan in scans for site in scan.sites if site.kind == "uniform"]
    if len({images.shape for images, _ in regions}) > 1:
        return QualityResult(warnings=("the uniform regions differ in size, so no noise was measured",))
    images, spacing = np.stack([images for images, _ in regions]), regions[0][1]
    warnings, pattern = list[str](), math.nan
    if len(images) > 1:
        # What two realizations have in common is no noise; half the square of what they differ by is its variance.
        noise = np.stack([(images[i] - images[i + 1]) / math.sqrt(2.0) for i in range(0, len(images) - 1, 2)])
        pattern = _common(images)
    else:
        count = images.shape[1]
        noise = (images - images.mean(axis=1, keepdims=True)) * math.sqrt(count / max(count - 1, 1))
        warnings.append("one realization: noise is what differs between slices, so noise that they share is missed")
    if not noise.any():
        return QualityResult(warnings=("the reconstruction of a uniform phantom has no noise at all",))
    flat = noise.reshape(-1, *noise.shape[2:])
    side = min(max(round(_SIDE / spacing[0]), 8), *flat.shape[1:])
    tiles = np.concatenate([flat[:, i : i + side, j : j + side] for i, j in _corners(flat.shape[1:], side)])
    power = noise_power_spectrum(tiles, spacing, detrend="constant")
    integral = float(np.trapezoid(power.radial.value, power.radial.frequency))
    numbers = {
        "noise_std": float(noise.std()),
        "noise_peak": power.peak_frequency,
        "noise_mean_frequency": power.mean_frequency,
        "noise_along_z": float(np.mean([_neighbours(stack) for stack in noise])),
        "bias_std": pattern,
    }
    step = max(round(_APART / scans[0].geometry.spacing[2]), 1)
    apart = noise[:, ::step].reshape(-1, *noise.shape[2:])
    try:
        numbers["noise_variation"] = stationarity(apart, max(round(_WINDOW / spacing[0]), 2)).variation
    except InputError as error:
        warnings.append(f"no map of stationarity: {error.what}")
    curves = [Curve("nps", power.radial.frequency, power.radial.value, setting)]
    if integral > 0:
        curves.append(Curve("nps_shape", power.radial.frequency, power.radial.value / integral, setting))
    one = np.flipud(flat[0].T) / max(float(flat[0].std()), 1e-12)
    return QualityResult(
        tuple(Finding(key, v, setting=setting, n=len(images)) for key, v in numbers.items() if math.isfinite(v)),
        tuple(curves),
        (Picture("noise_picture", np.clip(one, -2, 2), signed=True),),
        tuple(warnings),
    )


def _common(images: np.ndarray) -> float:
    """Return the standard deviation of what realizations (R, slices, H, W) have in common, from their covariance."""
    centred = images - images.mean(axis=(2, 3), keepdims=True)
    total, own = centred.sum(axis=0), (centred**2).sum(axis=0)
    pairs = len(images) * (len(images) - 1)
    return math.sqrt(max(float((total**2 - own).mean()) / pairs, 0.0))


def _region(scan: PhantomScan, site: Site) -> tuple[np.ndarray, list[float]]:
    """Return the square within a uniform disc, of each slice, and the size of its pixels."""
    slices, spacing, centre = slices_of(scan, site)
    return cut(slices, spacing, centre, site.radius / math.sqrt(2.0))[0], spacing


def _corners(shape: Sequence[int], side: int) -> list[tuple[int, int]]:
    """Return the first pixels of tiles that overlap by half at most."""
    starts = [np.unique(np.linspace(0, n - side, max(round(2 * n / side) - 1, 1)).astype(int)) for n in shape]
    return [(int(i), int(j)) for i in starts[0] for j in starts[1]]


def _neighbours(noise: np.ndarray) -> float:
    """Return the correlation of neighbouring slices."""
    one, two = noise[:-1], noise[1:]
    return float((one * two).sum() / math.sqrt((one**2).sum() * (two**2).sum()))
