# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A phantom: a volume with signals at known sites, and the same volume without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Cylinder, Shape, coverage, voxel_centres
from monai_diffrecon.protocols import Site, VolumeGeometry

#: Modality -> intensity of air, of the plain background, and unit. MR's are thousandths of the plain background's.
INTENSITIES = {"CT": (-1000.0, 0.0, "HU"), "MR": (0.0, 1000.0, "arbitrary")}


@dataclass(frozen=True)
class Phantom:
    """An object to be measured.

    Attributes:
        geometry: its grid, with a diagonal affine whose origin is the centre.
        without: (X, Y, Z), float32, the object without signals.
        volume: the same with them.
        sites: where the signals are, or where something else is measured.
        unit: of the intensities.
    """

    geometry: VolumeGeometry
    without: np.ndarray
    volume: np.ndarray
    sites: tuple[Site, ...]
    unit: str

    @property
    def has_signals(self) -> bool:
        """The volumes with and without signals differ."""
        return any(site.contrast for site in self.sites)


def centred_grid(shape: Sequence[int], spacing: Sequence[float]) -> VolumeGeometry:
    """Return a grid whose centre is the origin of the world.

    Args:
        shape: voxels along (X, Y, Z).
        spacing: in mm.
    """
    x, y, z = ((int(n), float(s)) for n, s in zip(shape, spacing, strict=True))
    affine = np.diag([x[1], y[1], z[1], 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in (x, y, z)]
    rows = tuple(tuple(float(v) for v in row) for row in affine)
    return VolumeGeometry((x[0], y[0], z[0]), (x[1], y[1], z[1]), rows)


def painted(volume: np.ndarray, geometry: VolumeGeometry, shape: Shape, value: float) -> None:
    """Put a body of an intensity in the place of what was there, voxels at its border in part."""
    box, part = coverage(shape, geometry)
    volume[box] += part * (value - volume[box])


def with_signals(without: np.ndarray, geometry: VolumeGeometry, signals: Sequence[tuple[Shape, float]]) -> np.ndarray:
    """Return a copy of a volume with the contrast of each body added to it."""
    volume = without.copy()
    for shape, contrast in signals:
        box, part = coverage(shape, geometry)
        volume[box] += contrast * part
    return volume


def plain_body(geometry: VolumeGeometry, modality: str) -> tuple[np.ndarray, float]:
    """Return a cylinder of the plain background in air, which leaves the grid below and above, and its radius.

    Args:
        geometry: the grid.
        modality: ``CT`` (water) or ``MR`` (gel).
    """
    air, plain, _ = INTENSITIES[modality]
    radius = 0.45 * min(n * s for n, s in zip(geometry.shape[:2], geometry.spacing[:2], strict=True))
    volume = np.full(geometry.shape, air)
    painted(volume, geometry, Cylinder((0.0, 0.0, 0.0), (radius, radius), np.inf), plain)
    return volume, radius


def checked_numbers(values: Any, where: str, *, positive: bool = False) -> list[float]:
    """Return a list of finite numbers that are not 0.

    Args:
        values: what the user gave.
        where: the option for messages.
        positive: all are above 0.

    Raises:
        ConfigError: no list, an empty one, or a number that is not allowed.
    """
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError("not a list of numbers", where=where, expected="[number, ...]", got=f"{values!r:.60}")
    low = 0.0 if positive else -math.inf
    found = [check_number(value, where, low=low, open_low=positive) for value in values]
    if 0.0 in found:
        raise ConfigError("out of range", where=where, expected="numbers other than 0", got=list(values))
    return found


def reach(geometry: VolumeGeometry, axis: int) -> float:
    """Return half the extent of the grid along an axis, in mm."""
    return geometry.shape[axis] * geometry.spacing[axis] / 2


def finished(
    geometry: VolumeGeometry,
    modality: str,
    without: np.ndarray,
    sites: Sequence[Site],
    signals: Sequence[tuple[Shape, float]] = (),
) -> Phantom:
    """Return the phantom of a background and the signals in it.

    Raises:
        ConfigError: a site that is not within the grid.
    """
    for site in sites:
        for axis, centres in enumerate(voxel_centres(geometry)):
            if not centres[0] <= site.centre[axis] <= centres[-1]:
                raise ConfigError(
                    "a phantom that does not fit the grid",
                    where="grid",
                    expected="a larger field of view",
                    got=" x ".join(f"{2 * reach(geometry, a):g}" for a in range(3)) + " mm",
                )
    volume = with_signals(without, geometry, signals)
    air, _, unit = INTENSITIES[modality]
    least = min(float(volume.min()), float(without.min()))
    if not np.isfinite(volume).all() or least < air - 1.0 - (100.0 if modality == "CT" else 0.0):
        raise ConfigError(
            "a phantom with impossible intensities",
            where="phantoms",
            expected=f"finite ones, none below {air:g}",
            got=f"{least:g}",
            mend="give contrasts that the background can hold",
        )
    return Phantom(geometry, without.astype(np.float32), volume.astype(np.float32), tuple(sites), unit)
