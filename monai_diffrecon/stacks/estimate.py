# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What stacks say of the volume without any network, for aligning them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.operators._slice_profile import profile_samples
from monai_diffrecon.operators._stack_points import Stack, affine_of
from monai_diffrecon.operators.stacks import Stacks
from monai_diffrecon.protocols import VolumeGeometry

#: Weight of the smoothness, relative to the norm of the operator: of any size that is small.
_SMOOTHNESS = 0.01
_ITERATIONS = 12


@dataclass(frozen=True)
class Part:
    """One stack of an estimate.

    Attributes:
        operator: of this stack alone.
        y: its voxels (N,).
        weights: their inverse variances (N,).
    """

    operator: Stacks
    y: Tensor
    weights: Tensor


def smooth_estimate(parts: Sequence[Part]) -> Tensor:
    """Return the volume (1, X, Y, Z) that explains some stacks by weighted least squares and is smooth."""

    def back(measured: Callable[[Part], Tensor]) -> Tensor:
        return torch.stack([part.operator.adjoint(part.weights * measured(part)) for part in parts]).sum(0)

    # Rows of the operator sum to 1, so that its norm is at most the largest sum of a column.
    largest = float(back(lambda part: torch.ones_like(part.y)).max())

    def apply(x: Tensor) -> Tensor:
        return back(lambda part: part.operator(x)) + _SMOOTHNESS * largest * _roughness(x)

    start = torch.stack([part.operator.initial(part.y) for part in parts]).mean(0)
    return conjugate_gradient(apply, back(lambda part: part.y), start, iterations=_ITERATIONS)


def as_measured(x: Tensor, geometry: VolumeGeometry, stack: Stack, pose: np.ndarray, profile: str) -> np.ndarray:
    """Return a volume (X, Y, Z) averaged along the slice-selection profile of a stack, on the volume's own grid."""
    along, weights = profile_samples(stack.thickness, min(geometry.spacing), profile)
    normal = (pose @ stack.affine)[:3, stack.axis]
    normal = np.linalg.solve(affine_of(geometry)[:3, :3], normal / np.linalg.norm(normal))  # voxels of a mm along it
    volume = x[0].numpy()
    shifted = (
        ndimage.shift(volume, -at * normal, order=1, mode="nearest") * w for at, w in zip(along, weights, strict=True)
    )
    return np.asarray(sum(shifted), dtype=np.float32)


def _roughness(x: Tensor) -> Tensor:
    """Return D^T D x of forward differences along all axes, which end at the edge."""
    out = torch.zeros_like(x)
    for dim in (1, 2, 3):
        step = x.diff(dim=dim)
        size = step.shape[dim]
        out.narrow(dim, 0, size).sub_(step)
        out.narrow(dim, 1, size).add_(step)
    return out
