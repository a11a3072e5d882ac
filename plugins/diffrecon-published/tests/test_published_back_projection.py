# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""ADMM on the iterate with what the published codes call A^T."""

import torch
from torch import Tensor

from diffrecon_published.rotation_ct import RotationCT
from monai_diffrecon.consistency.admm_iterate import ADMMIterateStep
from monai_diffrecon.protocols import Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV


def state_of(x: Tensor) -> SamplerState:
    return SamplerState(x=x, sigma=0.5)


def test_rho_is_relative_to_the_published_back_projection_too() -> None:
    """The published B is pi / (2 views) times the adjoint, so a relative rho moves the iterate alike."""
    operator = RotationCT(VolumeGeometry((12, 12, 4)), views=8)
    truth = torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    p, x, moves = Problem(operator, operator(truth)), torch.zeros(operator.volume_shape), []
    for kind in ("adjoint", "published"):
        step = ADMMIterateStep(ZTV(0.004), rho=0.1, back_projection=kind, cg_iterations=10)
        step.bind(p)
        state, moved = state_of(x), x
        for _ in range(3):
            moved = step.on_iterate(moved, state)
        moves.append(moved)
    # A few per cent lie between B and the adjoint; with rho relative to ||A^T A|| it would be 14 per cent.
    assert float((moves[0] - moves[1]).norm()) < 0.05 * float(moves[0].norm())


def test_the_published_back_projection_is_used() -> None:
    operator = RotationCT(VolumeGeometry((7, 7, 2)), views=3)
    y = operator(torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(0)))
    step = ADMMIterateStep(back_projection="published")
    step.bind(Problem(operator, y))
    x = torch.zeros(operator.volume_shape)
    b = operator.back_projection(y)
    h = operator.back_projection(operator(b))
    expected = (b * b).sum() / (b * h).sum() * b
    torch.testing.assert_close(step.on_iterate(x, state_of(x)), expected)
