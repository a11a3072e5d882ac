# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Iterative classical methods against dense references."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.samplers.classical.cg_least_squares import CGLeastSquares
from monai_diffrecon.samplers.classical.sirt import SIRT
from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler
from monai_diffrecon.testing.dense_operator import DenseOperator
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.sampler_laws import check_sampler, run

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 2))
N = 24


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(rows: int = 16) -> Problem:
    """Without negative entries; a ray and a voxel that see nothing."""
    A = draw(rows, N, seed=0).abs() * (draw(rows, N, seed=1) > 0)
    A[3], A[:, 5] = 0.0, 0.0
    return Problem(DenseOperator(GEOMETRY, A), A @ draw(N, seed=2) + 0.1 * draw(rows, seed=3), 0.1)


def dense(rows: int, dtype: torch.dtype) -> Problem:
    A = draw(rows, N, seed=0, dtype=dtype)
    return Problem(DenseOperator(GEOMETRY, A), A @ draw(N, seed=2, dtype=dtype) + 0.1 * draw(rows, seed=3, dtype=dtype))


def result(sampler, p: Problem) -> Tensor:
    return run(sampler, p, GaussianPrior().denoise, NoConsistency()).x


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("relaxation", [1.0, 1.7])
def test_sirt_is_its_formula(relaxation: float, nonnegative: bool) -> None:
    p = positive()
    A, y = p.operator.matrix, p.measurement
    R = torch.diag(torch.where(A.sum(1) > 0, 1 / A.sum(1), 0.0))
    C = torch.diag(torch.where(A.sum(0) > 0, 1 / A.sum(0), 0.0))
    x = torch.zeros(N, dtype=A.dtype)
    for _ in range(7):
        x = x + relaxation * C @ A.mT @ R @ (y - A @ x)
        x = x.clamp(min=0.0) if nonnegative else x
    got = result(SIRT(7, relaxation=relaxation, nonnegative=nonnegative), p).reshape(-1)
    torch.testing.assert_close(got, x, atol=1e-12, rtol=0)
    assert float(got[5]) == 0.0
    assert (float(got.min()) >= 0.0) == nonnegative


def test_sirt_converges_to_weighted_least_squares() -> None:
    p = positive(40)
    A, y = p.operator.matrix, p.measurement
    R = torch.where(A.sum(1) > 0, 1 / A.sum(1), 0.0)
    expected = torch.linalg.pinv(R.sqrt()[:, None] * A) @ (R.sqrt() * y)
    got = result(SIRT(4000, relaxation=1.9), p).reshape(-1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_sirt_on_projections() -> None:
    operator = ParallelCT(VolumeGeometry((20, 20, 2)), views=12)
    x = torch.zeros(operator.volume_shape)
    x[:, 5:15, 7:14] = 1.0
    p = Problem(operator, operator(x))
    errors = [float((result(SIRT(n), p) - x).square().mean()) for n in (2, 10, 50)]
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("rows", "weight"), [(60, 0.0), (10, 0.02), (60, 0.5)])
def test_cg_least_squares_solves_the_normal_equations(dtype: torch.dtype, rows: int, weight: float) -> None:
    p = dense(rows, dtype)
    A, norm = p.operator.matrix, p.operator.norm()
    expected = torch.linalg.solve(A.mH @ A + weight * norm * torch.eye(N, dtype=dtype), A.mH @ p.measurement)
    got = result(CGLeastSquares(80, weight=weight, tolerance=1e-12), p).reshape(-1)
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)


def test_cg_least_squares_without_a_weight_gives_the_smallest_solution() -> None:
    p = dense(10, torch.complex128)
    got = result(CGLeastSquares(40, tolerance=1e-12), p).reshape(-1)
    torch.testing.assert_close(got, torch.linalg.pinv(p.operator.matrix) @ p.measurement, atol=1e-8, rtol=0)


def test_cg_least_squares_of_coils_beats_zero_filling() -> None:
    geometry = VolumeGeometry((24, 24, 2))
    X, Y, _ = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    centres = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    maps = torch.stack([torch.exp(-((X - a) ** 2 + (Y - b) ** 2) + 1j * a * X) for a, b in centres])
    operator = CartesianMRI(
        geometry, mask_type="uniform1d", acceleration=2.0, coil_maps=maps.to(torch.complex64), complex_volume=True
    )
    x = ((X**2 + Y**2 < 0.7) * torch.exp(1j * Y)).to(torch.complex64)[None]
    p = Problem(operator, operator(x))
    error = [
        float((e - x).abs().square().sum()) for e in (operator.initial(p.measurement), result(CGLeastSquares(40), p))
    ]
    assert error[1] < 0.25 * error[0]


@pytest.mark.parametrize(
    "make", [lambda: SIRT(3), lambda: SIRT(3, nonnegative=True), lambda: CGLeastSquares(3, weight=0.1)]
)
def test_laws(make) -> None:
    check_sampler(make, positive(), GaussianPrior().denoise, NoConsistency)
    start = make()
    start.prepare(positive(), sigma_min=1e-3, sigma_max=1.0)
    torch.testing.assert_close(start.estimate(positive().measurement), result(make(), positive()), rtol=0, atol=0)
    assert not make().calls_network
    check_sampler(lambda: PnPHQSSampler(2, start=make()), positive(), GaussianPrior().denoise, NoConsistency)


def test_sirt_refuses_what_has_no_sums() -> None:
    complex_volume = dense(10, torch.complex128)
    kspace = CartesianMRI(GEOMETRY, acceleration=2.0)
    for p in (complex_volume, Problem(kspace, torch.zeros(kspace.measurement_shape, dtype=torch.complex64))):
        with raises(ConfigError, where="sampler sirt", got="complex numbers"):
            result(SIRT(), p)
    with raises(ConfigError, where="sampler sirt", got="sums that are negative"):
        result(SIRT(), dense(10, torch.float64))


@pytest.mark.parametrize(
    ("cls", "option", "value"),
    [
        (SIRT, "iterations", 0),
        (SIRT, "relaxation", 2.0),
        (SIRT, "relaxation", 0.0),
        (SIRT, "nonnegative", "yes"),
        (CGLeastSquares, "iterations", 1.5),
        (CGLeastSquares, "weight", -1.0),
        (CGLeastSquares, "tolerance", 2.0),
    ],
)
def test_wrong_options(cls: type, option: str, value: object) -> None:
    with raises(ConfigError, where=f"sampler#{option}"):
        cls(**{option: value})
