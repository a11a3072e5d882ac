# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Regions of interest around the sites of phantoms, and means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t
from torch import Tensor

from monai_diffrecon.evaluation.image_quality.phantoms.lesions import KINDS
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import voxel_centres
from monai_diffrecon.protocols import Finding, PhantomScan, Site, VolumeGeometry

#: Values that a mean has an interval from.
LEAST = 3


def plain(volume: Tensor) -> np.ndarray:
    """Return a volume (1, X, Y, Z) as an array (X, Y, Z), float64."""
    return volume[0].detach().cpu().double().numpy()


def position(geometry: VolumeGeometry, point: Sequence[float]) -> list[float]:
    """Return the voxel indices, with fractions, of a point in mm."""
    return [
        (p - centres[0]) / s for p, centres, s in zip(point, voxel_centres(geometry), geometry.spacing, strict=True)
    ]


def square(
    volume: np.ndarray, geometry: VolumeGeometry, point: Sequence[float], half: float, axis: int = 2
) -> np.ndarray | None:
    """Return the pixels around the voxel next to a point, in the slice across an axis; None at the border.

    Args:
        volume: (X, Y, Z).
        geometry: its grid.
        point: in mm.
        half: half of the sides, in mm.
        axis: the slice is the one of this axis.
    """
    region: list[Any] = []
    for a, (centre, spacing) in enumerate(zip(position(geometry, point), geometry.spacing, strict=True)):
        middle, reach = round(centre), 0 if a == axis else max(round(half / spacing), 1)
        if middle - reach < 0 or middle + reach >= volume.shape[a]:
            return None
        region.append(middle if a == axis else slice(middle - reach, middle + reach + 1))
    return volume[tuple(region)]


def slices_of(scan: PhantomScan, site: Site) -> tuple[np.ndarray, list[float], list[float]]:
    """Return the slices across a site's axis within its length (N, H, W), their spacing, and its centre in pixels.

    The outermost slice on both sides is left out if the site ends within the volume: it may be filled in part.
    """
    axis = 2 if site.axis is None else site.axis
    volume = np.moveaxis(plain(scan.volume), axis, 0)
    centres = voxel_centres(scan.geometry)[axis]
    inside = np.flatnonzero(
        abs(centres - site.centre[axis]) <= site.half_length - scan.geometry.spacing[axis] / 2 + 1e-6
    )
    if len(inside) > 2 and len(inside) < len(centres):
        inside = inside[1:-1]
    others = [a for a in range(3) if a != axis]
    at = position(scan.geometry, site.centre)
    return volume[inside], [scan.geometry.spacing[a] for a in others], [at[a] for a in others]


def cut(
    images: np.ndarray, spacing: Sequence[float], centre: Sequence[float], half: float
) -> tuple[np.ndarray, list[float]]:
    """Return the part of images (N, H, W) within a distance of a centre, and the centre in it, in pixels.

    Args:
        images: the slices.
        spacing: of their pixels, in mm.
        centre: in pixels.
        half: in mm.
    """
    region, moved = [], []
    for c, s, n in zip(centre, spacing, images.shape[1:], strict=True):
        first, end = max(math.ceil(c - half / s), 0), min(math.floor(c + half / s) + 1, n)
        region.append(slice(first, end))
        moved.append(c - first)
    return images[:, region[0], region[1]], moved


def pairs(scans: Sequence[PhantomScan]) -> Iterator[tuple[PhantomScan, PhantomScan]]:
    """Yield the scans of a phantom with its signals and without them, of one realization."""
    absent = {(scan.phantom, scan.realization): scan for scan in scans if not scan.present}
    for scan in scans:
        other = absent.get((scan.phantom, scan.realization))
        if scan.present and other is not None:
            yield scan, other


def phantom_of(scans: Sequence[PhantomScan]) -> Callable[[PhantomScan], dict[str, Any]]:
    """Return what tells the phantom of a scan in a setting: nothing where all scans are of one."""
    several = len({scan.phantom for scan in scans}) > 1
    return lambda scan: {"phantom": scan.phantom} if several else {}


def setting_of(site: Site) -> dict[str, Any]:
    """Return what a reader wants to know of a lesion or a disc."""
    named = {"lesion": site.name} if site.name else {"lesion": site.kind}
    return {**named, "diameter": round(2 * site.radius, 3), "contrast": site.contrast}


def order_of(setting: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what settings are sorted by for readers: kind of lesion, diameter, contrast, frequency."""
    kind = setting.get("lesion", "")
    numbers = [abs(float(setting.get(key, 0.0))) for key in ("diameter", "contrast", "frequency")]
    return ([*KINDS, kind].index(kind), str(setting.get("phantom", "")), *numbers)


def mean_finding(key: str, values: Iterable[float], setting: dict[str, Any] | None = None) -> Finding:
    """Return the mean of finite values, with Student's 95 % interval from three on.

    Args:
        key: of the finding.
        values: independent measurements.
        setting: of the finding.
    """
    found = np.array([v for v in values if math.isfinite(v)])
    if not len(found):
        return Finding(key, math.nan, setting=setting or {}, n=0)
    mean, half = float(found.mean()), math.nan
    if len(found) >= LEAST:
        half = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
    return Finding(key, mean, mean - half, mean + half, setting or {}, len(found))
