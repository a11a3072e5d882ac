# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A random tree of vessels, as lines with radii."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Part of the way from the centre to the surface of its ellipsoid beyond which a vessel turns back, and how sharply.
_TURN_FROM, _TURN = 0.7, 1.2
#: How much of its bend a vessel keeps from one step (a voxel) to the next.
_KEPT_BEND = 0.9


@dataclass(frozen=True)
class Branch:
    """A vessel between two bifurcations.

    Attributes:
        points: its middle line (N, 3), voxels, a voxel apart; the first is the last of its parent.
        radius: voxels.
        parent: index of the branch it comes from, -1 for the root.
    """

    points: np.ndarray
    radius: float
    parent: int


def murray_angles(radius: float, first: float, second: float) -> tuple[float, float]:
    """Return the angles (radians) of two daughters to their parent that cost the least work (Murray 1926).

    They follow from ``r^3 = r1^3 + r2^3`` and a cost of length that rises with ``r^2``; doi 10.1085/jgp.9.6.835.
    """

    def angle(own: float, other: float) -> float:
        cosine = (radius**4 + own**4 - other**4) / (2.0 * radius**2 * own**2)
        return math.acos(min(max(cosine, -1.0), 1.0))

    return angle(first, second), angle(second, first)


def grow_tree(
    centre: Sequence[float],
    axes: Sequence[float],
    rng: np.random.Generator,
    *,
    root_radius: float,
    min_radius: float,
    length: float,
    tortuosity: float,
) -> list[Branch]:
    """Grow a tree that bifurcates until its vessels are thin, within an ellipsoid.

    The root starts on the equator (the plane of X and Y) and runs to the centre. The daughters' radii obey Murray's
    law ``r^3 = r1^3 + r2^3`` with a random ratio, their angles his principle of least work, in a random plane.

    Args:
        centre: centre of the ellipsoid (voxels).
        axes: its three semi-axes (voxels).
        rng: where random numbers come from.
        root_radius: voxels.
        min_radius: no vessel is thinner (voxels).
        length: of a branch, in its radii, give or take a quarter.
        tortuosity: standard deviation of the bend (radians a voxel).

    Returns:
        The branches, parents before their daughters.
    """
    middle, half = np.asarray(centre, dtype=float), np.asarray(axes, dtype=float)
    azimuth = rng.uniform(0.0, 2.0 * math.pi)
    start = middle + half * np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    branches: list[Branch] = []
    waiting = deque([(start, _unit(middle - start), root_radius, -1)])
    while waiting:
        origin, direction, radius, parent = waiting.popleft()
        steps = max(3, round(length * radius * rng.uniform(0.75, 1.25)))
        points = _wander(origin, direction, steps, middle, half, tortuosity, rng)
        branches.append(Branch(points, radius, parent))
        ratio = rng.uniform(0.6, 1.0)
        first = radius / (1.0 + ratio**3) ** (1.0 / 3.0)
        second = ratio * first
        if second < min_radius:
            continue
        tangent = _unit(points[-1] - points[-2])
        side = _unit(np.cross(tangent, rng.standard_normal(3)))
        for own, angle, sign in zip((first, second), murray_angles(radius, first, second), (1.0, -1.0), strict=True):
            turned = math.cos(angle) * tangent + sign * math.sin(angle) * side
            waiting.append((points[-1], turned, own, len(branches) - 1))
    return branches


def _wander(
    origin: np.ndarray,
    direction: np.ndarray,
    steps: int,
    middle: np.ndarray,
    half: np.ndarray,
    tortuosity: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the points (steps + 1, 3) of a smooth random walk; its first step has the direction given."""
    points, bend = [origin], np.zeros(3)
    for _ in range(steps):
        points.append(points[-1] + direction)
        # The bend, not the direction, is what is drawn: the curve has a smooth tangent.
        bend = _KEPT_BEND * bend + tortuosity * math.sqrt(1.0 - _KEPT_BEND**2) * rng.standard_normal(3)
        outwards = (points[-1] - middle) / half
        beyond = max(float(np.linalg.norm(outwards)) - _TURN_FROM, 0.0)
        direction = _unit(direction + bend - _TURN * beyond * _unit(outwards / half))
    return np.stack(points)


def _unit(v: np.ndarray) -> np.ndarray:
    return np.asarray(v / max(float(np.linalg.norm(v)), 1e-12))
