# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The three-dimensional total variation of a volume with voxels of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffrecon.numerics.finite_differences import forward_difference, forward_difference_adjoint


def spacing_weights(spacing: Sequence[float]) -> tuple[float, ...]:
    """Return what turns voxel differences into slopes per smallest voxel: ``min(spacing) / spacing[axis]``."""
    return tuple(min(spacing) / s for s in spacing)


def gradient(x: Tensor, weights: Sequence[float], boundary: str = "neumann") -> list[Tensor]:
    """Return the weighted differences of a volume (C, X, Y, Z) along X, Y and Z, each of its shape."""
    return [forward_difference(x, axis + 1, boundary).mul_(weight) for axis, weight in enumerate(weights)]


def gradient_adjoint(v: Sequence[Tensor], weights: Sequence[float], boundary: str = "neumann") -> Tensor:
    """Return the volume (C, X, Y, Z) that is the exact adjoint of :func:`gradient` at ``v``."""
    total = torch.zeros_like(v[0])
    for axis, (part, weight) in enumerate(zip(v, weights, strict=True)):
        total.add_(forward_difference_adjoint(part, axis + 1, boundary), alpha=weight)
    return total


def gradient_normal(x: Tensor, weights: Sequence[float], boundary: str = "neumann") -> Tensor:
    """Return ``K^T K x`` for the K of :func:`gradient`, one axis in memory at a time.

    Conjugate gradients spend their time here, so the Neumann case does without the zero-padded differences.
    """
    total = torch.zeros_like(x)
    for axis, weight in enumerate(weights):
        dim, n = axis + 1, x.shape[axis + 1]
        if boundary == "periodic":
            difference = forward_difference(x, dim, boundary)
            total.add_(forward_difference_adjoint(difference, dim, boundary), alpha=weight**2)
        else:
            inner = x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1)
            total.narrow(dim, 0, n - 1).sub_(inner, alpha=weight**2)
            total.narrow(dim, 1, n - 1).add_(inner, alpha=weight**2)
    return total


def project_dual_(v: Sequence[Tensor], threshold: float, *, isotropic: bool) -> None:
    """Replace ``v`` by ``v - prox(v)``, its projection onto the dual ball of radius ``threshold``, in place.

    By Moreau's identity this is the scaled dual variable of ADMM for a shrinkage by ``threshold``.

    Args:
        v: differences along the three axes.
        threshold: radius, in the units of ``v``.
        isotropic: one ball for the three components of a voxel (l2,1 norm); else one for each (l1 norm).
    """
    if isotropic:
        magnitude = torch.zeros_like(v[0].real)
        for part in v:
            magnitude.add_(part.abs().square_())
        scale = threshold / magnitude.sqrt_().clamp_(min=threshold) if threshold > 0.0 else torch.zeros_like(magnitude)
        for part in v:
            part.mul_(scale)
        return
    for part in v:
        if part.is_complex():
            project_dual_([part], threshold, isotropic=True)
        else:
            part.clamp_(-threshold, threshold)


def total_variation(x: Tensor, weights: Sequence[float], boundary: str = "neumann", *, isotropic: bool = True) -> float:
    """Return the l2,1 (isotropic) or l1 norm of the gradient of a volume (C, X, Y, Z)."""
    parts = gradient(x, weights, boundary)
    if isotropic:
        return float(sum(part.abs().square() for part in parts).sqrt().sum())  # type: ignore[union-attr]
    return float(sum(float(part.abs().sum()) for part in parts))
