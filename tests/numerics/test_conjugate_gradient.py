# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient, conjugate_gradient_from_zero, inner
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Operator, VolumeGeometry

N = 24


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix_of(eigenvalues: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a Hermitian matrix with these eigenvalues."""
    basis, _ = torch.linalg.qr(draw(len(eigenvalues), len(eigenvalues), seed=9, dtype=dtype))
    return basis @ torch.diag(eigenvalues.to(dtype)) @ basis.mH


class Counted:
    """A matrix as a map that counts its calls."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.calls = matrix, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.matrix @ x


def test_inner_is_the_real_part() -> None:
    """Re <1 + 2i, 3 - i> = 3 - 2, and a real pair as one knows it; tensors need not be contiguous."""
    assert inner(torch.tensor([1 + 2j]), torch.tensor([3 - 1j])) == 1.0
    u, v = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert inner(u, v) == 70.0
    assert inner(u.T, v.T) == 70.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_parity_with_a_direct_solve(dtype: torch.dtype) -> None:
    matrix, rhs = matrix_of(torch.linspace(0.5, 20.0, N), dtype), draw(N, seed=1, dtype=dtype)
    got = conjugate_gradient(Counted(matrix), rhs, draw(N, seed=2, dtype=dtype), iterations=2 * N, tolerance=1e-12)
    torch.testing.assert_close(got, torch.linalg.solve(matrix, rhs), rtol=1e-9, atol=1e-9)


def test_the_first_step_is_steepest_descent() -> None:
    """By hand: H = diag(1, 3), rhs = (1, 3), from 0: alpha = (1 + 9) / (1 + 27)."""
    got = conjugate_gradient(
        Counted(torch.diag(torch.tensor([1.0, 3.0]))), torch.tensor([1.0, 3.0]), torch.zeros(2), iterations=1
    )
    torch.testing.assert_close(got, torch.tensor([10.0, 30.0]) / 28.0)


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_as_many_iterations_as_there_are_distinct_eigenvalues(distinct: int) -> None:
    matrix = matrix_of((torch.arange(N) % distinct + 1).double())
    rhs, start = draw(N, seed=1), draw(N, seed=2)
    expected = torch.linalg.solve(matrix, rhs)
    got = conjugate_gradient(Counted(matrix), rhs, start, iterations=distinct, tolerance=0.0)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    if distinct > 1:
        early = conjugate_gradient(Counted(matrix), rhs, start, iterations=distinct - 1, tolerance=0.0)
        assert float((early - expected).abs().max()) > 1e-3


GEOMETRY = VolumeGeometry((16, 15, 8))
FEW_EIGENVALUES: dict[str, Callable[[], Operator]] = {
    "two: complex MRI": lambda: CartesianMRI(GEOMETRY, acceleration=3.0, complex_volume=True),
    "three: real MRI": lambda: CartesianMRI(GEOMETRY, acceleration=3.0),
    "two: thick slices": lambda: SliceThickness(GEOMETRY, thickness=4.0),
}


@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
@pytest.mark.parametrize("name", FEW_EIGENVALUES)
def test_more_iterations_than_eigenvalues_do_not_blow_up(name: str, tolerance: float) -> None:
    """In single precision the residual is round-off after two or three; dividing by it would give anything."""
    operator = FEW_EIGENVALUES[name]()
    truth, start = (draw(*operator.volume_shape, seed=s, dtype=operator.volume_dtype) for s in (0, 1))
    rhs = operator.adjoint(operator(truth))
    few, many = (conjugate_gradient(operator.normal, rhs, start, iterations=n, tolerance=tolerance) for n in (3, 200))
    torch.testing.assert_close(many, few, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(operator.normal(many), rhs, rtol=1e-5, atol=1e-5)


def test_two_eigenvalues_far_apart_stay_solved() -> None:
    """The hessian of a proximal step, 1 + gamma and gamma, at single precision: 2 iterations solve, 300 keep it."""
    gamma = 1e-3
    matrix = matrix_of(torch.tensor([1.0 + gamma, gamma]).repeat(N // 2)).float()
    solution = draw(N, seed=3, dtype=torch.float32)
    rhs = matrix @ solution
    for iterations in (2, 3, 10, 300):
        got = conjugate_gradient(Counted(matrix), rhs, torch.zeros(N), iterations=iterations, tolerance=0.0)
        assert float((got - solution).abs().max()) < 1e-2, f"after {iterations} iterations"


def test_what_the_measurement_does_not_see_is_kept() -> None:
    """A singular map: the start's part in the null space is untouched, the rest is solved."""
    matrix = matrix_of(torch.cat([torch.zeros(N // 2), torch.linspace(1.0, 4.0, N // 2)]))
    truth, start = draw(N, seed=1), draw(N, seed=2)
    seen = torch.linalg.pinv(matrix, rtol=1e-8) @ matrix
    got = conjugate_gradient(Counted(matrix), matrix @ truth, start, iterations=N, tolerance=1e-12)
    torch.testing.assert_close(got, seen @ truth + start - seen @ start, rtol=1e-8, atol=1e-8)


def test_the_energy_of_the_error_falls_with_every_iteration() -> None:
    matrix, rhs, start = matrix_of(torch.logspace(-2, 1, N)), draw(N, seed=1), draw(N, seed=2)
    solution = torch.linalg.solve(matrix, rhs)
    energies = []
    for n in range(12):
        error = conjugate_gradient(Counted(matrix), rhs, start, iterations=n, tolerance=0.0) - solution
        energies.append(inner(error, matrix @ error))
    assert all(b < a for a, b in pairwise(energies)), energies


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_tolerance_is_relative_to_the_first_residual(scale: float) -> None:
    apply = Counted(matrix_of(torch.linspace(1.0, 50.0, N)))
    rhs, start = scale * draw(N, seed=1), scale * draw(N, seed=2)
    first = torch.linalg.vector_norm(rhs - apply.matrix @ start)
    got = conjugate_gradient(apply, rhs, start, iterations=100, tolerance=0.05)
    calls = apply.calls
    assert torch.linalg.vector_norm(rhs - apply.matrix @ got) <= 0.05 * first * (1 + 1e-9)
    before = conjugate_gradient(apply, rhs, start, iterations=calls - 2, tolerance=0.0)  # one call is the residual's
    assert torch.linalg.vector_norm(rhs - apply.matrix @ before) > 0.05 * first


def test_the_start_is_left_alone_and_returned_when_there_is_nothing_to_do() -> None:
    matrix, solution = matrix_of(torch.linspace(1.0, 2.0, N)), draw(N, seed=1)
    start = draw(N, seed=2)
    kept = start.clone()
    conjugate_gradient(Counted(matrix), matrix @ solution, start, iterations=3)
    assert torch.equal(start, kept)
    assert torch.equal(conjugate_gradient(Counted(matrix), matrix @ solution, start, iterations=0), start)
    assert torch.equal(conjugate_gradient(Counted(matrix), matrix @ solution, solution, iterations=9), solution)
    zero = torch.zeros(N, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(Counted(matrix), zero, zero, iterations=9), zero)


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_a_map_that_is_not_positive_leaves_the_start(factor: float) -> None:
    start = torch.ones(N)
    got = conjugate_gradient(lambda x: factor * x, torch.full((N,), 5.0), start, iterations=9)
    assert torch.equal(got, start)


def test_a_start_from_zero_is_the_same_without_the_first_product() -> None:
    matrix, rhs = matrix_of(torch.linspace(0.5, 20.0, N)), draw(N, seed=1)
    one, other = Counted(matrix), Counted(matrix)
    want = conjugate_gradient(one, rhs, torch.zeros(N, dtype=torch.float64), iterations=5, tolerance=0.0)
    got = conjugate_gradient_from_zero(other, rhs.clone(), iterations=5, tolerance=0.0)
    assert torch.equal(got, want)
    assert (one.calls, other.calls) == (6, 5)


def test_a_map_may_return_what_it_was_given_or_keep_it() -> None:
    """What a map was given is never written to, nor what it returned: a view of it, or one tensor each time."""
    given: list[tuple[Tensor, Tensor]] = []
    weights, buffer = torch.linspace(1.0, 3.0, N), torch.empty(N)

    def keeps(x: Tensor) -> Tensor:
        given.append((x, x.clone()))
        return torch.mul(weights, x, out=buffer)

    rhs, start = draw(N, dtype=torch.float32), draw(N, seed=2, dtype=torch.float32)
    got = conjugate_gradient(keeps, rhs, start, iterations=8, tolerance=1e-6)
    want = conjugate_gradient(lambda x: weights * x, rhs, start, iterations=8, tolerance=1e-6)
    assert torch.equal(got, want)
    assert len(given) == 9
    assert all(torch.equal(x, before) for x, before in given)
    for same in (lambda x: x, lambda x: x.view(-1)):
        torch.testing.assert_close(conjugate_gradient(same, rhs, start, iterations=8), rhs)


@pytest.mark.parametrize("shape", [(1, 3, 4, 2), (1, 17, 5, 3), (2, 3)])
def test_rounding_is_that_of_whole_volumes(shape: tuple[int, ...]) -> None:
    """One iteration, written out: parts and their order change no bit."""
    rhs, weights = draw(*shape, dtype=torch.float32), draw(*shape, seed=3, dtype=torch.float32).abs() + 0.5
    start = draw(*shape, seed=4, dtype=torch.float32)
    residual = rhs - weights * start
    alpha = inner(residual, residual) / inner(residual, weights * residual)
    got = conjugate_gradient(lambda x: weights * x, rhs, start, iterations=1, tolerance=0.0)
    assert torch.equal(got, start + alpha * residual)
