# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whether a model observer can tell regions with a signal from those without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.channels import laguerre_gauss
from monai_diffrecon.evaluation.image_quality.measures.detection import detection
from monai_diffrecon.evaluation.image_quality.measures.eye import EyeFilter
from monai_diffrecon.evaluation.image_quality.measures.observers import (
    Observation,
    channelized_hotelling,
    non_prewhitening,
)
from monai_diffrecon.evaluation.image_quality.metrics.regions import (
    pairs,
    phantom_of,
    plain,
    setting_of,
    square,
)
from monai_diffrecon.protocols import Finding, PhantomMetric, PhantomScan, QualityResult, Quantity, Site

#: Laguerre-Gauss channels: few, since the regions of a kind are few.
_CHANNELS = 3
#: Slices of a disc are taken so far apart (mm), and regions reach so far beyond a signal.
_STEP, _BEYOND = 6.0, 6.0
#: Regions of each class below which nothing is said.
_LEAST = 10


class Detectability(PhantomMetric):
    """AUC and d' of the channelized Hotelling observer, and AUC of the non-prewhitening one with an eye filter."""

    name: ClassVar[str] = "detectability"
    question: ClassVar[str] = "contrast"
    kinds: ClassVar[tuple[str, ...]] = ("lesion", "disc")
    quantities: ClassVar[dict[str, Quantity]] = {
        "cho_auc": Quantity("AUC, channelized Hotelling observer", "", "higher"),
        "cho_d_prime": Quantity("d', channelized Hotelling observer", "", "higher"),
        "npwe_auc": Quantity("AUC, non-prewhitening observer with eye filter", "", "higher"),
    }
    method: ClassVar[str] = (
        "The place of the signal is known. Regions of the slice through its centre, with and without the signal, are "
        f"scored by a Hotelling observer with {_CHANNELS} Laguerre-Gauss channels (Gallas and Barrett, J Opt Soc Am A "
        "20:1725, 2003) and by a non-prewhitening observer with an eye filter (Burgess, J Opt Soc Am A 11:1237, 1994; "
        "voxels of 0.27 mm on the display, seen from 50 cm), each trained on all locations except the one being "
        "scored. Training on so few makes the AUC too low, by about 0.05 for 16 locations. AUC 0.5 is guessing. "
        "Intervals are by bootstrap over the locations."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        regions: dict[tuple[object, ...], list[tuple[np.ndarray, np.ndarray, int]]] = {}
        settings: dict[tuple[object, ...], tuple[dict[str, Any], float]] = {}
        place = 0
        named = phantom_of(scans)
        for present, absent in pairs(scans):
            volumes = plain(present.volume), plain(absent.volume)
            for site in present.sites:
                if site.kind not in self.kinds:
                    continue
                place += 1
                setting = {**setting_of(site), **named(present)}
                key = tuple(setting.values())
                settings[key] = setting, site.radius / present.geometry.spacing[0]
                for point in _points(site, present.geometry.spacing[2]):
                    one, zero = (square(v, present.geometry, point, site.radius + _BEYOND) for v in volumes)
                    if one is not None and zero is not None:
                        regions.setdefault(key, []).append((one, zero, place))
        findings, few = list[Finding](), list[str]()
        for key, found in regions.items():
            setting, radius = settings[key]
            places = len({number for _, _, number in found})
            if places < _LEAST:
                few.append(_said(setting))
                continue
            findings += _findings(found, setting, radius)
        warnings = (f"fewer than {_LEAST} places, so no observer was trained: {'; '.join(few)}",) if few else ()
        return QualityResult(tuple(findings), warnings=warnings)


def _points(site: Site, spacing: float) -> list[tuple[float, float, float]]:
    """Return the centre of a lesion, and several points along a disc."""
    x, y, z = site.centre
    if site.axis is None:
        return [site.centre]
    count = max(int((2 * site.half_length - 2 * spacing) // _STEP), 1)
    return [(x, y, z + (i - (count - 1) / 2) * _STEP) for i in range(count)]


def _findings(found: list[tuple[np.ndarray, np.ndarray, int]], setting: dict[str, Any], radius: float) -> list[Finding]:
    one, zero, places = (np.stack([entry[i] for entry in found]) for i in range(3))
    if not (np.ptp(one, axis=0).any() and np.ptp(zero, axis=0).any()):
        return []  # nothing varies
    channels = laguerre_gauss(one.shape[1:], max(2.0 * radius, 2.0), _CHANNELS)
    findings = []
    try:
        seen = channelized_hotelling(one, zero, channels, groups=(places, places))
        findings += _numbers("cho", seen, setting)
    except InputError:
        pass  # channels that do not vary: a reconstruction without any noise
    seen = non_prewhitening(one, zero, eye=EyeFilter(), groups=(places, places))
    return findings + _numbers("npwe", seen, setting)[:1]


def _numbers(observer: str, seen: Observation, setting: dict[str, Any]) -> list[Finding]:
    found = detection(seen.present, seen.absent, groups=seen.groups)
    n = min(len(seen.present), len(seen.absent))
    return [
        Finding(f"{observer}_auc", found.auc, *found.auc_interval, setting, n),
        Finding(f"{observer}_d_prime", found.d_prime, *found.d_prime_interval, setting, n),
    ]


def _said(setting: dict[str, Any]) -> str:
    return f"{setting['lesion']} {setting['diameter']:g} mm, {setting['contrast']:g}"
