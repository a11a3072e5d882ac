# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where a reconstruction stops agreeing with the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.evaluation.image_quality.measures.ring_correlation import (
    crossing_frequency,
    ring_correlation,
    scanning_correlation,
)
from monai_diffrecon.evaluation.image_quality.metrics.regions import mean_finding, plain
from monai_diffrecon.protocols import Curve, PhantomMetric, PhantomScan, Picture, QualityResult, Quantity

#: Side of the patches that scan a slice, in mm, and the least in pixels; they overlap by half.
_PATCH, _LEAST_PIXELS = 24.0, 16
#: Patches that fail before this part of the Nyquist frequency are counted.
_EARLY = 0.5


class RingCorrelationMetric(PhantomMetric):
    """Fourier ring correlation with the truth, of whole slices and of patches."""

    name: ClassVar[str] = "ring_correlation"
    question: ClassVar[str] = "invented"
    kinds: ClassVar[tuple[str, ...]] = ("lesion",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "frc_resolution": Quantity("Resolution by Fourier ring correlation, half bit", "mm", "lower"),
        "frc_early": Quantity("Patches that disagree early", "of all", "lower", 3),
        "frc": Quantity("Fourier ring correlation with the truth", "correlation", axis="frequency (1/mm)"),
        "frc_map": Quantity(
            "Frequency at which patches stop agreeing with the truth (bright is good; blue: flat)", "1/mm"
        ),
    }
    method: ClassVar[str] = (
        "Slices are correlated with the truth ring by ring of spatial frequency (van Heel and Schatz, J Struct Biol "
        "151:250, 2005); the resolution is where the correlation falls below the half-bit curve, two voxels at best. "
        f"Patches of {_PATCH:g} mm are scanned in the same way with the threshold 0.5; those that fail before half of "
        "the Nyquist frequency are candidates for invented structures, and for plain blur and noise (scanning Fourier "
        "ring correlation, after Kc et al., arXiv 2603.04673)."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        resolutions, early = dict[Any, list[float]](), dict[Any, list[float]]()  # by object: its slices are alike
        curves, pictures = list[np.ndarray](), list[Picture]()
        frequency = np.empty(0)
        for scan in scans:
            volume, truth, spacing = plain(scan.volume), plain(scan.truth), scan.geometry.spacing[:2]
            patch = min(max(round(_PATCH / spacing[0]), _LEAST_PIXELS), *truth.shape[:2])
            nyquist, of = 0.5 / max(spacing), (scan.phantom, scan.realization)
            for z in _slices(truth):
                found = ring_correlation(volume[:, :, z], truth[:, :, z], spacing)
                frequency = found.frequency
                curves.append(found.correlation)
                resolutions.setdefault(of, []).append(1.0 / crossing_frequency(found))
                scanned = scanning_correlation(
                    volume[:, :, z], truth[:, :, z], spacing, patch=patch, stride=max(patch // 2, 1)
                )
                patches = scanned.crossing[np.isfinite(scanned.crossing)]
                early.setdefault(of, []).append(
                    float((patches < _EARLY * nyquist).mean()) if len(patches) else math.nan
                )
                if not pictures:
                    pictures.append(Picture("frc_map", np.flipud(scanned.crossing.T)))
        same = [curve for curve in curves if curve.shape == frequency.shape]
        return QualityResult(
            tuple(
                mean_finding(
                    key, [float(np.nanmean(values)) for values in found.values() if not np.isnan(values).all()]
                )
                for key, found in (("frc_resolution", resolutions), ("frc_early", early))
            ),
            (Curve("frc", frequency, np.nanmean(same, axis=0)),) if same else (),
            tuple(pictures),
        )


def _slices(truth: np.ndarray) -> list[int]:
    """Return a few slices that are not empty, the middle one first."""
    filled = [int(z) for z in np.flatnonzero(np.ptp(truth, axis=(0, 1)) > 0)]
    middle = len(filled) // 2
    return [filled[middle], *(filled[i] for i in (len(filled) // 4, (3 * len(filled)) // 4))] if filled else []
