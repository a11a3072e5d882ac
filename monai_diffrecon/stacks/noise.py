# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The noise of thick slices, from themselves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Pixels of a patch, and the part of the brightest signal (99th percentile) above which it shows tissue.
_PATCH, _TISSUE = 8, 0.1
#: Share of the patches that are taken for smooth: in the others there is more than noise.
_SMOOTH = 0.2
#: The median absolute deviation of a Gaussian of standard deviation 1.
_MAD = 0.6745


def noise_of(image: Tensor, axis: int) -> float:
    """Return the standard deviation of the noise of an image (X, Y, Z) with slices along an axis; 0 if it is too small.

    By the response to a mask that is blind to constants, ramps and straight edges along the axes (Immerkaer, Comput Vis
    Image Underst 64(2), 1996, equation 1), in the patches of tissue where it is smallest: structure only adds to it.
    """
    slices = image.movedim(axis, 0).double()
    if min(slices.shape[1:]) < _PATCH + 2:
        return 0.0
    response = _second_difference(_second_difference(slices, 1), 2) / 6.0
    level = slices[:, 1:-1, 1:-1]
    patches = response.abs().unfold(1, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH).flatten(3)
    means = level.unfold(1, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH).flatten(3).mean(-1)
    tissue = means > _TISSUE * float(np.percentile(slices.numpy(), 99))
    spreads = patches.median(-1).values[tissue] / _MAD
    return float(torch.quantile(spreads, _SMOOTH)) if len(spreads) else 0.0


def _second_difference(x: Tensor, dim: int) -> Tensor:
    return x.diff(dim=dim).diff(dim=dim)
