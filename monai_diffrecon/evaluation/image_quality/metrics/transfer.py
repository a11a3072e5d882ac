# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Resolution: the task transfer function of rods, the modulation transfer of a wire, line pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures import frequency as measures
from monai_diffrecon.evaluation.image_quality.measures.edge import task_transfer
from monai_diffrecon.evaluation.image_quality.measures.frequency import frequency_at
from monai_diffrecon.evaluation.image_quality.measures.point import fundamental_amplitude, point_transfer
from monai_diffrecon.evaluation.image_quality.metrics.regions import cut, phantom_of, slices_of
from monai_diffrecon.protocols import Curve, Finding, PhantomMetric, PhantomScan, QualityResult, Quantity, Site

#: Contrast-to-noise ratio below which a task transfer function is not reported (Chen et al., Med Phys 41:071909, 2014).
LEAST_CNR = 15.0
#: Sum of a wire over its noise below which its transfer function is not reported.
LEAST_SNR = 20.0


class TaskTransfer(PhantomMetric):
    """Task transfer function of rods, by their contrast."""

    name: ClassVar[str] = "task_transfer"
    question: ClassVar[str] = "resolution"
    kinds: ClassVar[tuple[str, ...]] = ("rod",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "ttf_50": Quantity("Frequency transferred by half", "1/mm", "higher", 3),
        "rod_contrast": Quantity("Contrast of the rod", "of the true one", 1.0),
        "ttf": Quantity("Task transfer function", "", axis="frequency (1/mm)"),
    }
    method: ClassVar[str] = (
        "The edge of each rod, sampled finely by the distance to its axis and averaged over slices and realizations, "
        "is differentiated and Fourier transformed (Richard et al., Med Phys 39:4115, 2012). A method that is not "
        "linear blurs weak contrasts more than strong ones, so there is one curve for each contrast. Edges with a "
        f"contrast under {LEAST_CNR:g} times the noise and streaks of the mean image are left out."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        findings, curves, faint = list[Finding](), list[Curve](), list[str]()
        for (phantom, site), group in _by_site(scans, self.kinds):
            images, spacing, centre = _images(group, site, 1.8 * site.radius)
            setting: dict[str, Any] = {"contrast": site.contrast, **phantom}
            try:
                # Of the mean image: its noise is that of its surroundings, with streaks, which no average removes.
                found = task_transfer(images.mean(axis=0), spacing, centre, site.radius, site.contrast)
            except InputError as error:
                faint.append(f"{site.contrast:g}: {error.what}")
                continue
            findings.append(Finding("rod_contrast", found.recovery, setting=setting, n=len(group)))
            if found.reason or not found.contrast_to_noise >= LEAST_CNR:
                faint.append(f"{site.contrast:g}: {found.reason or f'CNR {found.contrast_to_noise:.1f}'}")
                continue
            findings.append(Finding("ttf_50", *_at(found.transfer, 0.5), setting, len(group)))
            curves.append(Curve("ttf", found.transfer.frequency, found.transfer.value, setting))
        warnings = (f"no task transfer function of rods of contrast {'; '.join(faint)}",) if faint else ()
        return QualityResult(tuple(findings), tuple(curves), warnings=warnings)


class PointTransfer(PhantomMetric):
    """Modulation transfer function of a wire."""

    name: ClassVar[str] = "point_transfer"
    question: ClassVar[str] = "resolution"
    kinds: ClassVar[tuple[str, ...]] = ("wire",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "mtf_50": Quantity("Frequency transferred by half, wire", "1/mm", "higher", 3),
        "mtf_10": Quantity("Frequency transferred by a tenth, wire", "1/mm", "higher", 3),
        "mtf": Quantity("Modulation transfer function of a wire", "", axis="frequency (1/mm)"),
    }
    method: ClassVar[str] = (
        "The mean image of a thin wire is Fourier transformed and divided by the spectrum of the wire itself. It is "
        "the resolution of a strong contrast, and of no other for a method that is not linear."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        findings, curves, faint = list[Finding](), list[Curve](), list[str]()
        for (phantom, site), group in _by_site(scans, self.kinds):
            images, spacing, _ = _images(group, site, max(8.0, 5 * min(group[0].geometry.spacing)))
            mean = images.mean(axis=0)
            ratio = _signal_to_noise(mean)
            if not ratio >= LEAST_SNR:
                faint.append(f"its sum is only {ratio:.0f} times its noise")
                continue
            found = point_transfer(mean, spacing, diameter=2 * site.radius)
            for key, level in (("mtf_50", 0.5), ("mtf_10", 0.1)):
                findings.append(Finding(key, *_at(found, level), phantom, len(group)))
            curves.append(Curve("mtf", found.frequency, found.value, phantom))
        warnings = (f"no transfer function of the wire: {'; '.join(faint)}",) if faint else ()
        return QualityResult(tuple(findings), tuple(curves), warnings=warnings)


def _signal_to_noise(image: np.ndarray) -> float:
    """Return the sum of a wire's image over the standard deviation of that sum, from the border of the image."""
    border = np.ones(image.shape, bool)
    border[2:-2, 2:-2] = False
    noise = float(image[border].std()) * math.sqrt(image.size)
    total = abs(float((image - image[border].mean()).sum()))
    return total / noise if noise > 0 else (math.inf if total else 0.0)


class LinePairs(PhantomMetric):
    """Modulation of line pairs."""

    name: ClassVar[str] = "line_pairs"
    question: ClassVar[str] = "resolution"
    kinds: ClassVar[tuple[str, ...]] = ("bars",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "line_pairs": Quantity("Modulation of line pairs", "of the true one", 1.0),
    }
    method: ClassVar[str] = (
        "The amplitude of a group of bars at their frequency, relative to that of the same bars in the phantom (after "
        "Droege and Morin, Med Phys 9:758, 1982, who take the standard deviation, which has the harmonics too)."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        findings, refused = list[Finding](), list[str]()
        for (phantom, site), group in sorted(_by_site(scans, self.kinds), key=lambda item: item[0][1].frequency):
            spacing = group[0].geometry.spacing[0]
            if site.frequency >= 0.5 / spacing:
                refused.append(f"{site.frequency:g} line pairs/mm")
                continue
            truths = [replace(scan, volume=scan.truth) for scan in group]
            seen, true = (fundamental_amplitude(_across(of, site), spacing, site.frequency) for of in (group, truths))
            setting = {"frequency": site.frequency, **phantom}
            findings.append(Finding("line_pairs", seen / true, setting=setting, n=len(group)))
        warnings = (f"more than the voxels can show: {', '.join(refused)}",) if refused else ()
        return QualityResult(tuple(findings), warnings=warnings)


def _across(scans: Sequence[PhantomScan], site: Site) -> np.ndarray:
    """Return the mean profile across bars (along x)."""
    images, spacing, centre = _images(scans, site, 1.3 * site.radius)
    rows = abs((np.arange(images.shape[2]) - centre[1]) * spacing[1]) <= 0.6 * site.radius
    return np.asarray(images[:, :, rows].mean(axis=(0, 2)))


def _at(curve: measures.Curve, level: float) -> tuple[float, float, float]:
    """Return the frequency at which a curve falls to a level, with an open end where it never does."""
    found = frequency_at(curve, level)
    known = curve.value[np.isfinite(curve.value)]
    if math.isnan(found) and len(known) and known[-1] > level:
        return float(curve.frequency[-1]), float(curve.frequency[-1]), math.inf
    return found, math.nan, math.nan


def _by_site(
    scans: Sequence[PhantomScan], kinds: Sequence[str]
) -> list[tuple[tuple[dict[str, Any], Site], list[PhantomScan]]]:
    """Return, for each site, what tells its phantom in a setting, the site, and its scans with signals."""
    named, found = phantom_of(scans), dict[tuple[str, Site], list[PhantomScan]]()
    for scan in scans:
        for site in scan.sites if scan.present else ():
            if site.kind in kinds:
                found.setdefault((scan.phantom, site), []).append(scan)
    return [((named(group[0]), site), group) for (_, site), group in found.items()]


def _images(scans: Sequence[PhantomScan], site: Site, half: float) -> tuple[np.ndarray, list[float], list[float]]:
    """Return the slices across a site of all scans (N, H, W), cut around it, their spacing, its centre in pixels."""
    parts = []
    for scan in scans:
        images, spacing, centre = slices_of(scan, site)
        part, moved = cut(images, spacing, centre, half)
        parts.append(part)
    return np.concatenate(parts), spacing, moved
