# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weighted least squares by an operator that carries the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.problem.whitened_operator import WhitenedOperator
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.ct.attenuation import MU_WATER
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.dense_operator import DenseOperator
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ...raising import raises

SMALL = VolumeGeometry((5, 4, 3), (1.0, 1.2, 0.9))


def weights(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """Weights over two decades, some of them 0."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn < 0.1, torch.zeros(()), 10 ** (2 * drawn))


def whitened(name: str, geometry: VolumeGeometry = SMALL, **options: Any) -> WhitenedOperator:
    operator = registry.create("operators", name, geometry=geometry, **options)
    return WhitenedOperator(operator, weights(operator.measurement_shape))


class TestLawsOfCT(OperatorLaws):
    @pytest.fixture
    def operator(self) -> Operator:
        return whitened("parallel_ct", views=5)


class TestLawsOfMRI(OperatorLaws):
    @pytest.fixture
    def operator(self) -> Operator:
        return whitened("cartesian_mri", acceleration=2.0, complex_volume=True)


class TestLawsOfThickSlices(OperatorLaws):
    @pytest.fixture
    def operator(self) -> Operator:
        return whitened("slice_thickness", VolumeGeometry((4, 3, 6), (1.0, 1.0, 1.0)), thickness=2.0)


def dense() -> tuple[DenseOperator, Tensor, Tensor]:
    """A matrix of full rank, a measurement and its weights."""
    generator = torch.Generator().manual_seed(0)
    operator = DenseOperator(VolumeGeometry((2, 2, 2)), torch.randn((20, 8), generator=generator))
    return operator, torch.randn(20, generator=generator), weights((20,))


def test_least_squares_of_it_are_weighted_least_squares() -> None:
    operator, y, w = dense()
    a = operator.matrix.double()
    expected = torch.linalg.solve(a.T @ torch.diag(w.double()) @ a, a.T @ (w.double() * y.double()))
    white = WhitenedOperator(operator, w)
    rhs = white.adjoint(white.whiten(y))
    x = conjugate_gradient(white.normal, rhs, torch.zeros_like(rhs), iterations=50, tolerance=1e-6)
    torch.testing.assert_close(x.flatten().double(), expected, rtol=1e-3, atol=1e-4)


def test_the_scale_of_weights_does_not_matter() -> None:
    operator, y, w = dense()
    one, other = WhitenedOperator(operator, w), WhitenedOperator(operator, 1000 * w)
    torch.testing.assert_close(one.whiten(y), other.whiten(y))
    assert one.root[w > 0].square().mean() == pytest.approx(1.0, rel=1e-5)
    # An entry of weight v has the noise s / sqrt(v), and sqrt(v / mean) times that after whitening.
    assert one.noise_std(0.3) == pytest.approx(0.3 / float(w[w > 0].mean()) ** 0.5)
    assert WhitenedOperator(operator, torch.ones(20)).noise_std(0.3) == pytest.approx(0.3)


def test_whitened_noise_is_white() -> None:
    operator, _, w = dense()
    white = WhitenedOperator(operator, w)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((4000, 20), generator=generator) * 0.3 / w.clamp_min(1e-9).sqrt()
    std = torch.stack([white.whiten(n) for n in noise]).std(0)
    torch.testing.assert_close(std[w > 0], torch.full_like(std[w > 0], white.noise_std(0.3)), rtol=0.06, atol=0.0)


def test_the_first_estimate_is_that_of_the_plain_measurement() -> None:
    operator = registry.create("operators", "parallel_ct", geometry=SMALL, views=7)
    w = weights(operator.measurement_shape)
    white = WhitenedOperator(operator, w)
    y = operator(torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(white.initial(white.whiten(y)), operator.initial(y * (w > 0)), rtol=1e-4, atol=1e-5)


def test_what_the_operator_says_is_passed_on() -> None:
    ct, slices = whitened("parallel_ct", views=5), whitened("slice_thickness", thickness=1.8)
    assert (ct.slice_plane, ct.slice_axis("axial"), ct.initial_kind) == ("axial", -1, "fbp")
    assert (slices.slice_plane, slices.initial_kind) == (None, "interpolation")
    assert slices.measured_geometry() == slices.operator.measured_geometry()
    assert whitened("cartesian_mri", complex_volume=True).volume_dtype == torch.complex64


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.ones(19), "float32 of shape (19,)"),
        (torch.ones(20, dtype=torch.complex64), "complex64 of shape (20,)"),
        (torch.zeros(20), None),
        (-torch.ones(20), None),
        (torch.full((20,), float("nan")), None),
    ],
)
def test_what_are_no_weights(bad: Tensor, got: str | None) -> None:
    with raises(InputError, where="weights", got=got):
        WhitenedOperator(dense()[0], bad)


def insert() -> tuple[Tensor, VolumeGeometry]:
    """Water of 8 cm with two rods of metal: almost nothing gets through both."""
    n, spacing = 40, 2.0
    axis = (torch.arange(n) - (n - 1) / 2) * spacing
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    hu = torch.full((n, n), -1000.0)
    hu[x**2 + y**2 < 38**2] = 0.0
    hu[(x - 10) ** 2 + (y + 12) ** 2 < 6**2] = 200.0
    for centre in (-20.0, 20.0):
        hu[(x - centre) ** 2 + y**2 < 5**2] = 14000.0
    return hu[None, :, :, None].repeat(1, 1, 1, 2), VolumeGeometry((n, n, 2), (spacing, spacing, spacing))


def test_weights_help_where_few_photons_arrive() -> None:
    """A low dose behind metal; conjugate gradients on the data term alone, each stopped where it is best."""
    hu, geometry = insert()
    how = Simulation({"name": "parallel_ct", "views": 60}, photons=3e3, electronic_std=5.0, unit="HU", seed=1)
    measured, operator = simulate(hu, geometry, how)
    assert measured.weights is not None
    truth = MU_WATER * (1 + hu / 1000)
    water = (hu.abs() < 300).float()

    def best(operator: Operator, y: Tensor) -> float:
        rhs, errors = operator.adjoint(y), []
        for iterations in range(2, 24, 3):
            x = conjugate_gradient(operator.normal, rhs, torch.zeros_like(rhs), iterations=iterations, tolerance=0.0)
            errors.append(float(((x - truth) * water).norm() / (truth * water).norm()))
        return min(errors)

    white = WhitenedOperator(operator, measured.weights)
    unweighted, weighted = best(operator, measured.data), best(white, white.whiten(measured.data))
    assert weighted < 0.8 * unweighted


def test_the_inferer_weighs() -> None:
    """An entry of weight 0 may hold anything: the reconstruction is that without it."""
    from monai_diffrecon.bundle.score_network import ScoreNetwork
    from monai_diffrecon.engine.inferer import DiffReconInferer
    from monai_diffrecon.io.measurement.metatensor import to_tensor

    score = ScoreNetwork(
        name="none",
        version="1",
        network=torch.nn.Identity(),
        plane="axial",
        spacing=(1.0, 1.0),
        denoiser={"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0},
        intensity={"map": "percentile", "q": 99.5},
        sha256="0" * 64,
    )
    inferer = DiffReconInferer(score, "parallel_ct", sampler={"name": "admm_tv", "iterations": 8}, progress=False)
    volume = torch.zeros(1, 14, 14, 3)
    volume[:, 4:10, 4:10] = 1.0
    how = Simulation({"name": "parallel_ct", "views": 16})
    measured, _ = simulate(volume, VolumeGeometry((14, 14, 3)), how)
    w = torch.ones(measured.data.shape)
    w[3] = 0.0
    data = measured.data.clone()
    data[3] = 100.0

    def error(data: Tensor, w: Tensor | None) -> float:
        tensor = to_tensor(replace(measured, data=data, weights=w))
        assert isinstance(tensor, MetaTensor)
        return float((inferer.reconstruct(tensor).volume - volume).norm() / volume.norm())

    good, ignored, spoilt = error(measured.data, None), error(data, w), error(data, None)
    assert ignored < 1.5 * good + 0.02
    assert spoilt > 10 * ignored
