# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Several samples against the posterior that is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monai_diffrecon.comparison.calibration import interval_coverage, rank_coverage, rank_histogram
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.engine.posterior.posterior_samples import seen_part
from monai_diffrecon.engine.posterior.sample_accumulator import SampleAccumulator
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.run_report import PosteriorSpread
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.unconditional import Unconditional
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import ConsistencyStep, Operator, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.samplers.heun import HeunSampler
from monai_diffrecon.testing.dense_operator import DenseOperator
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

from ...raising import raises

PRIOR = GaussianPrior()
SMALL = VolumeGeometry((4, 3, 2))


class Diagonal(Operator):
    """Every voxel by itself, known more or less well, half of them not at all."""

    def __init__(self, geometry: VolumeGeometry) -> None:
        super().__init__(geometry, (1, *geometry.shape))
        w = torch.rand(self.volume_shape, generator=torch.Generator().manual_seed(3))
        self.w = w * (w > 0.5)

    def initial(self, y: Tensor) -> Tensor:
        return y

    def _forward(self, x: Tensor) -> Tensor:
        return self.w * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.w * y


class ExactCorrection(ConsistencyStep):
    """E[x0 | x, y] from E[x0 | x]: of the Gaussian prior the variance of x0 given x is known."""

    def __init__(self, solve: Callable[[float, Tensor], Tensor]) -> None:
        self.solve = solve

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        return self.solve(1.0 / (PRIOR.std**-2 + state.sigma**-2), x0)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_samples(
    draw: Callable[[int], Tensor], operator: Operator, count: int, *, keep: bool = False
) -> tuple[Tensor, PosteriorSpread | None]:
    """Draw samples one after the other; half-way the accumulator is replaced by one restored from its state."""
    samples = SampleAccumulator(operator, keep=keep)
    for index in range(count):
        if index == count // 2:
            restored = SampleAccumulator(operator, keep=keep)
            restored.load_state_dict(samples.state_dict())
            samples = restored
        samples.add(draw(index))
    return samples.result()


def matrix(rows: int = 8) -> Tensor:
    return normal(rows, 24, seed=1) / 24**0.5


def sampler(problem: Problem, consistency: Callable[[], ConsistencyStep], steps: int) -> Callable[[int], Tensor]:
    """Return what draws a sample by the engine, with noise of its own."""

    def draw(index: int) -> Tensor:
        noise = IndependentNoise(0, f"case#sample{index}")
        prior = SlicesPrior()
        prior.bind([PRIOR], noise)
        engine = ReconstructionEngine(
            problem, prior, consistency(), HeunSampler(steps, sigma_start=20.0, sigma_end=0.02), noise
        )
        return engine.reconstruct(seed=0, case=f"case#sample{index}").x

    return draw


@pytest.mark.slow
def test_samples_of_noisy_data_are_those_of_the_closed_form() -> None:
    A, noise_std, count = matrix(), 0.1, 100
    operator = DenseOperator(SMALL, A)
    truth = PRIOR.mean + PRIOR.std * normal(24, seed=2)
    y = A @ truth + noise_std * normal(8, seed=4)

    def correct(variance: float, x0: Tensor) -> Tensor:
        gram = variance * A @ A.T + noise_std**2 * torch.eye(8)
        return x0 + variance * (A.T @ torch.linalg.solve(gram, y - operator(x0))).reshape(x0.shape)

    mean, spread = draw_samples(
        sampler(Problem(operator, y, noise_std), lambda: ExactCorrection(correct), 26), operator, count
    )
    assert spread is not None
    covariance = torch.linalg.inv(torch.eye(24) / PRIOR.std**2 + A.T @ A / noise_std**2)
    prior_mean = torch.full((24,), PRIOR.mean)
    expected = prior_mean + covariance @ A.T @ (y - A @ prior_mean) / noise_std**2
    std = covariance.diagonal().sqrt()
    z = (mean.reshape(-1) - expected) / (std / count**0.5)
    assert float(z.abs().max()) < 4.0
    assert 0.5 < float(z.square().mean().sqrt()) < 1.6
    ratio = spread.std.reshape(-1) / std
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.04)  # 24 voxels, 100 samples: 1.4 %, and Heun's own error
    assert float((ratio - 1).abs().max()) < 4.5 / (2 * count) ** 0.5
    projector = torch.linalg.pinv(A) @ A
    rest = torch.eye(24) - projector
    for part, P in ((spread.std_measured, projector), (spread.std_null, rest)):
        closed = (P @ covariance @ P.T).diagonal().sqrt()
        assert float((part.reshape(-1) / closed).mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_without_noise_all_spread_is_where_the_operator_does_not_see() -> None:
    A, count = matrix(), 40
    operator = DenseOperator(SMALL, A)
    y = A @ (PRIOR.mean + PRIOR.std * normal(24, seed=2))
    step = lambda: ConjugateGradientStep(iterations=50, tolerance=1e-6)  # noqa: E731
    mean, spread = draw_samples(sampler(Problem(operator, y), step, 24), operator, count)
    assert spread is not None
    closed = PRIOR.std * (torch.eye(24) - torch.linalg.pinv(A) @ A).diagonal().sqrt()
    assert float(spread.std_measured.max()) < 1e-3 * PRIOR.std
    torch.testing.assert_close(spread.std_null, spread.std, rtol=1e-3, atol=1e-4)
    assert float((spread.std.reshape(-1) / closed).mean()) == pytest.approx(1.0, abs=0.06)
    torch.testing.assert_close(operator(mean), y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("keep", [False, True])
def test_the_split_is_that_of_the_projector(keep: bool) -> None:
    A = matrix()
    operator = DenseOperator(SMALL, A)
    draws = normal(5, 24, seed=5) + 300.0
    mean, spread = draw_samples(lambda i: draws[i].reshape(1, 4, 3, 2), operator, 5, keep=keep)
    assert spread is not None
    P = torch.linalg.pinv(A) @ A
    deviations = draws - draws.mean(0)
    torch.testing.assert_close(mean.reshape(-1), draws.mean(0))
    for part, d in (
        (spread.std, deviations),
        (spread.std_measured, deviations @ P.T),
        (spread.std_null, deviations - deviations @ P.T),
    ):
        torch.testing.assert_close(part.reshape(-1), d.square().sum(0).div(4).sqrt(), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(seen_part(operator, mean).reshape(-1), P @ draws.mean(0), rtol=1e-3, atol=0.1)
    assert len(spread.samples) == (5 if keep else 0)


def test_of_nothing_measured_nothing_is_seen() -> None:
    operator = Unconditional(SMALL)
    _, spread = draw_samples(lambda i: normal(1, 4, 3, 2, seed=i), operator, 3)
    assert spread is not None
    assert torch.equal(spread.std_measured, torch.zeros(1, 4, 3, 2))
    torch.testing.assert_close(spread.std_null, spread.std)


def test_intervals_of_eight_samples_cover_what_they_say() -> None:
    geometry, noise_std, count = VolumeGeometry((20, 20, 20)), 0.1, 8
    operator = Diagonal(geometry)
    truth = PRIOR.mean + PRIOR.std * normal(1, *geometry.shape, seed=2)
    y = operator(truth) + noise_std * normal(1, *geometry.shape, seed=6)

    def correct(variance: float, x0: Tensor) -> Tensor:
        w = operator.w
        return x0 + variance * w * (y - w * x0) / (variance * w**2 + noise_std**2)

    mean, spread = draw_samples(
        sampler(Problem(operator, y, noise_std), lambda: ExactCorrection(correct), 26), operator, count, keep=True
    )
    assert spread is not None
    error = (0.9 * 0.1 / 8000) ** 0.5
    student = interval_coverage(mean, spread.std, truth, num_samples=count)
    ranks = rank_coverage(spread.samples, truth)
    assert student.at(0.9) == pytest.approx(0.9, abs=4 * error)
    assert ranks.at(0.9) == pytest.approx(0.9, abs=4 * error)
    assert max(student.expected_calibration_error, ranks.expected_calibration_error) < 0.012
    # Eight samples do not know their spread: the Gaussian interval is too narrow.
    assert interval_coverage(mean, spread.std, truth).at(0.9) < 0.87
    # And with the closed form's own mean and spread it is right.
    variance = 1 / (PRIOR.std**-2 + operator.w**2 / noise_std**2)
    exact_mean = PRIOR.mean + variance * operator.w * (y - operator.w * PRIOR.mean) / noise_std**2
    assert interval_coverage(exact_mean, variance.sqrt(), truth).at(0.9) == pytest.approx(0.9, abs=4 * error)
    histogram = torch.tensor(rank_histogram(spread.samples, truth))
    assert float((histogram * 9 - 1).abs().max()) < 0.15


def test_one_sample_is_handed_through() -> None:
    x = normal(1, 4, 3, 2, seed=0)
    volume, spread = draw_samples(lambda index: x, Unconditional(SMALL), 1)
    assert volume is x
    assert spread is None


def test_the_same_sample_again_is_an_error_after_the_second() -> None:
    drawn: list[int] = []

    def draw(index: int) -> Tensor:
        drawn.append(index)
        return torch.ones(1, 4, 3, 2)

    with raises(ConfigError, where="inferer#num_samples", expected="1"):
        draw_samples(draw, Unconditional(SMALL), 9)
    assert drawn == [0, 1]
