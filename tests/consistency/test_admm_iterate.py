# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""ADMM on the noisy iterate against dense algebra."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.consistency.admm_iterate import ADMMIterateStep
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.testing.consistency_laws import check_consistency
from monai_diffrecon.testing.dense_operator import DenseOperator

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 5), (1.0, 1.0, 2.0))
SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Problem:
    A = scale * draw(20, N, seed=0, dtype=dtype)
    return Problem(DenseOperator(GEOMETRY, A), A @ draw(N, seed=1, dtype=dtype))


def state_of(x: Tensor) -> SamplerState:
    return SamplerState(x=x, sigma=0.3)


def matrix_of(regularizer: ZTV) -> Tensor:
    basis = torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)
    return torch.stack([regularizer.transform(e).reshape(-1) for e in basis], 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("regularizers", [(), [ZTV(0.1)], [ZTV(0.1), ZTV(0.2, plane="coronal")]])
def test_laws(dtype: torch.dtype, regularizers: Any) -> None:
    x = draw(*SHAPE, seed=2, dtype=dtype)
    check_consistency(lambda: ADMMIterateStep(regularizers), problem(dtype), x, reduces_residual=False)


@pytest.mark.parametrize("cg_iterations", [1, 3])
@pytest.mark.parametrize("regularizers", [[ZTV(0.3)], [ZTV(0.1), ZTV(0.2, plane="sagittal", boundary="periodic")]])
def test_parity_with_dense_algebra(regularizers: list[ZTV], cg_iterations: int) -> None:
    """Three steps of the paper's algorithm 1, whose conjugate gradients are steepest descent when there is one."""
    p, rho = problem(), 0.4
    step = ADMMIterateStep(regularizers, rho=rho, cg_iterations=cg_iterations, absolute_rho=True)
    step.bind(p)
    A, y = p.operator.matrix, p.measurement
    K = torch.cat([matrix_of(r) for r in regularizers])
    limit = torch.cat([torch.full((N,), r.threshold, dtype=torch.float64) for r in regularizers])
    H = A.T @ A + rho * K.T @ K
    x = draw(N, seed=2)
    z, w = torch.zeros(len(K), dtype=torch.float64), torch.zeros(len(K), dtype=torch.float64)
    state = state_of(x.reshape(SHAPE))
    got = state.x
    for _ in range(3):
        got = step.on_iterate(got, state)
        b = A.T @ y + rho * K.T @ (z - w)
        # The k-th conjugate-gradient iterate minimizes the energy over the Krylov space of H and the first residual.
        r = b - H @ x
        powers = [r]
        for _ in range(cg_iterations - 1):
            powers.append(H @ powers[-1] / powers[-1].norm())
        basis = torch.linalg.qr(torch.stack(powers, 1))[0]
        x = x + basis @ torch.linalg.solve(basis.T @ H @ basis, basis.T @ r)
        v = K @ x + w
        z = torch.sign(v) * (v.abs() - limit).clamp(min=0)
        w = w + K @ x - z
        torch.testing.assert_close(got.reshape(-1), x, rtol=1e-9, atol=1e-9)
    memory = state.memory["consistency"]
    for name, expected in (("z", z), ("w", w)):
        kept = torch.cat([memory[f"{name}{i}"].reshape(-1) for i in range(len(regularizers))])
        torch.testing.assert_close(kept, expected, rtol=1e-8, atol=1e-8)


def test_the_dual_is_the_clipped_difference() -> None:
    """w <- w + K x - shrink(K x + w) is K x + w cut at the threshold."""
    p, tv = problem(), ZTV(0.07)
    step = ADMMIterateStep(tv, rho=0.1)
    step.bind(p)
    state = state_of(draw(*SHAPE, seed=2))
    x, w = state.x, torch.zeros(SHAPE, dtype=torch.float64)
    for i in range(4):
        x = step.on_iterate(x, state)
        w = (tv.transform(x) + w).clamp(-0.07, 0.07)
        torch.testing.assert_close(state.memory["consistency"]["w0"], w, rtol=0, atol=1e-12)
        assert float(w.abs().max()) == pytest.approx(0.07), f"step {i} never reached the threshold"


def test_memory_survives_a_restart_and_matters() -> None:
    p, x = problem(), draw(*SHAPE, seed=2)
    first, second = ADMMIterateStep(ZTV(0.1), rho=0.2), ADMMIterateStep(ZTV(0.1), rho=0.2)
    first.bind(p)
    second.bind(p)
    state = state_of(x)
    for _ in range(2):
        x = first.on_iterate(x, state)
    saved = copy.deepcopy(state)
    held = {name: (kept, kept.clone()) for name, kept in state.memory["consistency"].items()}
    expected = first.on_iterate(x, state)
    assert torch.equal(second.on_iterate(x, saved), expected)
    assert not torch.equal(second.on_iterate(x, state_of(x)), expected)
    for kept, before in held.values():
        assert torch.equal(kept, before)  # a state that was saved by reference stays what it was


def test_iterations_of_a_step_are_those_of_several() -> None:
    p, x = problem(), draw(*SHAPE, seed=2)
    once, thrice = ADMMIterateStep(ZTV(0.1), rho=0.2), ADMMIterateStep(ZTV(0.1), rho=0.2, iterations=3)
    once.bind(p)
    thrice.bind(p)
    expected, state = thrice.on_iterate(x, state_of(x)), state_of(x)
    for _ in range(3):
        x = once.on_iterate(x, state)
    assert torch.equal(x, expected)


def test_rho_is_relative_to_the_operator() -> None:
    x = draw(*SHAPE, seed=2)
    results = []
    for p in (problem(), problem(scale=1e3)):
        step = ADMMIterateStep(ZTV(0.1), rho=0.2)
        step.bind(p)
        state, moved = state_of(x), x
        for _ in range(3):
            moved = step.on_iterate(moved, state)
        results.append(moved)
    torch.testing.assert_close(*results)
    p = problem()
    relative, absolute = (
        ADMMIterateStep(ZTV(0.1), rho=rho, absolute_rho=flag)
        for rho, flag in ((0.2, False), (0.2 * p.operator.norm(), True))
    )
    relative.bind(p)
    absolute.bind(p)
    assert torch.equal(relative.on_iterate(x, state_of(x)), absolute.on_iterate(x, state_of(x)))


def test_the_published_back_projection_is_needed() -> None:
    with raises(ConfigError, where="consistency#back_projection", got="published"):
        ADMMIterateStep(back_projection="published").bind(problem())


def test_final_sirt() -> None:
    p, x = problem(), draw(*SHAPE, seed=2)
    plain = ADMMIterateStep()
    plain.bind(p)
    assert plain.on_result(x, state_of(x)) is x
    rows = draw(6, N, seed=3).abs()
    rows[:, ::4] = 0.0  # voxels that no measurement touches
    p = Problem(DenseOperator(GEOMETRY, rows), draw(6, seed=4))
    step = ADMMIterateStep(final_sirt=True)
    step.bind(p)
    got = step.on_result(x, state_of(x)).reshape(-1)
    weight = rows.T @ rows.sum(1)
    seen = weight > 0
    correction = rows.T @ (p.measurement - rows @ x.reshape(-1))
    torch.testing.assert_close(got[seen], x.reshape(-1)[seen] + correction[seen] / weight[seen])
    assert torch.equal(got[~seen], x.reshape(-1)[~seen])
    assert int((~seen).sum()) == 15


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"rho": 0.0}, "consistency#rho", "0.0"),
        ({"rho": float("nan")}, "consistency#rho", "nan"),
        ({"back_projection": "filtered"}, "consistency#back_projection", "'filtered'"),
        ({"iterations": 0}, "consistency#iterations", "0"),
        ({"cg_iterations": 1.0}, "consistency#cg_iterations", "1.0"),
        ({"regularizers": [ZTV(), SlicesPrior()]}, "consistency#regularizers#1", "SlicesPrior"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        ADMMIterateStep(**options)


def test_a_configuration_names_the_regularizers() -> None:
    step = registry.create("consistency", "admm_iterate", regularizers=["z_tv", {"name": "z_tv", "plane": "coronal"}])
    assert [r.plane for r in step.regularizers] == ["axial", "coronal"]
