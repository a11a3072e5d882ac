# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Resolution: the task transfer function of rods, the modulation transfer of a wire, line pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.edge import task_transfer
from monai_diffrecon.evaluation.image_quality.measures.frequency import frequency_at
from monai_diffrecon.evaluation.image_quality.measures.point import line_pair_modulation, point_transfer
from monai_diffrecon.evaluation.image_quality.metrics.regions import cut, slices_of
from monai_diffrecon.protocols import Curve, Finding, PhantomMetric, PhantomScan, QualityResult, Quantity, Site

#: Contrast-to-noise ratio below which a task transfer function is not reported (Chen et al., Med Phys 41:071909, 2014).
LEAST_CNR = 15.0


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
        for (phantom, site), group in _by_site(scans, self.kinds).items():
            images, spacing, centre = _images(group, site, 1.8 * site.radius)
            setting: dict[str, Any] = {"phantom": phantom, "contrast": site.contrast}
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
            findings.append(Finding("ttf_50", frequency_at(found.transfer, 0.5), setting=setting, n=len(group)))
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
        findings, curves = list[Finding](), list[Curve]()
        for (_, site), group in _by_site(scans, self.kinds).items():
            images, spacing, _ = _images(group, site, max(10.0, 8 * min(group[0].geometry.spacing)))
            found = point_transfer(images, spacing, diameter=2 * site.radius)
            for key, level in (("mtf_50", 0.5), ("mtf_10", 0.1)):
                findings.append(Finding(key, frequency_at(found, level), n=len(group)))
            curves.append(Curve("mtf", found.frequency, found.value))
        return QualityResult(tuple(findings), tuple(curves))


class LinePairs(PhantomMetric):
    """Modulation of line pairs."""

    name: ClassVar[str] = "line_pairs"
    question: ClassVar[str] = "resolution"
    kinds: ClassVar[tuple[str, ...]] = ("bars",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "line_pairs": Quantity("Modulation of line pairs", "of the true one", 1.0),
    }
    method: ClassVar[str] = (
        "The standard deviation within a group of bars, less that of noise, relative to that of the same bars in the "
        "phantom (Droege and Morin, Med Phys 9:758, 1982)."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        findings = []
        for (phantom, site), group in sorted(
            _by_site(scans, self.kinds).items(), key=lambda item: item[0][1].frequency
        ):
            images, _, _ = _images(group, site, site.radius * 0.95)
            truths = [PhantomScan(**{**vars(scan), "volume": scan.truth}) for scan in group]
            known, _, _ = _images(truths, site, site.radius * 0.95)
            noise = float(np.sqrt(images.var(axis=0, ddof=1).mean())) if len(images) > 1 else 0.0
            ideal = line_pair_modulation(known, site.contrast, 0.0)
            value = line_pair_modulation(images, site.contrast, noise) / ideal if ideal > 0 else math.nan
            setting = {"phantom": phantom, "frequency": site.frequency}
            findings.append(Finding("line_pairs", value, setting=setting, n=len(group)))
        return QualityResult(tuple(findings))


def _by_site(scans: Sequence[PhantomScan], kinds: Sequence[str]) -> dict[tuple[str, Site], list[PhantomScan]]:
    """Return (phantom, site) -> its scans with signals, in the order of the phantoms."""
    found: dict[tuple[str, Site], list[PhantomScan]] = {}
    for scan in scans:
        for site in scan.sites if scan.present else ():
            if site.kind in kinds:
                found.setdefault((scan.phantom, site), []).append(scan)
    return found


def _images(scans: Sequence[PhantomScan], site: Site, half: float) -> tuple[np.ndarray, list[float], list[float]]:
    """Return the slices across a site of all scans (N, H, W), cut around it, their spacing, its centre in pixels."""
    parts = []
    for scan in scans:
        images, spacing, centre = slices_of(scan, site)
        part, moved = cut(images, spacing, centre, half)
        parts.append(part)
    return np.concatenate(parts), spacing, moved
