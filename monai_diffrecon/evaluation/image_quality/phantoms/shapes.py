# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bodies with exact boundaries, and the part of each voxel that they fill."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from monai_diffrecon.protocols import VolumeGeometry

Point = tuple[float, float, float]
#: Points per voxel and axis at which it is asked whether they lie inside.
SUBSAMPLES = 5


class Shape(Protocol):
    """A body in world coordinates (mm)."""

    @property
    def bounds(self) -> tuple[Point, Point]:
        """Lowest and highest corner of a box that holds it."""

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where points lie inside; the coordinates are broadcast against each other."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with its axes along the world's.

    Attributes:
        centre: in mm.
        radii: in mm.
    """

    centre: Point
    radii: Point

    @property
    def bounds(self) -> tuple[Point, Point]:
        """The box around it."""
        return _around(self.centre, self.radii)

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where points lie inside."""
        terms = [((v - c) / r) ** 2 for v, c, r in zip((x, y, z), self.centre, self.radii, strict=True)]
        return np.asarray(terms[0] + terms[1] + terms[2] <= 1.0)


@dataclass(frozen=True)
class Cylinder:
    """A cylinder of elliptical section along an axis of the world.

    Attributes:
        centre: in mm.
        radii: of the section along the two other axes, in their order, in mm.
        half_length: along its axis, in mm.
        axis: 0, 1 or 2.
    """

    centre: Point
    radii: tuple[float, float]
    half_length: float
    axis: int = 2

    @property
    def bounds(self) -> tuple[Point, Point]:
        """The box around it."""
        half = [*self.radii]
        half.insert(self.axis, self.half_length)
        return _around(self.centre, (half[0], half[1], half[2]))

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where points lie inside."""
        offsets = [v - c for v, c in zip((x, y, z), self.centre, strict=True)]
        along = offsets.pop(self.axis)
        section = (offsets[0] / self.radii[0]) ** 2 + (offsets[1] / self.radii[1]) ** 2
        return np.asarray((section <= 1.0) & (np.abs(along) <= self.half_length))


@dataclass(frozen=True)
class Bars:
    """Parallel plates that fill every other half period of a box.

    Attributes:
        centre: of the box, in mm.
        half: half sizes of the box, in mm.
        frequency: plates per mm.
        axis: across the plates: 0, 1 or 2.
    """

    centre: Point
    half: Point
    frequency: float
    axis: int = 0

    @property
    def bounds(self) -> tuple[Point, Point]:
        """The box."""
        return _around(self.centre, self.half)

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where points lie inside a plate."""
        offsets = [v - c for v, c in zip((x, y, z), self.centre, strict=True)]
        within = [np.abs(o) <= h for o, h in zip(offsets, self.half, strict=True)]
        phase = np.mod((offsets[self.axis] + self.half[self.axis]) * self.frequency, 1.0)
        return np.asarray(within[0] & within[1] & within[2] & (phase < 0.5))


@dataclass(frozen=True)
class Tube:
    """A tube with round ends from one point to another.

    Attributes:
        start: in mm.
        end: in mm.
        radius: in mm.
    """

    start: Point
    end: Point
    radius: float

    @property
    def bounds(self) -> tuple[Point, Point]:
        """The box around it."""
        low = [min(a, b) - self.radius for a, b in zip(self.start, self.end, strict=True)]
        high = [max(a, b) + self.radius for a, b in zip(self.start, self.end, strict=True)]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def inside(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return where points are closer to the line than the radius."""
        line = np.subtract(self.end, self.start)
        offsets = [v - s for v, s in zip((x, y, z), self.start, strict=True)]
        along = sum(o * d for o, d in zip(offsets, line, strict=True)) / max(float(line @ line), 1e-12)
        along = np.clip(along, 0.0, 1.0)
        squares = [(o - along * d) ** 2 for o, d in zip(offsets, line, strict=True)]
        return np.asarray(squares[0] + squares[1] + squares[2] <= self.radius**2)


def voxel_centres(geometry: VolumeGeometry) -> list[np.ndarray]:
    """Return the world coordinates (mm) of the voxels along each axis of a geometry with a diagonal affine."""
    affine = geometry.affine
    origin = [0.0, 0.0, 0.0] if affine is None else [affine[i][3] for i in range(3)]
    return [o + s * np.arange(n, dtype=float) for o, s, n in zip(origin, geometry.spacing, geometry.shape, strict=True)]


def coverage(
    shape: Shape, geometry: VolumeGeometry, subsamples: int = SUBSAMPLES
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the part of each voxel that a body fills, in the box of voxels that it touches.

    Args:
        shape: the body.
        geometry: the grid.
        subsamples: points per voxel and axis.

    Returns:
        The box as slices of (X, Y, Z), empty ones for a body outside the grid, and the part, 0 to 1, in it.
    """
    box, points = [], []
    for centres, spacing, low, high in zip(voxel_centres(geometry), geometry.spacing, *shape.bounds, strict=True):
        first = int(np.searchsorted(centres, low - spacing / 2))
        end = max(int(np.searchsorted(centres, high + spacing / 2, side="right")), first)
        box.append(slice(first, end))
        offsets = ((np.arange(subsamples) + 0.5) / subsamples - 0.5) * spacing
        points.append(centres[first:end, None] + offsets)
    part = np.zeros([p.shape[0] for p in points])
    for i, j, k in itertools.product(range(subsamples), repeat=3):
        x, y, z = np.ix_(points[0][:, i], points[1][:, j], points[2][:, k])
        part += shape.inside(x, y, z)
    return tuple(box), part / subsamples**3


def _around(centre: Point, half: Point) -> tuple[Point, Point]:
    low, high = ([c + sign * h for c, h in zip(centre, half, strict=True)] for sign in (-1, 1))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
