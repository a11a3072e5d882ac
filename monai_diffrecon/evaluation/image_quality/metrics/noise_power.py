# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The strength and the texture of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.noise_power import noise_power_spectrum, stationarity
from monai_diffrecon.evaluation.image_quality.metrics.regions import cut, slices_of
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
        "bias_std": Quantity("Fixed pattern (streaks, texture that is no noise)", "intensity", "lower", 1),
        "nps": Quantity("Noise power spectrum", "intensity\u00b2 mm\u00b2", axis="frequency (1/mm)"),
        "nps_shape": Quantity("Noise power spectrum, divided by its integral", "mm", axis="frequency (1/mm)"),
        "noise_picture": Quantity("Noise of one slice, each on its own grey scale of two standard deviations"),
    }
    method: ClassVar[str] = (
        "Slices and realizations of a uniform phantom are an ensemble; what they have in common is the fixed pattern, "
        "and what is left is noise. Its power spectrum is averaged over squares and rings (ICRU Report 87, 2012; Samei "
        "et al., AAPM TG-233, Med Phys 46:e735, 2019). A peak at a lower frequency than that of the classical "
        "reconstruction is blotchy noise. The variation of the local standard deviation is corrected for the finite "
        "ensemble by the jackknife."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        found = [(scan, site) for scan in scans for site in scan.sites if site.kind in self.kinds]
        phantom = found[0][0].phantom  # one phantom, so that the curves are of one object
        stacks, spacing = [], [1.0, 1.0]
        for scan, site in found:
            if scan.phantom == phantom:
                images, spacing = _region(scan, site)
                stacks.append(images)
        if len({stack.shape for stack in stacks}) > 1 or sum(map(len, stacks)) < 4:
            return QualityResult(warnings=("too few slices of one size for a noise power spectrum",))
        images = np.concatenate(stacks)
        pattern = images.mean(axis=0)
        noise = (images - pattern) * math.sqrt(len(images) / (len(images) - 1))
        if not noise.any():
            return QualityResult(warnings=("the reconstruction of a uniform phantom has no noise at all",))
        side = min(max(round(_SIDE / spacing[0]), 8), *noise.shape[1:])
        tiles = np.concatenate([noise[:, i : i + side, j : j + side] for i, j in _corners(noise.shape[1:], side)])
        # Means over slices are subtracted already.
        power = noise_power_spectrum(tiles, spacing, detrend="constant")
        integral = float(np.trapezoid(power.radial.value, power.radial.frequency))
        findings = [
            Finding("noise_std", float(noise.std()), n=len(images)),
            Finding("noise_peak", power.peak_frequency, n=len(images)),
            Finding("noise_mean_frequency", power.mean_frequency, n=len(images)),
            Finding("noise_along_z", float(np.mean([_neighbours(stack - pattern) for stack in stacks])), n=len(stacks)),
            Finding("bias_std", float(pattern.std()), n=len(images)),
        ]
        warnings: tuple[str, ...] = ()
        step = max(round(_APART / found[0][0].geometry.spacing[2]), 1)
        try:
            window = max(round(_WINDOW / spacing[0]), 2)
            spread = stationarity(np.concatenate([stack[::step] for stack in stacks]), window)
            findings.append(Finding("noise_variation", spread.variation, n=sum(len(s[::step]) for s in stacks)))
        except InputError as error:
            warnings = (f"no map of stationarity: {error.what}",)
        curves = [Curve("nps", power.radial.frequency, power.radial.value)]
        if integral > 0:
            curves.append(Curve("nps_shape", power.radial.frequency, power.radial.value / integral))
        one = np.flipud(noise[0].T) / max(float(noise[0].std()), 1e-12)
        picture = Picture("noise_picture", np.clip(one, -2, 2), signed=True)
        return QualityResult(tuple(findings), tuple(curves), (picture,), warnings)


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
