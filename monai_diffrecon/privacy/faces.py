# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whether a volume of a head shows a face, by which a person can be recognized."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

_GRID = 4.0  # mm: coarse enough to be quick and to average noise away, fine enough for a nose
_TISSUE = 0.14  # of the range from air to bright tissue
_HALF_BAND = 14.0  # mm beside the middle: nose, mouth and chin
_RADIUS = 85.0  # mm, of a head that is taken for a ball
_WIDEST = 260.0  # mm: anything wider is not a head
_LOWEST_SLAB = 90.0  # mm
_EYES = 95.0  # mm below the vertex: from here on downwards there is face
_FACE = 32.0  # mm: as much of a profile shows eyes and nose
_RECEDES = 15.0  # mm behind the forehead: a face does not, the base of a brain does


def shows_face(volume: Tensor, spacing: Sequence[float]) -> bool:
    """Say whether the surface of a head has a face.

    The front of the head is followed downwards in the middle. Below the eyes a face stays level with the forehead or
    stands out; where it was removed, and in a brain without skull, the front lies centimetres behind it. Of a head
    whose vertex is cut off the missing height is estimated from the uppermost slice.

    This is a hint, not a safeguard: a small field of view, noise or an unusual head position may hide a recognizable
    face from it. Do not use it for body scans.

    Args:
        volume: (1, X, Y, Z) in RAS+ order, MR or CT, real, any unit in which air is darkest.
        spacing: of the voxels, mm.

    Returns:
        False as well for what cannot show one: a slab of less than 90 mm, nothing but one value.
    """
    inside, step = _head(volume, spacing)
    if not inside.any():
        return False
    across, _, up = (np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    width, height = (float(np.ptp(a) + 1) * s for a, s in ((across, step[0]), (up, step[2])))
    if height < _LOWEST_SLAB or width > _WIDEST:
        return False
    middle, half = float(across[0] + across[-1]) / 2, _HALF_BAND / step[0]
    band = np.asarray(inside[max(0, math.ceil(middle - half)) : math.floor(middle + half) + 1].any(axis=0))
    levels = up[::-1]  # from the vertex down
    front = np.array([np.flatnonzero(band[:, z])[-1] if band[:, z].any() else -np.inf for z in levels]) * step[1]
    below = (levels[0] - levels) * step[2] + _missing(float(inside[:, :, levels[0]].sum()) * step[0] * step[1])
    forehead = front[below < _EYES].max(initial=-np.inf)
    face = (below >= _EYES) & (front >= forehead - _RECEDES)
    return bool(face.sum() * step[2] >= _FACE)


def _head(volume: Tensor, spacing: Sequence[float]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return the largest piece of tissue (X, Y, Z) on a coarse grid, and the grid's spacing (mm)."""
    plain = torch.as_tensor(volume).as_subclass(Tensor).detach()[None].to("cpu", torch.float32)
    shape = [max(1, round(n * s / _GRID)) for n, s in zip(plain.shape[2:], spacing, strict=True)]
    coarse = torch.nn.functional.interpolate(plain, size=shape, mode="area")[0, 0].numpy()
    step = tuple(n * s / m for n, s, m in zip(plain.shape[2:], spacing, shape, strict=True))
    air, bright = np.percentile(coarse, (1, 99))
    pieces, count = label(coarse > air + _TISSUE * (bright - air))
    if not count:
        return np.zeros(coarse.shape, dtype=bool), step
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()), step


def _missing(area: float) -> float:
    """Return how far below the vertex (mm) a horizontal section of a head of an area (mm^2) lies.

    A head is flatter on top than a ball, by a fifth in whole heads.
    """
    return 0.8 * (_RADIUS - math.sqrt(max(0.0, _RADIUS**2 - area / math.pi)))


#: What the record and MLflow say of such a volume; a log puts the name of the case before it.
FACE_NOTICE = "the volume shows a face, by which a person can be recognized; deface it before it leaves this machine"
#: What a network was trained on (``diffrecon.anatomy`` of the metadata) -> whether its volumes may show a face.
ANATOMIES = {"head": True, "brain": True, "body": False}


def face_notice(volume: Tensor, spacing: Sequence[float], anatomy: str | None = None) -> str | None:
    """Return the notice, or None for a volume that shows no face.

    Args:
        volume: (1, X, Y, Z) in RAS+ order, real; of a complex volume the magnitude.
        spacing: of the voxels, mm.
        anatomy: what the network was trained on; None when the bundle does not say, which asks as for a head. A
            network of brains is given whole heads as well.
    """
    if not ANATOMIES.get(anatomy or "head", True):
        return None
    return FACE_NOTICE if shows_face(volume, spacing) else None
