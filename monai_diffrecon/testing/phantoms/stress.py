# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes whose structure runs across the slices of every plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.testing.phantoms.vessel_tree import grow_tree

#: Semi-axes of the background's ellipsoid as parts of the volume: along Z the first and last slice cut it.
_BODY = (0.46, 0.46, 0.65)
#: The same of the ellipsoid in which vessels grow.
_TREE = (0.38, 0.38, 0.42)
#: Amplitude of the background's shading, and width (voxels) of its edge.
_SHADING, _BODY_EDGE = 0.15, 2.0


def branching_vessels(
    shape: Sequence[int],
    *,
    seed: int = 0,
    root_radius: float = 3.5,
    min_radius: float = 1.0,
    length: float = 7.0,
    tortuosity: float = 0.06,
    brightness: float = 0.9,
    background: float = 0.25,
) -> Tensor:
    """Return a bright random tree of bifurcating vessels in a soft body.

    Args:
        shape: voxels along (X, Y, Z), 16 or more each.
        seed: seed of the tree; the same seed gives the same voxels.
        root_radius: radius of the first vessel (voxels).
        min_radius: no vessel is thinner (voxels), at most ``root_radius``.
        length: of a vessel between two bifurcations, in its radii.
        tortuosity: standard deviation of a vessel's bend (radians a voxel).
        brightness: value inside a vessel, 0 to 1.
        background: mean value of the body, 0 to 0.8; it is shaded by 15 %.

    Returns:
        The volume (1, X, Y, Z), float32, in network units: 0 to 1.

    Raises:
        ConfigError: an option out of its range.
    """
    size = _checked_shape(shape)
    check_integer(seed, "seed", low=0)
    check_number(root_radius, "root_radius", low=0.5)
    check_number(min_radius, "min_radius", low=0.5, high=root_radius)
    check_number(length, "length", low=0.0, open_low=True)
    check_number(tortuosity, "tortuosity", low=0.0, high=1.0)
    branches = grow_tree(
        [(n - 1) / 2 for n in size],
        [part * n for part, n in zip(_TREE, size, strict=True)],
        np.random.Generator(np.random.PCG64(seed)),
        root_radius=root_radius,
        min_radius=min_radius,
        length=length,
        tortuosity=tortuosity,
    )
    depth = np.full(size, -np.inf)
    for branch in branches:
        _bury(depth, branch.points, branch.radius)
    return _painted(depth, brightness, background)


def twisting_tube(
    shape: Sequence[int],
    *,
    turns: float = 3.0,
    radius: float = 2.0,
    helix_radius: float | None = None,
    brightness: float = 0.9,
    background: float = 0.25,
) -> Tensor:
    """Return a bright tube that winds about a straight one along Z, in a soft body.

    In slice k the middle of the winding tube lies at the angle ``2 pi turns k / (Z - 1)`` from X towards Y, about the
    middle of the slice.

    Args:
        shape: voxels along (X, Y, Z), 16 or more each.
        turns: turns from the first to the last slice; negative ones wind the other way.
        radius: of both tubes (voxels).
        helix_radius: distance of the winding tube from the straight one (voxels); None: 0.15 of the shorter of X, Y.
        brightness: value inside a tube, 0 to 1.
        background: mean value of the body, 0 to 0.8; it is shaded by 15 %.

    Returns:
        The volume (1, X, Y, Z), float32, in network units: 0 to 1.

    Raises:
        ConfigError: an option out of its range.
    """
    size = _checked_shape(shape)
    check_number(turns, "turns")
    check_number(radius, "radius", low=0.5)
    away = 0.15 * min(size[:2]) if helix_radius is None else helix_radius
    check_number(away, "helix_radius", low=0.0, high=min(size[:2]) / 2 - radius)
    x, y, last = (size[0] - 1) / 2, (size[1] - 1) / 2, size[2] - 1
    # Chords of half a voxel are off by less than 1/100 voxel from a helix of radius 4 or more.
    pieces = math.ceil(2.0 * math.hypot(2.0 * math.pi * abs(turns) * away, last))
    z = np.linspace(0.0, last, pieces + 1)
    angle = 2.0 * math.pi * turns * z / last
    depth = np.full(size, -np.inf)
    _bury(depth, np.stack([x + away * np.cos(angle), y + away * np.sin(angle), z], axis=1), radius)
    _bury(depth, np.array([[x, y, 0.0], [x, y, last]]), radius)
    return _painted(depth, brightness, background)


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ConfigError("not a shape", where="shape", expected="three numbers of voxels", got=tuple(shape))
    x, y, z = (check_integer(n, "shape", low=16) for n in shape)
    return x, y, z


def _bury(depth: np.ndarray, points: np.ndarray, radius: float) -> None:
    """Raise ``depth`` (X, Y, Z) to how deep (voxels) each voxel lies within a tube along the points (N, 3), in place.

    The tube is a union of capsules; outside of it depths are negative, and right up to 1.5 voxels away.
    """
    reach = radius + 1.5
    for a, b in pairwise(points):
        low = np.maximum(np.floor(np.minimum(a, b) - reach).astype(int), 0)
        high = np.minimum(np.ceil(np.maximum(a, b) + reach).astype(int) + 1, depth.shape)
        if (high <= low).any():
            continue
        box = tuple(slice(first, end) for first, end in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1) - a
        axis = b - a
        along = np.clip(grid @ axis / max(float(axis @ axis), 1e-12), 0.0, 1.0)
        distance = np.linalg.norm(grid - along[..., None] * axis, axis=-1)
        depth[box] = np.maximum(depth[box], radius - distance)


def _painted(depth: np.ndarray, brightness: float, background: float) -> Tensor:
    """Return the volume (1, X, Y, Z): tubes of that depth over the body, with an edge of one voxel."""
    check_number(brightness, "brightness", low=0.0, high=1.0)
    check_number(background, "background", low=0.0, high=0.8)
    inside = np.clip(depth + 0.5, 0.0, 1.0)
    painted = (1.0 - inside) * background * _body(depth.shape) + inside * brightness
    return torch.from_numpy(painted.astype(np.float32))[None]


def _body(shape: tuple[int, ...]) -> np.ndarray:
    """Return an ellipsoid (X, Y, Z) of mean about 1 with a slow shading and a soft edge."""
    parts = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / n for n in shape), indexing="ij")
    level = np.sqrt(sum((p / half) ** 2 for p, half in zip(parts, _BODY, strict=True)))
    edge = _BODY_EDGE / (min(shape[:2]) * _BODY[0])
    ramp = np.clip((1.0 - level) / edge + 0.5, 0.0, 1.0)
    shading = 1.0 + _SHADING * np.sin(math.pi * (parts[0] + 0.5 * parts[1])) * np.cos(math.pi * (parts[1] - parts[2]))
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp) * shading)
