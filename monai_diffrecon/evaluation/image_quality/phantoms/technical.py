# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The phantoms of physicists: uniform, low-contrast discs, rods, a wire, line pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import (
    Phantom,
    checked_numbers,
    finished,
    plain_body,
    reach,
)
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Bars, Cylinder, Shape
from monai_diffrecon.protocols import Site, VolumeGeometry

#: Between discs, so that none lies in the region in which another is looked for, in mm.
_GAP = 9.0


def uniform(geometry: VolumeGeometry, modality: str, *, seed: int = 0) -> Phantom:
    """Return a cylinder of water or gel, for noise.

    Args:
        geometry: the grid.
        modality: ``CT`` or ``MR``.
        seed: without influence.
    """
    without, radius = plain_body(geometry, modality)
    return finished(geometry, modality, without, [Site("uniform", (0.0, 0.0, 0.0), 0.7 * radius, reach(geometry, 2))])


def contrast_detail(
    geometry: VolumeGeometry,
    modality: str,
    *,
    diameters: Sequence[float] = (4.0, 6.0, 8.0),
    contrasts: Sequence[float] = (20.0, 40.0),
    seed: int = 0,
) -> Phantom:
    """Return low-contrast discs that go through all slices, as those of an accreditation phantom do.

    Args:
        geometry: the grid.
        modality: ``CT`` or ``MR``.
        diameters: in mm.
        contrasts: in the unit of the volume.
        seed: of the order of the discs.
    """
    diameters = checked_numbers(diameters, "phantoms#contrast_detail#diameters", positive=True)
    contrasts = checked_numbers(contrasts, "phantoms#contrast_detail#contrasts")
    without, radius = plain_body(geometry, modality)
    settings = [(d, c) for d in diameters for c in contrasts]
    places = _rings(radius, max(diameters) + _GAP)
    if len(places) < len(settings):
        raise ConfigError(
            "no room for the discs",
            where="phantoms#contrast_detail",
            expected=f"room for {len(settings)}",
            got=f"room for {len(places)} in a cylinder of {2 * radius:.0f} mm",
            mend="give a larger grid, or fewer or smaller discs",
        )
    order = np.random.default_rng(seed).permutation(len(places))
    sites, signals = [], list[tuple[Shape, float]]()
    for number, place in enumerate(order):
        diameter, contrast = settings[number % len(settings)]
        sites.append(_add(signals, "disc", places[place], diameter / 2, contrast, geometry))
    return finished(geometry, modality, without, sites, signals)


def rods(
    geometry: VolumeGeometry,
    modality: str,
    *,
    contrasts: Sequence[float] = (40.0, 120.0, -100.0, 900.0),
    diameter: float = 20.0,
    axis: int = 2,
    seed: int = 0,
) -> Phantom:
    """Return wide rods of several contrasts, for the task transfer function.

    Args:
        geometry: the grid.
        modality: ``CT`` or ``MR``.
        contrasts: one rod each.
        diameter: in mm.
        axis: along the rods: 2 shows the resolution within axial slices, 0 that in sagittal ones.
        seed: without influence.
    """
    contrasts = checked_numbers(contrasts, "phantoms#rods#contrasts")
    (diameter,) = checked_numbers([diameter], "phantoms#rods#diameter", positive=True)
    axis = check_integer(axis, "phantoms#rods#axis", low=0, high=2)
    without, radius = plain_body(geometry, modality)
    sites, signals = [], list[tuple[Shape, float]]()
    for place, contrast in zip(_row(geometry, axis, len(contrasts), diameter, radius), contrasts, strict=True):
        within = np.inf if axis == 2 else 0.9 * math.sqrt(radius**2 - max(map(abs, place)) ** 2) - diameter / 4
        sites.append(_add(signals, "rod", place, diameter / 2, contrast, geometry, axis, within))
    return finished(geometry, modality, without, sites, signals)


def wire(
    geometry: VolumeGeometry, modality: str, *, diameter: float = 0.6, contrast: float = 3000.0, seed: int = 0
) -> Phantom:
    """Return a thin wire along z, beside the centre of the cylinder and of a voxel.

    Args:
        geometry: the grid.
        modality: ``CT`` or ``MR``.
        diameter: in mm.
        contrast: in the unit of the volume.
        seed: without influence.
    """
    (diameter,) = checked_numbers([diameter], "phantoms#wire#diameter", positive=True)
    (contrast,) = checked_numbers([contrast], "phantoms#wire#contrast")
    without, radius = plain_body(geometry, modality)
    signals = list[tuple[Shape, float]]()
    place = (0.3 * radius + 0.3 * geometry.spacing[0], 0.2 * geometry.spacing[1], 0.0)
    site = _add(signals, "wire", place, diameter / 2, contrast, geometry)
    return finished(geometry, modality, without, [site], signals)


def line_pairs(
    geometry: VolumeGeometry,
    modality: str,
    *,
    frequencies: Sequence[float] = (0.1, 0.15, 0.2, 0.25, 0.3),
    contrast: float = 900.0,
    seed: int = 0,
) -> Phantom:
    """Return groups of bars along z.

    Args:
        geometry: the grid.
        modality: ``CT`` or ``MR``.
        frequencies: in line pairs per mm.
        contrast: of the bars, in the unit of the volume.
        seed: without influence.
    """
    frequencies = checked_numbers(frequencies, "phantoms#line_pairs#frequencies", positive=True)
    (contrast,) = checked_numbers([contrast], "phantoms#line_pairs#contrast")
    without, radius = plain_body(geometry, modality)
    sites, signals = [], list[tuple[Shape, float]]()
    size = min(0.22 * radius, 15.0)
    for number, frequency in enumerate(frequencies):
        angle = 2 * math.pi * number / len(frequencies)
        place = (0.6 * radius * math.cos(angle), 0.6 * radius * math.sin(angle), 0.0)
        half = max(round(2 * size * frequency), 2) / frequency / 2  # whole periods
        signals.append((Bars(place, (half, size, np.inf), frequency), contrast))
        sites.append(Site("bars", place, size, reach(geometry, 2), contrast, 2, frequency))
    return finished(geometry, modality, without, sites, signals)


def _add(
    signals: list[tuple[Shape, float]],
    kind: str,
    place: tuple[float, float, float],
    radius: float,
    contrast: float,
    geometry: VolumeGeometry,
    axis: int = 2,
    half_length: float = np.inf,
) -> Site:
    """Append the cylinder of a site, which leaves the grid on both sides unless it is shorter; return the site."""
    signals.append((Cylinder(place, (radius, radius), half_length, axis), contrast))
    return Site(kind, place, radius, min(reach(geometry, axis), half_length), contrast, axis)


def _rings(radius: float, apart: float) -> list[tuple[float, float, float]]:
    """Return places on rings around the centre of the cylinder, at least so far apart and from its border."""
    places = []
    for number in range(1, int((radius - 0.6 * apart) / apart) + 1):
        count = int(2 * math.pi * number)
        for angle in 2 * math.pi * np.arange(count) / count:
            places.append((number * apart * math.cos(angle), number * apart * math.sin(angle), 0.0))
    return places


def _row(
    geometry: VolumeGeometry, axis: int, count: int, diameter: float, radius: float
) -> list[tuple[float, float, float]]:
    """Return the centres of rods: on a ring for those along z, else in a row across them.

    Raises:
        ConfigError: the rods do not fit.
    """
    apart = 1.8 * diameter
    if axis == 2:
        least = apart / 2 / math.sin(math.pi / count) if count > 1 else 0.0
        ring = max(least, min(0.55 * radius, radius - diameter)) if count > 1 else 0.0
        if ring + diameter <= radius:  # the edge is measured over most of a radius to both sides
            angles = 2 * math.pi * (np.arange(count) + 0.5) / count
            return [(ring * math.cos(a), ring * math.sin(a), 0.0) for a in angles]
    else:
        other = 1 - axis
        offsets = apart * (np.arange(count) - (count - 1) / 2)
        if max(abs(offsets)) + 0.7 * diameter <= 0.9 * radius and 1.4 * diameter <= 2 * reach(geometry, 2):
            return [(float(o), 0.0, 0.0) if other == 0 else (0.0, float(o), 0.0) for o in offsets]
    raise ConfigError(
        "rods that do not fit the phantom",
        where="phantoms#rods",
        expected="fewer or thinner rods, or a larger grid",
        got=f"{count} of {diameter:g} mm in a cylinder of {2 * radius:.0f} mm",
    )
