# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Consistency steps against dense solves and an independent minimizer."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.consistency.admm import ADMMStep
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep, measured_entries
from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.axis_filter import gaussian_matrix
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.testing.consistency_laws import check_consistency
from monai_diffrecon.testing.dense_operator import DenseOperator

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 5), (1.0, 1.0, 2.0))
SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem(rows: int = 20, noise_std: float = 0.0, dtype: torch.dtype = torch.float64) -> Problem:
    A = draw(rows, N, seed=0, dtype=dtype)
    truth = torch.zeros(SHAPE, dtype=dtype)
    truth[..., 1:4] = 1.0
    y = A @ truth.reshape(-1) + noise_std * draw(rows, seed=1, dtype=dtype)
    return Problem(DenseOperator(GEOMETRY, A), y, noise_std)


def x0_of(dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(*SHAPE, seed=2, dtype=dtype)


def apply(step: ConsistencyStep, p: Problem, x0: Tensor, sigma: float = 0.3) -> Tensor:
    step.bind(p)
    return step.on_estimate(x0, SamplerState(x=x0, sigma=sigma))


def dense(p: Problem, x0: Tensor, gamma: float) -> Tensor:
    A = p.operator.matrix
    H = A.mH @ A + gamma * torch.eye(N, dtype=A.dtype)
    return torch.linalg.solve(H, A.mH @ p.measurement + gamma * x0.reshape(-1)).reshape(SHAPE)


@pytest.mark.parametrize(
    "make",
    [
        ConjugateGradientStep,
        lambda: ConjugateGradientStep(2, gamma=0.1),
        lambda: ADMMStep([ZTV(), ZTV(plane="coronal")], iterations=2),
        lambda: ADMMStep(ZTV(threshold=0.1), rho=0.1),
        ADMMStep,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_laws(make, dtype: torch.dtype, noise_std: float) -> None:
    check_consistency(make, problem(noise_std=noise_std, dtype=dtype), x0_of(dtype))


def test_laws_of_no_consistency() -> None:
    check_consistency(NoConsistency, problem(), x0_of(), reduces_residual=False)
    x = x0_of()
    assert apply(NoConsistency(), problem(), x) is x


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("noise_std", "sigma"), [(0.5, 0.1), (0.5, 2.0), (3.0, 0.5)])
def test_automatic_gamma_is_the_maximum_a_posteriori(dtype: torch.dtype, noise_std: float, sigma: float) -> None:
    p, x0 = problem(noise_std=noise_std, dtype=dtype), x0_of(dtype)
    expected = dense(p, x0, noise_std**2 / sigma**2)
    for step in (ConjugateGradientStep(300, tolerance=1e-12), ADMMStep((), cg_iterations=300, tolerance=1e-12)):
        torch.testing.assert_close(apply(step, p, x0, sigma), expected, atol=1e-7, rtol=1e-7)


def test_a_number_for_gamma_is_relative_to_the_operator() -> None:
    p, x0 = problem(), x0_of()
    expected = dense(p, x0, 0.05 * p.operator.norm())
    got = apply(ConjugateGradientStep(300, tolerance=1e-12, gamma=0.05), p, x0)
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=1e-8)
    scaled = Problem(DenseOperator(GEOMETRY, 1e3 * p.operator.matrix), 1e3 * p.measurement)
    few = ConjugateGradientStep(5, gamma=0.05)
    torch.testing.assert_close(apply(few, scaled, x0), apply(few, p, x0))


def test_limits_of_gamma() -> None:
    p, x0 = problem(noise_std=0.5), x0_of()
    # No trust in x0 where the data speak, and no change where they do not: the nearest solution.
    A = p.operator.matrix
    nearest = x0.reshape(-1) + torch.linalg.pinv(A) @ (p.measurement - A @ x0.reshape(-1))
    free = apply(ConjugateGradientStep(300, tolerance=1e-12, gamma=0.0), p, x0)
    torch.testing.assert_close(free, nearest.reshape(SHAPE), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(apply(ConjugateGradientStep(300, gamma=1e9), p, x0), x0, atol=1e-6, rtol=1e-6)
    assert torch.equal(apply(ConjugateGradientStep(), p, x0, sigma=0.0), x0)
    assert torch.equal(apply(ADMMStep(ZTV()), p, x0, sigma=0.0), x0)


def test_admm_without_a_regularizer_is_conjugate_gradients() -> None:
    p, x0 = problem(noise_std=0.1), x0_of()
    expected = apply(ConjugateGradientStep(4), p, x0)
    for nothing in ((), [], None):
        step = ADMMStep(nothing, cg_iterations=4)
        step.bind(p)
        state = SamplerState(x=x0, sigma=0.3)
        torch.testing.assert_close(step.on_estimate(x0, state), expected, atol=1e-12, rtol=1e-12)
        assert state.memory == {}


def primal_dual(
    A: Tensor, y: Tensor, x0: Tensor, gamma: float, K: Tensor, lam: Tensor, iterations: int = 1500
) -> Tensor:
    """Chambolle and Pock 2011, algorithm 1, with a dense proximal map of the quadratic terms."""
    size = float(torch.linalg.matrix_norm(K, 2))
    tau, sigma = 0.1 / size, 9.0 / size
    eye = torch.eye(A.shape[1], dtype=A.dtype)
    solve = torch.linalg.inv(eye + tau * (A.mT @ A + gamma * eye))
    x, dual = x0.clone(), torch.zeros(K.shape[0], dtype=A.dtype)
    ahead = x
    for _ in range(iterations):
        dual = (dual + sigma * K @ ahead).clamp(-lam, lam)
        previous, x = x, solve @ (x - tau * K.mT @ dual + tau * (A.mT @ y + gamma * x0))
        ahead = 2 * x - previous
    return x


@pytest.mark.slow
@pytest.mark.parametrize("regularizers", [[ZTV(0.05)], [ZTV(0.02), ZTV(0.03, plane="sagittal", boundary="periodic")]])
def test_admm_finds_the_minimizer(regularizers: list[ZTV]) -> None:
    p, x0, rho = problem(), x0_of(), 0.2
    norm = p.operator.norm()
    step = ADMMStep(regularizers, rho=rho, iterations=500, cg_iterations=60, tolerance=1e-8, gamma=0.02)
    got = apply(step, p, x0)
    basis = torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)
    K = torch.cat([torch.stack([r.transform(e).reshape(-1) for e in basis], 1) for r in regularizers])
    lam = rho * norm * torch.tensor([r.threshold for r in regularizers]).double().repeat_interleave(N)
    expected = primal_dual(p.operator.matrix, p.measurement, x0.reshape(-1), 0.02 * norm, K, lam)
    torch.testing.assert_close(got.reshape(-1), expected, atol=1e-4, rtol=0)
    assert (got - dense(p, x0, 0.02 * norm)).abs().max() > 0.05  # the regularizer mattered


def test_admm_continues_over_the_steps() -> None:
    """One iteration in each of three steps is three iterations in one, when nothing else happens in between."""
    p, x0 = problem(), x0_of()
    options = {"rho": 0.1, "cg_iterations": 3, "gamma": 0.0}
    once, thrice = ADMMStep(ZTV(0.05), **options), ADMMStep(ZTV(0.05), iterations=3, **options)
    once.bind(p)
    state, x = SamplerState(x=x0, sigma=0.3), x0
    for _ in range(3):
        x = once.on_estimate(x, state)
    assert torch.equal(x, apply(thrice, p, x0))
    memory = state.memory["consistency"]
    assert sorted(memory) == ["w0", "z0"]
    assert memory["w0"].abs().max() <= 0.05 + 1e-12  # the dual of a shrinkage stays in its ball


def test_scale_of_the_operator_does_not_matter() -> None:
    p, x0 = problem(), x0_of()
    scaled = Problem(DenseOperator(GEOMETRY, 1e3 * p.operator.matrix), 1e3 * p.measurement)
    got, expected = (apply(ADMMStep(ZTV(0.05), iterations=3), q, x0) for q in (scaled, p))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("cls", "options", "where", "got"),
    [
        (ConjugateGradientStep, {"iterations": 0}, "consistency#iterations", "0"),
        (ConjugateGradientStep, {"iterations": True}, "consistency#iterations", "True"),
        (ConjugateGradientStep, {"iterations": 5.0}, "consistency#iterations", "5.0"),
        (ConjugateGradientStep, {"tolerance": float("nan")}, "consistency#tolerance", "nan"),
        (ConjugateGradientStep, {"gamma": -1.0}, "consistency#gamma (or 'auto' or 'discrepancy')", "-1.0"),
        (ConjugateGradientStep, {"gamma": "none"}, "consistency#gamma (or a number)", "'none'"),
        (ADMMStep, {"rho": 0.0}, "consistency#rho", "0.0"),
        (ADMMStep, {"rho": float("inf")}, "consistency#rho", "inf"),
        (ADMMStep, {"cg_iterations": 0}, "consistency#cg_iterations", "0"),
        (ADMMStep, {"regularizers": [ZTV(), SlicesPrior()]}, "consistency#regularizers#1", "SlicesPrior"),
    ],
)
def test_wrong_options(cls, options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        cls(**options)


def test_a_configuration_names_the_regularizers() -> None:
    step = registry.create("consistency", "admm", regularizers=["z_tv", {"name": "z_tv", "plane": "coronal"}])
    assert [r.plane for r in step.regularizers] == ["axial", "coronal"]
    assert registry.create("consistency", "admm", regularizers={"name": "z_tv"}).regularizers[0].threshold == 0.004


def test_unbound() -> None:
    with raises(ConfigError, where="consistency ConjugateGradientStep"):
        ConjugateGradientStep().on_estimate(x0_of(), SamplerState(x=x0_of(), sigma=1.0))


def test_the_law_kit_finds_a_step_with_a_memory_of_its_own() -> None:
    class Hoarder(ConsistencyStep):
        last = None

        def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
            x, self.last = (x0 if self.last is None else (x0 + self.last) / 2) * 0.9, x0
            return x

    with pytest.raises(AssertionError, match="depends on more than the state"):
        check_consistency(Hoarder, problem(), x0_of(), reduces_residual=False)


def misfit(p: Problem, x: Tensor) -> float:
    return float(torch.linalg.vector_norm(p.operator(x) - p.measurement))


@pytest.mark.parametrize("noise_std", [0.3, 1.0])
def test_by_discrepancy_the_residual_is_as_large_as_the_noise(noise_std: float) -> None:
    p, x0 = problem(noise_std=noise_std), 3 * x0_of()
    noise = 20**0.5 * noise_std
    assert misfit(p, x0) > 2 * noise
    x = apply(ConjugateGradientStep(200, tolerance=1e-10, gamma="discrepancy"), p, x0)
    assert misfit(p, x) == pytest.approx(noise, rel=0.02)
    # It is the solution of some gamma: A^T (A x - y) and x - x0 are antiparallel.
    pull, gap = p.operator.adjoint(p.operator(x) - p.measurement).reshape(-1), (x - x0).reshape(-1)
    cosine = torch.dot(pull, gap) / torch.linalg.vector_norm(pull) / torch.linalg.vector_norm(gap)
    assert float(cosine) == pytest.approx(-1.0, abs=1e-5)


def test_by_discrepancy_an_estimate_within_the_noise_is_left_alone() -> None:
    p = problem(noise_std=0.5)
    x0 = apply(ConjugateGradientStep(200, tolerance=1e-10, gamma=0.0), p, x0_of())
    assert torch.equal(apply(ConjugateGradientStep(gamma="discrepancy"), p, x0), x0)


def test_by_discrepancy_noiseless_data_are_met() -> None:
    p, x0 = problem(), x0_of()
    free = apply(ConjugateGradientStep(200, tolerance=1e-10, gamma=0.0), p, x0)
    assert torch.allclose(apply(ConjugateGradientStep(200, tolerance=1e-10, gamma="discrepancy"), p, x0), free)


def test_measured_entries_are_counted() -> None:
    """Rows of zeros measure nothing; a complex number is two."""
    for dtype, each in ((torch.float32, 1), (torch.complex64, 2)):
        A = draw(20, N, seed=0, dtype=dtype)
        A[3:7] = 0
        p = Problem(DenseOperator(GEOMETRY, A), torch.zeros(20, dtype=dtype), 1.0)
        assert measured_entries(p) == 16 * each


def test_the_noise_weight_multiplies_the_variance() -> None:
    p, x0 = problem(noise_std=0.2), x0_of()
    weighted = apply(ConjugateGradientStep(200, tolerance=1e-12, noise_weight=4.0), p, x0)
    assert torch.allclose(weighted, dense(p, x0, 4.0 * (0.2 / 0.3) ** 2), atol=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_a_correlated_error_is_corrected_smoothly(gamma: float) -> None:
    """``x = x0 + L u`` with the u of least ``||A (x0 + L u) - y||^2 + gamma ||u||^2``, L a Gaussian of 3 mm along Z."""
    p, x0 = problem(), x0_of()
    x = apply(ConjugateGradientStep(300, tolerance=1e-13, gamma=gamma, correlation=3.0), p, x0)
    A, weight = p.operator.matrix, gamma * p.operator.norm()
    L = torch.kron(torch.eye(12, dtype=torch.float64), gaussian_matrix(5, 1.5))  # slices are 2 mm apart
    AL, r = A @ L, p.measurement - A @ x0.reshape(-1)
    u = AL.T @ torch.linalg.pinv(AL @ AL.T + weight * torch.eye(20, dtype=torch.float64)) @ r
    torch.testing.assert_close(x, x0 + (L @ u).reshape(SHAPE), atol=1e-6, rtol=1e-6)


def test_the_axis_of_the_correlation_is_that_of_its_plane() -> None:
    p, x0 = problem(), x0_of()
    along = [
        apply(ConjugateGradientStep(300, gamma=0.1, correlation=2.0, correlation_plane=plane), p, x0) - x0
        for plane in ("sagittal", "coronal", "axial")
    ]
    rough = [[float(c.diff(dim=dim).norm() / c.norm()) for dim in (1, 2, 3)] for c in along]
    for axis in range(3):
        assert min(range(3), key=lambda i: rough[i][axis]) == axis


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 0.0])
def test_more_iterations_than_eigenvalues_do_no_harm(tolerance: float) -> None:
    """A projector is solved in one iteration; the rest must not divide round-off by round-off, in single precision."""
    rows = torch.linalg.qr(draw(N, 20, seed=0)).Q.T.float()
    p = Problem(DenseOperator(GEOMETRY, rows), 100 * draw(20, seed=1).float())
    x0 = p.operator.adjoint(p.measurement) + 1e-3 * x0_of().float()
    for gamma in (0.0, 1e-9):
        step = ConjugateGradientStep(60, tolerance=tolerance, gamma=gamma)
        x = x0
        for _ in range(5):
            x = apply(step, p, x)
        assert misfit(p, x) < 1e-4 * float(torch.linalg.vector_norm(p.measurement))
        torch.testing.assert_close(x, x0, atol=0.02, rtol=0)
