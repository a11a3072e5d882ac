# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where source and detector are, view by view, and what FDK makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

#: Largest tilt of the detector in degrees with which FDK is used: that of a calibrated gantry, not of a tilted orbit.
_MOST_TILT = 2.0
#: Largest travel of the source along the axis in mm with which an orbit is a circle.
_MOST_TRAVEL = 1.0
#: RTK weights a detector as displaced when its two sides differ by more than this share of its width.
_SYMMETRY = 0.1


class ConeView(NamedTuple):
    """One view by RTK's nine numbers: lengths in mm, angles in degrees.

    Offsets and tilts are along the detector's axes u (in the plane of rotation) and v (along the axis of rotation),
    as in RTK's documentation of ThreeDCircularProjectionGeometry.
    """

    source_to_isocenter: float
    source_to_detector: float
    gantry_angle: float
    projection_offset_x: float = 0.0
    projection_offset_y: float = 0.0
    out_of_plane_angle: float = 0.0
    in_plane_angle: float = 0.0
    source_offset_x: float = 0.0
    source_offset_y: float = 0.0


@dataclass(frozen=True)
class Trajectory:
    """All views of a scan.

    Attributes:
        views: the views, in the order of the measurement.
        detector_radius: radius of a cylindrical detector in mm; 0 for a flat one.
    """

    views: tuple[ConeView, ...]
    detector_radius: float = 0.0


@dataclass(frozen=True)
class Detector:
    """The pixels of the detector.

    Attributes:
        pixels: (nu, nv).
        spacing: (du, dv) in mm.
        offset: centre of the pixels from the foot of the central ray, (u, v) in mm.
    """

    pixels: tuple[int, int]
    spacing: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def edges(self, axis: int) -> tuple[float, float]:
        """Return the positions in mm of the first and the last pixel along u (0) or v (1)."""
        half = (self.pixels[axis] - 1) / 2 * self.spacing[axis]
        return self.offset[axis] - half, self.offset[axis] + half


def moved_back(scan: Trajectory, detector: Detector, source_to_detector: float) -> tuple[Trajectory, Detector]:
    """Return a scan and its flat detector with the same rays, but the detector further away, its pixels magnified."""
    views = tuple(view._replace(source_to_detector=source_to_detector) for view in scan.views)
    k = source_to_detector / scan.views[0].source_to_detector
    (du, dv), (u, v) = detector.spacing, detector.offset
    return replace(scan, views=views), replace(detector, spacing=(k * du, k * dv), offset=(k * u, k * v))


def helix(
    degrees: Sequence[float],
    source_to_isocenter: float,
    source_to_detector: float,
    pitch: float = 0.0,
    detector_radius: float = 0.0,
) -> Trajectory:
    """Return a circular orbit, or a helical one whose middle is at the isocentre.

    Args:
        degrees: angles of the views; beyond one turn they go on (400, not 40).
        source_to_isocenter: mm.
        source_to_detector: mm.
        pitch: travel along the axis in mm, a turn of growing angle; 0 for a circle.
        detector_radius: radius of a cylindrical detector in mm; 0 for a flat one.
    """
    middle = (min(degrees) + max(degrees)) / 2
    heights = [pitch * (a - middle) / 360.0 for a in degrees]
    views = [
        ConeView(source_to_isocenter, source_to_detector, a, projection_offset_y=z, source_offset_y=z)
        for a, z in zip(degrees, heights, strict=True)
    ]
    return Trajectory(tuple(views), detector_radius)


def deviating(scan: Trajectory, deviations: Mapping[str, Sequence[float]]) -> Trajectory:
    """Return a scan with numbers added to fields of its views, one per view: field of :class:`ConeView` -> values."""
    table = np.asarray(scan.views, dtype=np.float64)
    for name, values in deviations.items():
        table[:, ConeView._fields.index(name)] += values
    return replace(scan, views=tuple(ConeView(*row) for row in table.tolist()))


def options_of(scan: Trajectory, detector: Detector) -> dict[str, Any]:
    """Return the options of ``cone_beam_ct`` that describe a scan without a file."""
    table = np.asarray(scan.views, dtype=np.float64)
    base = np.zeros_like(table)
    base[:, :2], base[:, 2] = table[0, :2], table[:, 2]
    apart = (table - base).round(9)
    options: dict[str, Any] = {
        "angles": table[:, 2].tolist(),
        "angles_unit": "degrees",
        "source_distance": float(table[0, 0]),
        "detector_distance": float(table[0, 1]),
        "detectors": list(detector.pixels),
        "detector_spacing": list(detector.spacing),
        "detector_offset": list(detector.offset),
    }
    if scan.detector_radius > 0.0:
        options["detector_radius"] = scan.detector_radius
    deviations = {
        name: float(column[0]) if np.ptp(column) == 0.0 else column.tolist()
        for name, column in zip(ConeView._fields, apart.T, strict=True)
        if column.any()
    }
    return {**options, "deviations": deviations} if deviations else options


def sides_at_axis(scan: Trajectory, detector: Detector) -> tuple[float, float]:
    """Return how far from the axis in mm all views see: on the side of negative u (negative), and on the other.

    The distances are along u in the plane of the axis that is parallel to the detector.
    """
    table = np.asarray(scan.views, dtype=np.float64)
    to_axis, to_detector, shift, source = table[:, 0], table[:, 1], table[:, 3], table[:, 7]
    first, last = ((u + shift - source) * to_axis / to_detector + source for u in detector.edges(0))
    return float(first.max()), float(last.min())


def fdk_weighting(
    trajectory: Trajectory, detector: Detector, radius: float
) -> Literal["full", "displaced", "short"] | None:
    """Return how FDK has to weight the views, or None when the scan is not one that FDK reconstructs.

    FDK (Feldkamp et al. 1984, doi 10.1364/JOSAA.1.000612) wants a circle, a flat detector that sees the axis, and
    at least 180 degrees plus the fan (Parker 1982, doi 10.1118/1.595078); a displaced detector, which sees
    less on one side of the axis than on the other, wants all of the circle.

    Args:
        trajectory: the scan.
        detector: its detector.
        radius: radius in mm of the volume about the axis: the fan need not be wider.
    """
    table = np.asarray(trajectory.views, dtype=np.float64)
    tilted = np.abs(table[:, 5:7]).max() > _MOST_TILT
    travels = np.ptp(table[:, 8]) > _MOST_TRAVEL or np.ptp(table[:, 0]) > _MOST_TRAVEL
    if len(table) < 2 or tilted or travels or trajectory.detector_radius > 0.0:
        return None
    left, right = sides_at_axis(trajectory, detector)
    if not left < 0.0 < right:
        return None
    centred = abs(left + right) <= _SYMMETRY * (right - left)
    gap, full = _largest_gap(table[:, 2])
    if full:
        return "full" if centred else "displaced"
    seen = math.atan(max(-left, right) / float(table[:, 0].min()))
    fan = min(seen, math.asin(min(1.0, radius / float(table[:, 0].min()))))
    return "short" if centred and 360.0 - gap >= 180.0 + 2.0 * math.degrees(fan) else None


def _largest_gap(degrees: np.ndarray) -> tuple[float, bool]:
    """Return the largest angle between neighbours, and whether the views go all around.

    They do unless that gap is more than three times the second largest.
    """
    angles = np.unique(np.round(np.mod(degrees, 360.0), 6))
    if len(angles) < 2:
        return 360.0, False
    gaps = np.sort(np.diff(angles, append=angles[0] + 360.0))
    return float(gaps[-1]), bool(gaps[-1] <= 3.0 * gaps[-2])
