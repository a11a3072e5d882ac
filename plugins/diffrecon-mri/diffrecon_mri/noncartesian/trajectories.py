# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Radial and spiral trajectories, (samples, 2) in cycles per field of view, within [-N/2, N/2]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Angle between successive spokes, degrees: 180 over the golden ratio (Winkelmann et al. 2007,
#: doi 10.1109/TMI.2006.885337).
GOLDEN_ANGLE = 180.0 * 2.0 / (1.0 + math.sqrt(5.0))


def radial(shape: tuple[int, int], spokes: int, samples: int, *, golden: bool) -> Tensor:
    """Return spokes through the centre, one after the other.

    Args:
        shape: (X, Y).
        spokes: number of spokes; full sampling takes pi / 2 times the larger of X and Y.
        samples: samples a spoke; the one of index samples // 2 lies in the centre.
        golden: the golden angle between successive spokes instead of 180 degrees over their number.
    """
    turn = GOLDEN_ANGLE if golden else 180.0 / spokes
    angles = torch.deg2rad(torch.arange(spokes, dtype=torch.float64) * turn % 180.0)
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    k = torch.stack([torch.outer(angles.cos(), radius), torch.outer(angles.sin(), radius)], -1)
    return k.reshape(-1, 2) * torch.tensor(shape, dtype=torch.float64)


def spiral(shape: tuple[int, int], interleaves: int, turns: float, samples: int) -> Tensor:
    """Return Archimedean spirals from the centre outwards at constant angular speed, one after the other.

    Args:
        shape: (X, Y).
        interleaves: number of spirals, rotated against each other; full sampling takes interleaves times turns equal to
            half the larger of X and Y.
        turns: turns of each.
        samples: samples of each.
    """
    t = torch.arange(samples, dtype=torch.float64) / samples
    starts = torch.arange(interleaves, dtype=torch.float64) / interleaves
    angles = 2.0 * math.pi * (starts[:, None] + turns * t)
    k = torch.stack([angles.cos(), angles.sin()], -1) * (t / 2.0)[:, None]
    return k.reshape(-1, 2) * torch.tensor(shape, dtype=torch.float64)
