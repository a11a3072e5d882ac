# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks of perpendicular planes that see the mean of neighbouring slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_diffrecon.errors.options import check_number
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.protocols import PlaneDenoiser
from monai_diffrecon.protocols.geometry import PLANE_AXIS

#: The mean becomes wider by this power of the noise level.
GROWTH = 0.6
#: A narrower mean, in slices, is the slice itself.
NARROWEST = 0.3


class PerpendicularNeighboursPrior(PerpendicularPrior):
    """``perpendicular`` for white noise: networks see each slice averaged with its neighbours.

    Neighbouring slices are alike and their noise is not, so a mean over them has less noise, which the network is
    told. The mean is a Gaussian of ``width * sigma ** 0.6`` slices (standard deviation), so that it is wide where only
    coarse structure can be seen, and ends with the noise. For drawing volumes from noise: errors of a reconstruction
    are alike in neighbouring slices, and do not average out.

    Args:
        K: as of ``perpendicular``.
        primary: as of ``perpendicular``.
        share: as of ``perpendicular``.
        width: standard deviation in slices at noise level 1 in network units; 0 for none.
        widest: largest standard deviation in slices.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        K: int | float | str = 2,
        primary: str | Sequence[str] | None = None,
        share: Mapping[str, str] | None = None,
        width: float = 1.4,
        widest: float = 4.0,
    ) -> None:
        super().__init__(K, primary, share)
        self.width = check_number(width, "prior#width", low=0.0)
        self.widest = check_number(widest, "prior#widest", low=0.0)

    def _call(self, plane: PlaneDenoiser, x: Tensor, sigma: float) -> Tensor:
        width = min(self.width * sigma**GROWTH, self.widest)
        mean, left = (x, 1.0) if width < NARROWEST else mean_of_neighbours(x, PLANE_AXIS[plane.plane], width)
        return plane(mean, sigma * left)


def mean_of_neighbours(x: Tensor, axis: int, width: float) -> tuple[Tensor, float]:
    """Return the Gaussian mean of neighbouring slices, and what it leaves of the standard deviation of white noise.

    Args:
        x: volume (C, X, Y, Z); its first and last slice are repeated.
        axis: 0, 1 or 2 for X, Y, Z: the axis across the slices.
        width: standard deviation of the Gaussian in slices.
    """
    reach = int(4.0 * width + 0.5)
    # Here and on the device: a copy of either would wait for the device.
    weights = [math.exp(-0.5 * (i / width) ** 2) for i in range(-reach, reach + 1)]
    left = math.sqrt(math.fsum(w * w for w in weights)) / math.fsum(weights)
    offsets = torch.arange(-reach, reach + 1, dtype=x.real.dtype, device=x.device)
    kernel = torch.softmax(-0.5 * (offsets / width) ** 2, dim=0).to(x.dtype)
    lines = x.movedim(1 + axis, -1)
    # Edges are repeated rather than mirrored: the mean may be wider than the volume.
    longer = F.pad(lines.flatten(0, -2)[:, None], (reach, reach), mode="replicate")
    mean = F.conv1d(longer, kernel[None, None]).reshape(lines.shape).movedim(-1, 1 + axis)
    return mean.contiguous(), left
