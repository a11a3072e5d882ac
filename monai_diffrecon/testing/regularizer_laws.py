# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every regularizer must obey."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import inner
from monai_diffrecon.protocols import Regularizer, VolumeGeometry


def check_regularizer(
    regularizer: Regularizer, geometry: VolumeGeometry, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> None:
    """Bind a regularizer and check the laws.

    K is linear, ``<K x, v> = <x, K^T v>``; the proximal map is firmly nonexpansive (the one property ADMM needs),
    and is the identity at step 0; the penalty is nonnegative, and 0 at 0; no argument is changed.

    Args:
        regularizer: the regularizer.
        geometry: a small geometry.
        dtype: type of the volumes.
        seed: seed of the test volumes.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    assert regularizer.threshold >= 0.0, f"the threshold is negative: {regularizer.threshold}"
    regularizer.bind(geometry)
    x, y = draw((1, *geometry.shape)), draw((1, *geometry.shape))
    kept = x.clone()
    kx = regularizer.transform(x)
    assert torch.equal(x, kept), "transform changes its argument in place"
    _close(regularizer.transform(2.0 * x - 3.0 * y), 2.0 * kx - 3.0 * regularizer.transform(y), "transform: not linear")
    u, v = draw(tuple(kx.shape)), draw(tuple(kx.shape))
    kept_u = u.clone()
    back = regularizer.adjoint(u)
    assert torch.equal(u, kept_u), "adjoint changes its argument in place"
    assert back.shape == x.shape, f"adjoint returns {tuple(back.shape)}, the volume is {tuple(x.shape)}"
    left, right = inner(kx, u), inner(x, back)
    size = (inner(kx, kx) * inner(u, u)) ** 0.5
    tolerance = 50 * torch.finfo(dtype).eps * size
    assert abs(left - right) <= tolerance, f"not the adjoint: <K x, u> = {left:.9g}, <x, K^T u> = {right:.9g}"
    for step in (1e-3, 0.3, 3.0):
        p, q = regularizer.prox(u, step), regularizer.prox(v, step)
        assert p.shape == u.shape, f"prox changes the shape to {tuple(p.shape)}"
        gap = inner(p - q, u - v) - inner(p - q, p - q)
        assert gap >= -1e-5 * inner(u - v, u - v), f"prox is not firmly nonexpansive at step {step}: {gap:.3g}"
    assert torch.equal(u, kept_u), "prox changes its argument in place"
    _close(regularizer.prox(u, 0.0), u, "prox at step 0 is not the identity")
    assert regularizer.penalty(x) >= 0.0, "the penalty is negative"
    assert regularizer.penalty(torch.zeros_like(x)) == 0.0, "the penalty of 0 is not 0"


def _close(got: Tensor, expected: Tensor, what: str) -> None:
    error = float((got - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    assert error <= 100 * torch.finfo(expected.dtype).eps * scale, f"{what}: off by {error:.3g}"
