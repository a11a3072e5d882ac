# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The rays of fan-beam CT, and the parts of its filtered back-projection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from monai_diffrecon.numerics.ct.back_projection import back_projection, pixel_coordinates
from monai_diffrecon.numerics.ct.joseph import Rays
from monai_diffrecon.numerics.ct.parallel_geometry import (
    bin_positions,
    measured_arc,
    missing_bins,
    redundancy_weights,
    view_weights,
)


@dataclass(frozen=True)
class FanGeometry:
    """A source and a detector that turn about the origin.

    At the angle b the source is at ``R (sin b, -cos b)``, R its distance, and the detector's axis points along
    ``(cos b, sin b)``: the central ray is the parallel ray ``x cos b + y sin b = 0``, and the ray at the fan angle g
    is ``x cos(b - g) + y sin(b - g) = R sin g``.

    Args:
        angles: angles of the views (radians).
        source_distance: source to axis of rotation, R (mm).
        detector_distance: source to detector (mm).
        detectors: bins.
        detector_spacing: distance of the bins (mm): along the flat detector, or along the arc of the curved one.
        detector_offset: how far the detector's centre is from the central ray (mm), along it.
        curved: the detector is an arc about the source.
    """

    angles: tuple[float, ...]
    source_distance: float
    detector_distance: float
    detectors: int
    detector_spacing: float
    detector_offset: float = 0.0
    curved: bool = False

    def fan_angles(self) -> np.ndarray:
        """Return the fan angle g of each bin (radians), (D,)."""
        at = self.positions() / self.detector_distance
        return at if self.curved else np.arctan(at)

    def positions(self) -> np.ndarray:
        """Return the centres of the bins along the detector, from the central ray (mm), (D,)."""
        return bin_positions(self.detectors, self.detector_spacing, self.detector_offset)

    def rays(self, first: int = 0, last: int | None = None) -> Rays:
        """Return the rays of the views from ``first`` to before ``last``, each (V, D)."""
        fan = self.fan_angles()
        normal = np.asarray(self.angles[first:last])[:, None] - fan[None]
        return Rays(np.cos(normal), np.sin(normal), np.broadcast_to(self.source_distance * np.sin(fan), normal.shape))

    def full_circle(self) -> bool:
        """Return whether the views leave no part of the circle out."""
        return measured_arc(np.asarray(self.angles), 2.0 * np.pi)[1] >= 2.0 * np.pi

    def missing_bins(self, radius: float) -> tuple[int, int]:
        """Return the bins by which an offset detector on a full circle falls short of a disc (radius in mm)."""
        if not self.full_circle():
            return 0, 0
        return missing_bins(self.positions(), self.shadow(radius))

    def shadow(self, radius: float) -> float:
        """Return how far along the detector, from the central ray, a disc about the axis is seen (mm)."""
        edge = math.asin(radius / self.source_distance)
        return self.detector_distance * (edge if self.curved else math.tan(edge))

    def padded(self, before: int, after: int) -> FanGeometry:
        """Return the fan with more bins at the two ends of its detector; the others stay where they are."""
        moved = self.detector_offset + (after - before) / 2 * self.detector_spacing
        return replace(self, detectors=self.detectors + before + after, detector_offset=moved)

    def half_fan(self, radius: float) -> float:
        """Return the largest fan angle (radians) of the rays that meet a disc about the axis (radius in mm)."""
        return min(float(np.abs(self.fan_angles()).max()), math.asin(radius / self.source_distance))


def fan_ray_weights(geometry: FanGeometry, radius: float) -> np.ndarray:
    """Return what each ray counts in filtered back-projection (V, D): step of its view, redundancy, cosine.

    Rays of a fan are measured once or twice. On a full circle each counts half (or, on an offset detector, as
    :func:`redundancy_weights` says); on an arc of 180 degrees plus the fan or more, Parker's weights (1982) share a
    ray among its two measurements, for longer arcs with a wider virtual fan (Silver 2000, "A method for including
    redundant data in computed tomography"). A shorter arc misses rays: all count the same, by ``min(1, pi / arc)``.

    Args:
        geometry: the fan.
        radius: half the diagonal of the image (mm): rays beyond it are not asked for.
    """
    fan, angles = geometry.fan_angles(), np.asarray(geometry.angles)
    start, arc = measured_arc(angles, 2.0 * np.pi)
    share = np.full((len(angles), len(fan)), min(1.0, np.pi / arc))
    if geometry.full_circle():
        share = share * redundancy_weights(geometry.positions(), geometry.shadow(radius))[None]
    elif arc >= np.pi + 2.0 * geometry.half_fan(radius) - 1e-9:
        share = parker_weights(np.mod(angles - start, 2.0 * np.pi)[:, None], fan[None], arc)
    return view_weights(angles, 2.0 * np.pi)[:, None] * share * np.cos(fan)[None]


def parker_weights(angle: np.ndarray, fan: np.ndarray, arc: float) -> np.ndarray:
    """Return Parker's weights (1982): smooth, and 1 in all for the two measurements of a ray.

    The ray at angle b and fan angle g is met again at ``b + pi - 2 g``, with the fan angle -g.

    Args:
        angle: angles b of the views from the start of the arc (radians).
        fan: fan angles g of the rays (radians).
        arc: length of the arc (radians), between pi plus the fan and 2 pi: Parker's own is pi plus the fan.
    """
    half = (arc - np.pi) / 2
    # Parker's fan angle runs the other way. Rays beyond the (virtual) fan miss the image: any weight will do.
    g = -np.clip(fan, -half * (1.0 - 1e-9), half * (1.0 - 1e-9))
    rise = np.sin(np.pi / 4 * np.clip(angle / (half - g), 0.0, 2.0)) ** 2
    fall = np.sin(np.pi / 4 * np.clip((arc - angle) / (half + g), 0.0, 2.0)) ** 2
    return np.minimum(rise, fall)


def fan_back_projection(
    filtered: Tensor, geometry: FanGeometry, shape: tuple[int, int], spacing: tuple[float, float]
) -> Tensor:
    """Return the weighted back-projection (X * Y, Z) of filtered views (Kak and Slaney 1988, section 3.4).

    A pixel reads each view where its ray meets the detector, linearly between bins, and weighs it by ``(R / L)^2``:
    L is its distance from the source, for the flat detector along the central ray. R is the source's distance.

    Args:
        filtered: views (V, D, Z) after weighting and the ramp filter.
        geometry: the fan.
        shape: pixels (X, Y).
        spacing: pixel size (mm).
    """

    def locate(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        across, along = pixel_coordinates(shape, spacing, np.asarray(geometry.angles[first:last]))
        along += geometry.source_distance
        if geometry.curved:
            at, squared = np.arctan2(across, along), across**2 + along**2
        else:
            at, squared = across / along, along**2
        position = (at * geometry.detector_distance - geometry.detector_offset) / geometry.detector_spacing
        return position + (geometry.detectors - 1) / 2, geometry.source_distance**2 / squared

    return back_projection(filtered, shape[0] * shape[1], locate)
