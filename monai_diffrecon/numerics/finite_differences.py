# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Forward differences along one axis of a volume, and their exact adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """Return ``argmin_u threshold |u| + 1/2 |u - v|^2`` elementwise; complex values keep their phase."""
    if v.is_complex():
        magnitude = v.abs()
        return v * ((magnitude - threshold).clamp_min(0) / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny))
    limit = torch.as_tensor(threshold, dtype=v.dtype, device=v.device)
    return v - v.clamp(-limit, limit)


BOUNDARIES = ("neumann", "periodic")


def check_boundary(boundary: str, where: str) -> str:
    """Return ``boundary`` if it is known.

    Raises:
        ConfigError: it is not.
    """
    if boundary not in BOUNDARIES:
        raise ConfigError("unknown boundary", where=where, expected=" or ".join(BOUNDARIES), got=repr(boundary))
    return boundary


def forward_difference(x: Tensor, dim: int, boundary: str = "neumann") -> Tensor:
    """Return ``(D x)[k] = x[k+1] - x[k]`` along ``dim``; same shape.

    The last entry is 0 (Neumann) or ``x[0] - x[-1]`` (periodic, as DiffusionMBIR's published code has it).
    """
    if boundary == "periodic":
        _refuse_periodic(dim)
        return torch.roll(x, -1, dim) - x

    def difference(x: Tensor) -> Tensor:
        n = x.shape[dim]
        d = torch.zeros_like(x)
        d.narrow(dim, 0, n - 1).copy_(x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1))
        return d

    return slabs.with_neighbours(difference, x, dim, 0, 1)


def forward_difference_adjoint(v: Tensor, dim: int, boundary: str = "neumann") -> Tensor:
    """Return ``D^T v`` for the ``D`` of :func:`forward_difference`."""
    if boundary == "periodic":
        _refuse_periodic(dim)
        return torch.roll(v, 1, dim) - v

    def adjoint(v: Tensor) -> Tensor:
        n = v.shape[dim]
        x = torch.zeros_like(v)
        inner = v.narrow(dim, 0, n - 1)
        x.narrow(dim, 0, n - 1).sub_(inner)
        x.narrow(dim, 1, n - 1).add_(inner)
        return x

    return slabs.with_neighbours(adjoint, v, dim, 1, 1)


def _refuse_periodic(dim: int) -> None:
    slabs.refuse_across(dim, "a periodic boundary", "boundary", "set boundary to neumann")


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
        dim = axis + 1
        if boundary == "periodic":
            difference = forward_difference(x, dim, boundary)
            total.add_(forward_difference_adjoint(difference, dim, boundary), alpha=weight**2)
        elif slabs.cut_along(dim):
            own = partial(_second_differences, dim=dim, weight=weight**2)
            total.add_(slabs.with_neighbours(own, x, dim, 1, 1))
        else:
            _add_second_differences(total, x, dim, weight**2)
    return total


def _second_differences(x: Tensor, dim: int, weight: float) -> Tensor:
    total = torch.zeros_like(x)
    _add_second_differences(total, x, dim, weight)
    return total


def _add_second_differences(total: Tensor, x: Tensor, dim: int, weight: float) -> None:
    """Add ``weight D^T D x`` to ``total``."""
    n = x.shape[dim]
    inner = x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1)
    total.narrow(dim, 0, n - 1).sub_(inner, alpha=weight)
    total.narrow(dim, 1, n - 1).add_(inner, alpha=weight)


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
        return slabs.total(float(sum(part.abs().square() for part in parts).sqrt().sum()))  # type: ignore[union-attr]
    return slabs.total(float(sum(float(part.abs().sum()) for part in parts)))
