# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Places for signals, drawn by a seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Point, voxel_centres
from monai_diffrecon.protocols import VolumeGeometry

#: Least distance of a signal from the outside of the tissue, and of two signals from each other, in mm.
_MARGIN, _GAP = 2.0, 6.0


def places(
    allowed: np.ndarray, geometry: VolumeGeometry, radii: Sequence[float], *, most: int, seed: int
) -> Iterator[tuple[int, Point]]:
    """Yield places for balls of several sizes, in turn, until none fits any more.

    Args:
        allowed: (X, Y, Z), bool, the region they must lie in.
        geometry: its grid.
        radii: of the balls, in mm.
        most: most places.
        seed: of the order and of the places within a voxel.

    Yields:
        The number of the ball and its centre (mm).
    """
    generator = np.random.default_rng([seed, 4])
    # Depth is from voxel to voxel, and places lie anywhere within one: together up to a voxel too much.
    margin = max(_MARGIN, 1.05 * max(geometry.spacing))
    depth = distance_transform_edt(np.pad(allowed, 1), sampling=geometry.spacing)[1:-1, 1:-1, 1:-1]
    indices = generator.permutation(np.argwhere(depth > min(radii) + margin))
    depth = depth[tuple(indices.T)]
    points = np.stack([c[i] for c, i in zip(voxel_centres(geometry), indices.T, strict=True)], axis=1)
    points += (generator.random(points.shape) - 0.5) * geometry.spacing
    free = depth - margin  # radius of the largest ball that fits around each point
    found, full = 0, set[int]()
    # The largest first in each round: they find room last.
    for number in itertools.cycle(sorted(range(len(radii)), key=lambda i: -radii[i])):
        if len(full) == len(radii) or found == most:
            return
        fits = np.flatnonzero(free >= radii[number])
        if not len(fits):
            full.add(number)
            continue
        point = points[fits[0]]
        free = np.minimum(free, np.linalg.norm(points - point, axis=1) - radii[number] - _GAP)
        found += 1
        yield number, (float(point[0]), float(point[1]), float(point[2]))
