# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Density compensation of any trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffrecon_mri.noncartesian.nufft import nufft, nufft_adjoint

#: Relative error of the transforms; far below that of the weights.
_EPS = 1e-4


def density_compensation(points: Tensor, shape: Sequence[int], iterations: int = 20) -> Tensor:
    """Return weights (samples,) such that the weighted adjoint inverts a fully sampled transform.

    ``w <- w / (psi * w)`` (Pipe and Menon 1999, Magn Reson Med 41:179, eq. 7), with psi the transform of a triangle
    twice as wide as the field of view: positive, 1 at 0, and 0 at the distance of Cartesian neighbours, where the
    weights therefore are 1.

    Args:
        points: angular frequencies (2, samples), radians a voxel.
        shape: (X, Y).
        iterations: number of iterations.
    """
    points = points.float()
    double = (2 * int(shape[0]), 2 * int(shape[1]))
    window = torch.outer(_triangle(int(shape[0])), _triangle(int(shape[1]))).to(points.device)
    # The two normalizations 1 / sqrt(4 X Y) against the sum of the window, X Y.
    window = window * (math.sqrt(double[0] * double[1]) ** 2 / float(window.sum()))
    weights = torch.ones(points.shape[1], device=points.device)
    for _ in range(iterations):
        spread = nufft(nufft_adjoint(weights + 0j, points, double, _EPS) * window, points, _EPS).real
        weights = weights / spread.clamp_min(1e-6)
    return weights


def _triangle(n: int) -> Tensor:
    return 1.0 - (torch.arange(2 * n, dtype=torch.float32) - n).abs() / n
