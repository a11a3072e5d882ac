# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Magnitudes are not negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.engine.problem.network_units import measures_image
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import Problem

_ITERATIONS = 200
#: Residual, relative to the measurement's norm, that counts as zero.
_EXACT = 1e-5


def is_magnitude(problem: Problem, intensity: IntensityMap) -> bool:
    """Say whether a volume consists of magnitudes: real, from k-space or from an image without negative values.

    Args:
        problem: the inverse problem, in network units.
        intensity: the map from network units, whose zero is that of the magnitudes.
    """
    operator, y = problem.operator, problem.measurement
    if operator.complex_volume or intensity.offset != 0.0:
        return False
    if operator.complex_measurement or not y.numel():
        return True
    return measures_image(operator) and not slabs.largest(float(not bool((y >= 0.0).all())))  # the same in all slabs


def nonnegative(problem: Problem, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return a volume without negative values that fits the measurement (nearly) as well as ``x``.

    Accelerated projected gradient steps on ``1/2 ||A x - y||^2`` over ``x >= 0`` from ``max(x, 0)``, of length
    ``1 / ||A^T A||`` (Beck and Teboulle 2009, doi 10.1137/080716542, section 4), until the residual is that of ``x`` or
    1e-5 of the measurement, 200 at most.

    Args:
        problem: the inverse problem, in network units.
        x: (C, X, Y, Z), real, network units.

    Returns:
        The volume, and for the record: the part of the voxels that were negative, and the relative residual
        ``||A x - y|| / ||y||`` before and after.
    """
    operator, y = problem.operator, problem.measurement
    negative = slabs.mean((x < 0.0).float())
    if not negative:
        return x, {}
    if not y.numel():
        return x.clamp(min=0.0), {"negative_voxels": negative}
    with torch.no_grad():
        size, residual = operator.measured_norm(y) or 1.0, operator(x) - y
        before, goal = operator.measured_norm(residual), slabs.norm_of_solve(residual)
        exact = _EXACT * (slabs.norm_of_solve(y) or 1.0)
        step, x, t = 1.0 / (operator.norm() or 1.0), x.clamp(min=0.0), 1.0
        last = x
        for iteration in range(_ITERATIONS + 1):
            residual = operator(x) - y
            if slabs.norm_of_solve(residual) <= max(goal, exact) or iteration == _ITERATIONS:
                break
            following = (1.0 + math.sqrt(1.0 + 4.0 * t * t)) / 2.0
            ahead = x + (t - 1.0) / following * (x - last)
            last, t = x, following
            x = (ahead - step * operator.adjoint(operator(ahead) - y)).clamp_(min=0.0)
    after = operator.measured_norm(residual)
    return x, {"negative_voxels": negative, "residual_before": before / size, "residual_after": after / size}
