# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Lesions that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.signal import fftconvolve

from monai_diffrecon.evaluation.image_quality.metrics.regions import mean_finding, plain
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import centred_grid
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Ellipsoid, coverage
from monai_diffrecon.protocols import PhantomMetric, PhantomScan, QualityResult, Quantity

#: A structure counts from this part of a lesion's contrast on.
PART = 0.5
#: The surroundings of a lesion reach so many radii.
_SURROUNDINGS = 2.0


class FalseLesions(PhantomMetric):
    """Structures like lesions in the reconstruction of an object without lesions."""

    name: ClassVar[str] = "false_lesions"
    question: ClassVar[str] = "invented"
    kinds: ClassVar[tuple[str, ...]] = ("lesion",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "false_lesions": Quantity("False lesions", "per 100 cm\u00b3", "lower", 1),
    }
    method: ClassVar[str] = (
        "In the reconstruction of the object without lesions, the contrast of a ball of the lesion's diameter against "
        "its surroundings is measured in the error, at every voxel where the truth is even to within the lesion's "
        f"contrast. Local maxima of at least {PART:.0%} of that contrast are counted as false lesions."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        counts: dict[tuple[float, float], list[float]] = {}
        for scan in scans:
            if scan.present:
                continue
            error, truth = plain(scan.volume) - plain(scan.truth), plain(scan.truth)
            wanted = {(round(2 * s.radius, 3), s.contrast) for s in scan.sites if s.name in ("nodule", "ms_lesion")}
            for diameter, contrast in sorted(wanted):
                rate = false_lesion_rate(error, truth, scan.geometry.spacing, diameter, contrast)
                counts.setdefault((diameter, contrast), []).append(rate)
        findings = []
        for (diameter, contrast), rates in counts.items():
            setting: dict[str, Any] = {"diameter": diameter, "contrast": contrast}
            findings.append(mean_finding("false_lesions", rates, setting))
        none = [f"{f.setting['diameter']:g} mm" for f in findings if not f.n]
        text = f"no even background large enough for a lesion of {' or '.join(none)}"
        return QualityResult(tuple(findings), warnings=(text,) if none else ())


def false_lesion_rate(
    error: np.ndarray, truth: np.ndarray, spacing: Sequence[float], diameter: float, contrast: float
) -> float:
    """Return how many structures like a lesion an error has, per 100 cm^3 of even background; NaN without any.

    Args:
        error: (X, Y, Z), reconstruction minus truth.
        truth: (X, Y, Z).
        spacing: of the voxels, in mm.
        diameter: of the lesion, in mm.
        contrast: of the lesion, not 0.
    """
    template, gain = _template(spacing, diameter)
    size = template.shape
    even = maximum_filter(truth, size) - minimum_filter(truth, size) <= abs(contrast)
    inner = tuple(slice(n // 2, -(n // 2) or None) for n in size)
    whole = np.zeros_like(even)
    whole[inner] = even[inner]
    if not whole.any():
        return float("nan")
    found = fftconvolve(error, template[::-1, ::-1, ::-1], mode="same") / gain / contrast
    lesion_size = [max(round(diameter / s), 1) | 1 for s in spacing]
    peaks = whole & (found == maximum_filter(found, lesion_size)) & (found >= PART)
    return float(peaks.sum() / (whole.sum() * np.prod(spacing) / 1e5))


def _template(spacing: Sequence[float], diameter: float) -> tuple[np.ndarray, float]:
    """Return a ball minus its surroundings, with the mean 0, and what it makes of a lesion of contrast 1."""
    reach = _SURROUNDINGS * diameter / 2
    grid = centred_grid([2 * int(np.ceil(reach / s)) + 1 for s in spacing], spacing)
    ball, outer = np.zeros(grid.shape), np.zeros(grid.shape)
    for volume, radius in ((ball, diameter / 2), (outer, reach)):
        box, part = coverage(Ellipsoid((0.0, 0.0, 0.0), (radius,) * 3), grid)
        volume[box] = part
    shell = outer - ball
    template = ball / ball.sum() - shell / shell.sum()
    return template, float((template * ball).sum())
