# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Methods without a network: initial estimate, interpolation, ADMM-TV."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics import finite_differences as tv
from monai_diffrecon.numerics.conjugate_gradient import inner
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.samplers.classical.admm_tv import ADMMTV
from monai_diffrecon.samplers.classical.initial import CubicInterpolation, InitialEstimate
from monai_diffrecon.sampling.ladder_sampler import bootstrap_error
from monai_diffrecon.testing.dense_operator import DenseOperator
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.sampler_laws import check_sampler, run

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 5), (1.0, 1.0, 2.0))
SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem(rows: int = 30, dtype: torch.dtype = torch.float64, level: float = 1.0) -> Problem:
    A = draw(rows, N, seed=0, dtype=dtype)
    truth = torch.zeros(SHAPE, dtype=dtype)
    truth[..., 1:4] = level
    return Problem(DenseOperator(GEOMETRY, A), A @ truth.reshape(-1) + 0.3 * draw(rows, seed=1, dtype=dtype), 0.3)


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_adjoint_and_normal_of_the_gradient(dtype: torch.dtype, boundary: str) -> None:
    weights = tv.spacing_weights((2.0, 1.0, 4.0))
    assert weights == (0.5, 1.0, 0.25)
    x, v = draw(*SHAPE, seed=0, dtype=dtype), [draw(*SHAPE, seed=s, dtype=dtype) for s in (1, 2, 3)]
    kx = tv.gradient(x, weights, boundary)
    left = sum(inner(a, b) for a, b in zip(kx, v, strict=True))
    assert left == pytest.approx(inner(x, tv.gradient_adjoint(v, weights, boundary)), rel=1e-12)
    torch.testing.assert_close(tv.gradient_normal(x, weights, boundary), tv.gradient_adjoint(kx, weights, boundary))


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_projection_is_moreau_s_other_half_of_the_shrinkage(dtype: torch.dtype, isotropic: bool) -> None:
    v, t = torch.stack([draw(*SHAPE, seed=s, dtype=dtype) for s in (1, 2, 3)]), 0.7
    v[:, 0, 0, 0, 0] = 0.0  # 0 / 0 must not appear
    duals = list(v.clone())
    tv.project_dual_(duals, t, isotropic=isotropic)
    u = v - torch.stack(duals)
    length = torch.linalg.vector_norm(v, dim=0, keepdim=True) if isotropic else v.abs()
    expected = torch.where(length > t, v * (1 - t / length), 0.0)
    torch.testing.assert_close(u, expected)
    tv.project_dual_(duals, 0.0, isotropic=isotropic)
    assert torch.equal(torch.stack(duals), torch.zeros_like(v))


def test_total_variation_of_a_corner() -> None:
    x = torch.zeros(1, 3, 3, 3)
    x[0, 2, 2, 2] = 1.0  # three differences of 1, at three voxels
    assert tv.total_variation(x, (1.0, 1.0, 1.0)) == pytest.approx(3.0)
    x = torch.zeros(1, 3, 3, 3)
    x[0, 0, 0, 0] = 1.0  # three differences of -1, all at one voxel
    assert tv.total_variation(x, (1.0, 1.0, 1.0)) == pytest.approx(3.0**0.5)
    assert tv.total_variation(x, (1.0, 1.0, 0.5), isotropic=False) == pytest.approx(2.5)


def primal_dual(p: Problem, lam: float, isotropic: bool, nonnegative: bool, iterations: int = 4000) -> Tensor:
    """Condat 2013, algorithm 3.1: independent of ADMM; gradient step on the data term."""
    A, y = p.operator.matrix, p.measurement
    weights = tv.spacing_weights(GEOMETRY.spacing)
    basis = torch.eye(N, dtype=A.dtype).reshape(N, *SHAPE)
    K = torch.stack([torch.stack(tv.gradient(e, weights)).reshape(-1) for e in basis], 1)
    L = float(torch.linalg.matrix_norm(A, 2)) ** 2
    sigma = L / 20
    tau = 0.99 / (L / 2 + sigma * float(torch.linalg.matrix_norm(K, 2)) ** 2)
    x, dual = torch.zeros(N, dtype=A.dtype), torch.zeros(3 * N, dtype=A.dtype)
    for _ in range(iterations):
        ahead = x - tau * (A.mT @ (A @ x - y) + K.mT @ dual)
        ahead = ahead.clamp(min=0.0) if nonnegative else ahead
        dual = (dual + sigma * K @ (2 * ahead - x)).reshape(3, N)
        size = torch.linalg.vector_norm(dual, dim=0, keepdim=True) if isotropic else dual.abs()
        dual, x = (dual / (size / lam).clamp(min=1.0)).reshape(-1), ahead
    return x.reshape(SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_admm_tv_finds_the_minimizer(isotropic: bool, nonnegative: bool) -> None:
    p = problem(level=0.3)
    sampler = ADMMTV(
        0.04,
        rho=0.1,
        iterations=200,
        cg_iterations=60,
        tolerance=1e-8,
        isotropic=isotropic,
        nonnegative=nonnegative,
    )
    got = run(sampler, p, GaussianPrior().denoise, NoConsistency()).x
    expected = primal_dual(p, 0.04 * 0.1 * p.operator.norm(), isotropic, nonnegative)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)
    assert (float(got.min()) >= 0.0) == nonnegative  # the constraint is active


@pytest.mark.parametrize(
    "make",
    [
        InitialEstimate,
        lambda: ADMMTV(iterations=4),
        lambda: ADMMTV(0.05, iterations=3, isotropic=False, boundary="periodic", nonnegative=True),
    ],
)
def test_laws(make) -> None:
    check_sampler(make, problem(), GaussianPrior().denoise, NoConsistency)


def test_laws_of_complex_volumes() -> None:
    check_sampler(lambda: ADMMTV(iterations=3), problem(dtype=torch.complex128), GaussianPrior().denoise, NoConsistency)


def test_the_steps_are_the_estimate() -> None:
    p, sampler = problem(), ADMMTV(0.05, iterations=5, nonnegative=True)
    assert torch.equal(run(sampler, p, GaussianPrior().denoise, NoConsistency()).x, sampler.estimate(p.measurement))
    sampler = InitialEstimate()
    got = run(sampler, p, GaussianPrior().denoise, NoConsistency())
    assert torch.equal(got.x, p.operator.initial(p.measurement))
    with raises(ConfigError, where="sampler InitialEstimate"):
        sampler.step(got, GaussianPrior().denoise, NoConsistency(), None)


def test_interpolation_needs_an_operator_that_interpolates() -> None:
    p = problem()
    with raises(ConfigError, where="sampler", got="one without a name"):
        run(CubicInterpolation(), p, GaussianPrior().denoise, NoConsistency())
    p.operator.initial_kind = "interpolation"
    got = run(CubicInterpolation(), p, GaussianPrior().denoise, NoConsistency())
    assert torch.equal(got.x, p.operator.initial(p.measurement))


def test_an_estimate_goes_by_its_name_only() -> None:
    p = problem()
    p.operator.initial_kind = "fbp"
    for kind in ("fbp", None):
        got = run(InitialEstimate(kind), p, GaussianPrior().denoise, NoConsistency())
        assert torch.equal(got.x, p.operator.initial(p.measurement))
    with raises(ConfigError, where="sampler", got="fbp", expected="an operator whose estimate is fdk"):
        run(InitialEstimate("fdk"), p, GaussianPrior().denoise, NoConsistency())
    with raises(ConfigError, where="sampler#kind", got="7"):
        InitialEstimate(7)  # type: ignore[arg-type]


def test_bootstrap_error_counts_the_foreground_only() -> None:
    x = torch.tensor([0.0, 0.01, 1.0, 2.0])
    # The reconstruction doubles everything: the error is the estimate itself.
    assert bootstrap_error(lambda y: 2 * y, lambda v: v, x) == pytest.approx(2.5**0.5)
    assert bootstrap_error(lambda y: y + 1, lambda v: v, torch.zeros(4)) == pytest.approx(1.0)
    # Of each real component, as noise levels are: here 0 in one and 0.1 in the other.
    assert bootstrap_error(lambda y: y, lambda v: v + 0.1j, x.to(torch.complex64)) == pytest.approx(0.1 / 2**0.5)
    noise = 0.2 * draw(4000, seed=1, dtype=torch.complex128) * 2**0.5
    ones = torch.ones(4000, dtype=torch.complex128)
    assert bootstrap_error(lambda y: y, lambda v: v + noise, ones) == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"threshold": -0.1}, "sampler#threshold", "-0.1"),
        ({"rho": 0}, "sampler#rho", "0"),
        ({"rho": float("nan")}, "sampler#rho", "nan"),
        ({"iterations": 0}, "sampler#iterations", "0"),
        ({"iterations": True}, "sampler#iterations", "True"),
        ({"cg_iterations": 2.5}, "sampler#cg_iterations", "2.5"),
        ({"boundary": "zero"}, "sampler#boundary", "'zero'"),
        ({"isotropic": "no"}, "sampler#isotropic", "'no'"),
        ({"nonnegative": 2}, "sampler#nonnegative", "2"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        ADMMTV(**options)


def test_a_complex_volume_has_no_sign() -> None:
    with raises(ConfigError, where="sampler#nonnegative", got=True):
        run(ADMMTV(nonnegative=True), problem(dtype=torch.complex128), GaussianPrior().denoise, NoConsistency())
