# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How much of the contrast of inserted lesions a reconstruction keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.evaluation.image_quality.metrics.regions import (
    mean_finding,
    order_of,
    pairs,
    phantom_of,
    plain,
    setting_of,
    square,
)
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import voxel_centres
from monai_diffrecon.protocols import Curve, Finding, PhantomMetric, PhantomScan, Picture, QualityResult, Quantity, Site

#: Half the side of the pictures of lesions, in mm.
_HALF = 10.0


class LesionSurvival(PhantomMetric):
    """Contrast recovered of lesions and discs, by kind, size and contrast."""

    name: ClassVar[str] = "lesion_survival"
    question: ClassVar[str] = "contrast"
    kinds: ClassVar[tuple[str, ...]] = ("lesion", "disc")
    quantities: ClassVar[dict[str, Quantity]] = {
        "lesion_contrast": Quantity("Contrast kept", "of the true one", 1.0),
        "contrast_by_diameter": Quantity("Contrast kept by diameter", "of the true one", axis="diameter (mm)"),
        "lesions": Quantity("Lesions, one of each kind: the truth, and as reconstructed"),
    }
    method: ClassVar[str] = (
        "The same object is measured with lesions and without them, with independent noise. The difference of the two "
        "reconstructions is compared with the true difference by least squares within one voxel of each lesion; 1 is a "
        "lesion of its full contrast, 0 one that has vanished. The interval is Student's over the lesions of a kind "
        "(contrast recovery as in Samei et al., AAPM TG-233, Med Phys 46:e735, 2019)."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        kept: dict[tuple[object, ...], list[float]] = {}
        settings, tiles = {}, dict[tuple[object, ...], tuple[np.ndarray, np.ndarray]]()
        named = phantom_of(scans)
        for present, absent in pairs(scans):
            signal = plain(present.truth) - plain(absent.truth)
            difference = plain(present.volume) - plain(absent.volume)
            volume, truth = plain(present.volume), plain(present.truth)
            for site in present.sites:
                if site.kind not in self.kinds:
                    continue
                setting = {**setting_of(site), **named(present)}
                key = tuple(setting.values())
                settings[key] = setting
                kept.setdefault(key, []).append(recovered(difference, signal, present, site))
                if site.kind == "lesion" and key not in tiles:
                    crops = [square(v, present.geometry, site.centre, _HALF) for v in (volume, truth)]
                    if crops[0] is not None and crops[1] is not None:
                        tiles[key] = (crops[0], crops[1])
        ordered = sorted(tiles, key=lambda key: order_of(settings[key]))
        pictures: tuple[Picture, ...] = ()
        if ordered:
            rows = [np.concatenate([np.flipud(tiles[key][i].T) for key in ordered], axis=1) for i in (0, 1)]
            columns = tuple(
                f"{s['lesion']} {s['diameter']:g} mm {s['contrast']:g}" for s in (settings[key] for key in ordered)
            )
            pictures = (Picture("lesions", rows[0], rows[1], columns=columns),)
        findings = tuple(mean_finding("lesion_contrast", values, settings[key]) for key, values in kept.items())
        return QualityResult(findings, _by_diameter(findings), pictures)


def _by_diameter(findings: Sequence[Finding]) -> tuple[Curve, ...]:
    """Return a curve for each kind and contrast that occurs with several diameters."""
    rows: dict[tuple[Any, ...], tuple[dict[str, Any], list[tuple[float, float]]]] = {}
    for finding in findings:
        setting = {key: value for key, value in finding.setting.items() if key != "diameter"}
        _, points = rows.setdefault(tuple(setting.values()), (setting, []))
        points.append((finding.setting["diameter"], finding.value))
    return tuple(
        Curve("contrast_by_diameter", *_columns(points), setting)
        for setting, points in rows.values()
        if len(points) > 1
    )


def _columns(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array(sorted(points)).T
    return x, y


def recovered(difference: np.ndarray, signal: np.ndarray, scan: PhantomScan, site: Site) -> float:
    """Return the part of a signal that is found in a difference of volumes, by least squares around its site.

    Args:
        difference: (X, Y, Z), what is seen.
        signal: (X, Y, Z), what is there.
        scan: where they lie.
        site: of the signal.
    """
    region = []
    for axis, (centres, spacing) in enumerate(zip(voxel_centres(scan.geometry), scan.geometry.spacing, strict=True)):
        reach = (site.half_length if axis == site.axis or site.axis is None else site.radius) + spacing
        inside = np.flatnonzero(abs(centres - site.centre[axis]) <= reach)
        region.append(slice(inside[0], inside[-1] + 1))
    known, seen = signal[tuple(region)], difference[tuple(region)]
    own = np.abs(known) > 0  # a lesion near by is further away than a voxel
    return float((known[own] @ seen[own]) / (known[own] @ known[own]))
