# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Conjugate gradients for symmetric positive semi-definite systems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.protocols.operator import Operator

#: Parts in which a multiple of a volume is added to another, or volumes are converted to double precision.
_PARTS = 8
#: Numbers that are converted at once, few enough for the processor's cache.
_CACHED = 2**16


def inner(u: Tensor, v: Tensor) -> float:
    """Return ``Re <u, v>``, for the solution of a linear system.

    Summed in double precision: conjugate gradients amplify the round-off of these sums, and with it the order of
    summation, which depends on the slabs.
    """
    if u.is_complex():
        u, v = torch.view_as_real(u), torch.view_as_real(v)
    u, v = u.reshape(-1), v.reshape(-1)
    size = max(min(_CACHED, len(u) // _PARTS), 1)
    sums = []
    for a, b in zip(u.split(size), v.split(size), strict=True):
        double = a.double()
        sums.append(torch.dot(double, double if u.data_ptr() == v.data_ptr() else b.double()))
    return slabs.total_of_solve(float(torch.stack(sums).sum()))


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    x: Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-4,
    magnitude: float = 0.0,
) -> Tensor:
    """Improve ``x`` towards the solution of ``H x = rhs`` (Hestenes and Stiefel 1952).

    The stop is relative to the first residual, and that matters: the normal operators of Cartesian MRI and of
    slice averaging have two or three distinct eigenvalues, so the residual is round-off after as many
    iterations, and further ones would divide round-off by round-off.

    Args:
        apply: the map H, symmetric positive semi-definite under ``Re <u, v>``.
        rhs: right-hand side.
        x: start; left untouched.
        iterations: most iterations.
        tolerance: stop when ``||rhs - H x|| <= tolerance * ||rhs - H x_start||``, or when it no longer exceeds
            the round-off of ``rhs``.
        magnitude: norm of what ``rhs`` is the small difference of, if it is one: its round-off is that of these.
    """
    magnitude = max(magnitude, inner(rhs, rhs) ** 0.5)
    return _descend(apply, x.clone(), rhs - apply(x), iterations, tolerance, magnitude)


def conjugate_gradient_from_zero(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-4,
    magnitude: float = 0.0,
) -> Tensor:
    """Return what :func:`conjugate_gradient` makes of ``x = 0``, with two volumes and one product less.

    Args:
        apply: as there.
        rhs: right-hand side; overwritten.
        iterations: as there.
        tolerance: as there.
        magnitude: as there.
    """
    return _descend(apply, torch.zeros_like(rhs), rhs, iterations, tolerance, magnitude)


def _descend(
    apply: Callable[[Tensor], Tensor],
    x: Tensor,
    residual: Tensor,
    iterations: int,
    tolerance: float,
    magnitude: float,
) -> Tensor:
    """Iterate, and write into ``x`` and ``residual``.

    A map may return its argument, or keep it, so ``direction`` and ``h`` are never written to.
    """
    rr = inner(residual, residual)
    eps = torch.finfo(residual.dtype).eps
    floor = max(tolerance**2 * rr, (4 * eps) ** 2 * max(rr, magnitude**2))
    direction = residual.clone()
    for _ in range(iterations):
        if rr <= floor:
            break
        h = apply(direction)
        curvature = inner(direction, h)
        if not curvature > 0.0:
            break
        alpha = rr / curvature
        _add(x, alpha, direction)
        _add(residual, -alpha, h)
        del h
        rr, previous = inner(residual, residual), rr
        direction = ((rr / previous) * direction).add_(residual)
    return x


def _add(x: Tensor, factor: float, y: Tensor) -> None:
    """Add ``factor * y`` to ``x``: in parts, which need little memory, and rounded twice, as ``x + factor * y`` is."""
    dim = next((i for i, size in enumerate(x.shape) if size >= _PARTS), 0)
    size = -(-x.shape[dim] // _PARTS)
    for start in range(0, x.shape[dim], size):
        length = min(size, x.shape[dim] - start)
        x.narrow(dim, start, length).add_(factor * y.narrow(dim, start, length))


def project_on_measured(
    operator: Operator, y: Tensor, x: Tensor, *, iterations: int = 50, tolerance: float = 1e-6
) -> Tensor:
    """Return the volume nearest to ``x`` that explains ``y``: ``x + A^+ (y - A x)``.

    By conjugate gradients on the normal equations from x, which never leave x plus the range of A^T.
    """
    return conjugate_gradient(operator.normal, operator.adjoint(y), x, iterations=iterations, tolerance=tolerance)


def by_discrepancy(
    solve: Callable[[float, Tensor], Tensor],
    misfit: Callable[[Tensor], float],
    x0: Tensor,
    *,
    target: float,
    low: float,
    high: float,
    tolerance: float = 0.02,
    evaluations: int = 12,
) -> tuple[Tensor, float]:
    """Return the solution whose misfit is ``target``, and its weight (Morozov's discrepancy principle, 1966).

    The misfit rises with the weight of x0, so the weight is found by bisection of its logarithm.

    Args:
        solve: ``(weight, start) -> x``.
        misfit: norm of the residual of a volume.
        x0: the solution for an infinite weight; returned with it when it fits as well as the noise allows.
        target: norm of the noise of the measurement.
        low: smallest weight.
        high: largest weight.
        tolerance: relative tolerance of the misfit.
        evaluations: most solutions.
    """
    if misfit(x0) <= target:
        return x0, float("inf")
    x, weight = x0, low
    for _ in range(evaluations):
        weight = (low * high) ** 0.5
        x = solve(weight, x0)
        ratio = misfit(x) / target
        if abs(ratio - 1.0) <= tolerance:
            break
        low, high = (low, weight) if ratio > 1.0 else (weight, high)
    return x, weight
