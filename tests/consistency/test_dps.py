# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Guidance by the gradient of the residual through the denoiser."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.consistency.dps import DPSStep
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.operators.unconditional import Unconditional
from monai_diffrecon.protocols import Operator, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.testing.consistency_laws import check_consistency
from monai_diffrecon.testing.dense_operator import DenseOperator

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 5))
SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Problem:
    return Problem(
        DenseOperator(GEOMETRY, scale * draw(20, N, seed=0, dtype=dtype)), scale * draw(20, seed=1, dtype=dtype)
    )


def mri(slices: int = 5, *, alike: bool = False) -> Problem:
    """Slices along Z that are measured one by one."""
    mask = draw(6, 6, seed=3) < 0.3
    operator = CartesianMRI(VolumeGeometry((6, 6, slices)), mask=mask)
    truth = draw(1, 6, 6, 1 if alike else slices, seed=4).expand(operator.volume_shape)
    return Problem(operator, operator(truth.contiguous()))


def soft(x: Tensor) -> Tensor:
    """A denoiser that is not linear and mixes voxels, along X and Y only."""
    return torch.tanh(0.7 * x + 0.3 * x.roll(1, 1) - 0.2 * x.roll(1, 2))


def state_of(x: Tensor, plane: str = "", sigma: float = 0.3, step: int = 2) -> SamplerState:
    return SamplerState(x=x, sigma=sigma, step=step, plane=plane)


def shift_of(
    step: DPSStep, p: Problem, x: Tensor, plane: str = "", *, denoise: Callable[[Tensor], Tensor] = soft, **state: Any
) -> Tensor | None:
    step.bind(p, IndependentNoise(0, "case"))
    variable = x.clone().requires_grad_()
    return step.guidance(variable, denoise(variable), state_of(variable, plane, **state))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_laws(dtype: torch.dtype) -> None:
    check_consistency(DPSStep, dense(dtype=dtype), draw(*SHAPE, seed=2, dtype=dtype), reduces_residual=False)


def test_dense_gradient() -> None:
    """J^T A^T r / (|r| ||A||) with the denoiser's Jacobian J."""
    p, x = dense(), draw(*SHAPE, seed=2)
    J = torch.autograd.functional.jacobian(lambda v: soft(v.reshape(SHAPE)).reshape(-1), x.reshape(-1))
    A = p.operator.matrix
    r = A @ soft(x).reshape(-1) - p.measurement
    expected = 0.7 * J.T @ A.T @ r / r.norm()
    got = shift_of(DPSStep(0.7, relative=False), p, x)
    torch.testing.assert_close(got.reshape(-1), expected)
    relative = shift_of(DPSStep(0.7), p, x)
    torch.testing.assert_close(relative.reshape(-1), expected / p.operator.norm() ** 0.5)
    # The spectral norm itself: power iteration comes close from below.
    torch.testing.assert_close(relative.reshape(-1), expected / torch.linalg.matrix_norm(A, 2), rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("norm", ["slice", "batch", "volume"])
def test_finite_differences(norm: str) -> None:
    """The shift is the slope of the sum of the norms of slices, of batches of 2 and 1 of them, or of all."""
    p = mri(3)
    x = draw(1, 6, 6, 3, seed=5)
    groups = {"slice": [[0], [1], [2]], "batch": [[0, 1], [2]], "volume": [[0, 1, 2]]}[norm]

    def loss(v: Tensor) -> float:
        r = p.operator(soft(v)) - p.measurement
        return sum(float(torch.linalg.vector_norm(r[..., g])) for g in groups)

    got = shift_of(DPSStep(relative=False, norm=norm, batch_size=2), p, x, "axial")
    h = 1e-5
    for seed in range(3):
        direction = draw(1, 6, 6, 3, seed=10 + seed)
        slope = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
        assert float((got * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_slice_is_a_batch_of_one() -> None:
    p, x = mri(), draw(1, 6, 6, 5, seed=5)
    by_slice = shift_of(DPSStep(norm="slice"), p, x, "axial")
    torch.testing.assert_close(shift_of(DPSStep(norm="batch", batch_size=1), p, x, "axial"), by_slice)
    alone = mri(5)
    for k in range(5):
        operator = CartesianMRI(VolumeGeometry((6, 6, 1)), mask=alone.operator.mask)
        one = Problem(operator, p.measurement[..., k : k + 1])
        single = shift_of(DPSStep(norm="slice"), one, x[..., k : k + 1], "axial")
        torch.testing.assert_close(single, by_slice[..., k : k + 1])


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_batch_of_equal_slices_is_a_slice_over_the_root_of_its_size(size: int) -> None:
    p = mri(6, alike=True)
    x = draw(1, 6, 6, 1, seed=5).expand(1, 6, 6, 6).contiguous()
    by_slice = shift_of(DPSStep(norm="slice"), p, x, "axial")
    by_batch = shift_of(DPSStep(norm="batch", batch_size=size), p, x, "axial")
    torch.testing.assert_close(by_batch * size**0.5, by_slice)
    torch.testing.assert_close(shift_of(DPSStep(norm="volume"), p, x, "axial") * 6**0.5, by_slice)


def test_batches_are_split_as_asked() -> None:
    """Twelve slices of size 6: two batches of TPDM, three of DiffusionMBIR."""
    p, x = mri(12, alike=True), draw(1, 6, 6, 1, seed=5).expand(1, 6, 6, 12).contiguous()
    by_slice = shift_of(DPSStep(norm="slice"), p, x, "axial")
    for split, size in (("near_equal", 6), ("floor_plus_one", 4)):
        got = shift_of(DPSStep(norm="batch", batch_size=6, split=split), p, x, "axial")
        torch.testing.assert_close(got * size**0.5, by_slice)


@pytest.mark.parametrize(
    ("operator", "coupled", "apart"),
    [
        (SliceThickness(VolumeGeometry((4, 4, 4)), thickness=2.0), ["axial"], ["coronal", "sagittal"]),
        (ParallelCT(VolumeGeometry((4, 4, 4)), views=3), ["coronal", "sagittal"], ["axial"]),
    ],
)
def test_an_operator_that_couples_the_slices_has_one_norm(
    operator: Operator, coupled: list[str], apart: list[str]
) -> None:
    p, x = Problem(operator, draw(*operator.measurement_shape, seed=1, dtype=torch.float32)), torch.zeros(1, 4, 4, 4)
    whole = shift_of(DPSStep(norm="volume"), p, x)
    for plane in coupled:
        for norm in ("slice", "batch"):
            torch.testing.assert_close(shift_of(DPSStep(norm=norm, batch_size=2), p, x, plane), whole)
    for plane in apart:
        assert (shift_of(DPSStep(norm="slice"), p, x, plane) - whole).abs().max() > 0.1 * whole.abs().max()


def test_guides_its_plane_alone() -> None:
    p, x = mri(), draw(1, 6, 6, 5, seed=5)
    step = DPSStep(plane="axial")
    assert shift_of(step, p, x, "coronal") is None
    assert shift_of(step, p, x, "axial") is not None


def test_no_residual_is_no_guidance() -> None:
    """The slope of a norm at 0 is none: no 0 / 0."""
    p = mri(3)
    x = p.operator.adjoint(p.measurement)
    p = Problem(p.operator, p.operator(x))
    for norm in ("slice", "batch", "volume"):
        assert not bool(shift_of(DPSStep(norm=norm), p, x, "axial", denoise=lambda v: 1.0 * v).any())


@pytest.mark.parametrize("norm", ["slice", "volume"])
def test_the_scale_of_the_operator_does_not_matter(norm: str) -> None:
    x = draw(*SHAPE, seed=2)
    one, seven = (shift_of(DPSStep(norm=norm), dense(s), x) for s in (1.0, 7.0))
    torch.testing.assert_close(one, seven)
    fixed = [shift_of(DPSStep(norm=norm, relative=False), dense(s), x) for s in (1.0, 7.0)]
    torch.testing.assert_close(7 * fixed[0], fixed[1])


def test_nothing_measured_is_no_guidance() -> None:
    p = Problem(Unconditional(GEOMETRY), torch.zeros(0))
    x = draw(*SHAPE, seed=2)
    for relative in (True, False):
        assert not bool(shift_of(DPSStep(relative=relative), p, x, "axial").any())


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"zeta": -1.0}, "consistency#zeta"),
        ({"zeta": float("nan")}, "consistency#zeta"),
        ({"norm": "chunk"}, "consistency#norm"),
        ({"batch_size": 0}, "consistency#batch_size"),
        ({"batch_size": 6.0}, "consistency#batch_size"),
        ({"split": "half"}, "consistency#split"),
        ({"plane": "z"}, "consistency#plane"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str) -> None:
    with raises(ConfigError, where=where):
        DPSStep(**options)
