# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The predictor-corrector sampler on a Gaussian prior, whose samples are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.consistency.admm_iterate import ADMMIterateStep
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.consistency.dps import DPSStep
from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.samplers.predictor_corrector import PredictorCorrectorSampler
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.sampler_laws import check_sampler, run

from ..raising import raises

PRIOR = GaussianPrior()
RANGE = {"sigma_max": 10.0, "sigma_min": 0.01}


def problem(shape: tuple[int, int, int] = (4, 5, 7), thickness: float = 2.0) -> Problem:
    operator = SliceThickness(VolumeGeometry(shape), thickness=thickness)
    truth = 0.5 + 0.25 * torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    return Problem(operator, operator(truth))


def sample(sampler: PredictorCorrectorSampler, shape: tuple[int, int, int] = (16, 16, 16), seed: int = 0) -> Tensor:
    """Return an unconditional sample."""
    return run(sampler, problem(shape), PRIOR.denoise, NoConsistency(), seed=seed).x


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "predictor_corrector"},
        {"snr": 0.0, "final_mean": False},
        {"corrector_steps": 2},
        {"ladder": "karras"},
    ],
)
@pytest.mark.parametrize(
    "consistency",
    [NoConsistency, ConjugateGradientStep, lambda: ADMMIterateStep(ZTV(0.05)), lambda: DPSStep(0.5)],
    ids=["none", "conjugate_gradient", "admm_iterate", "dps"],
)
def test_laws(options: dict[str, Any], consistency: Any) -> None:
    check_sampler(lambda: PredictorCorrectorSampler(4, **options), problem(), PRIOR.denoise, consistency)


@pytest.mark.parametrize("order", ["predictor_corrector", "corrector_predictor"])
def test_a_sample_is_one_of_the_prior(order: str) -> None:
    x = sample(PredictorCorrectorSampler(200, order=order, **RANGE))
    assert float(x.mean()) == pytest.approx(0.5, abs=4 * 0.25 / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(0.25, rel=0.05)


def test_one_step_by_hand() -> None:
    """Two steps at levels 10 and 0.01, without a corrector: the first predictor as the paper has it."""
    p = problem()
    sampler = PredictorCorrectorSampler(2, snr=0.0, **RANGE)
    noise = IndependentNoise(0, "case")
    sampler.prepare(p, sigma_min=1e-3, sigma_max=20.0)
    state = sampler.begin(noise, seed=0, case="case")
    x = 10.0 * noise.volume(p.operator.volume_shape, 0, stream="start")
    torch.testing.assert_close(state.x, x)
    got = sampler.step(state, PRIOR.denoise, NoConsistency(), noise)
    variance = 10.0**2 - 0.01**2
    n = noise.volume(p.operator.volume_shape, 0, stream="predictor")
    expected = x + variance * (0.5 - x) / (10.0**2 + 0.25**2) + math.sqrt(variance) * n
    torch.testing.assert_close(got.x, expected, rtol=1e-5, atol=1e-4)
    assert (got.step, got.sigma, got.plane) == (1, 0.01, "")


def test_without_a_corrector_a_network_is_called_once() -> None:
    """``corrector_steps`` 0 and ``snr`` 0 are the same; every Langevin step costs one call."""
    none = [
        sample(PredictorCorrectorSampler(5, **option, **RANGE)) for option in ({"snr": 0.0}, {"corrector_steps": 0})
    ]
    assert torch.equal(*none)
    for correctors, calls in ((0, 5), (1, 10), (3, 20)):
        prior = GaussianPrior()
        sampler = PredictorCorrectorSampler(5, corrector_steps=correctors, **RANGE)
        run(sampler, problem(), prior.denoise, NoConsistency())
        assert prior.calls == calls


def test_a_slice_does_not_depend_on_its_neighbours() -> None:
    """With norms of slices, and a prior and noise that know no neighbours, the first slices are the same alone."""
    few = sample(PredictorCorrectorSampler(6, **RANGE), (5, 4, 2))
    many = sample(PredictorCorrectorSampler(6, **RANGE), (5, 4, 9))
    torch.testing.assert_close(many[..., :2], few)


@pytest.mark.parametrize(
    # The predictor steps from 0.01 to 0. The corrector adds sqrt(2 e) = 2 snr |n| / |s|, and |s| is 4 |n| at the end.
    ("order", "expected"),
    [("corrector_predictor", 0.01), ("predictor_corrector", 2 * 0.16 / 4)],
)
def test_the_last_update_adds_no_noise(order: str, expected: float) -> None:
    mean = sample(PredictorCorrectorSampler(30, order=order, **RANGE))
    noisy = sample(PredictorCorrectorSampler(30, order=order, final_mean=False, **RANGE))
    assert float((noisy - mean).std()) == pytest.approx(expected, rel=0.15)


def test_guidance_follows_every_update_and_carries_its_plane() -> None:
    seen = []

    class Watcher(ConsistencyStep):
        def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor:
            seen.append((state.step, state.plane))
            return torch.ones_like(x)

    prior = PerpendicularPrior(2)
    prior.bind([GaussianPrior(plane="axial"), GaussianPrior(plane="coronal")])
    sampler, noise, p = PredictorCorrectorSampler(2, **RANGE), IndependentNoise(0), problem()
    sampler.prepare(p, sigma_min=1e-3, sigma_max=20.0, prior=prior)
    with torch.no_grad():
        first = state = sampler.begin(noise, seed=0, case="")
        for _ in range(2):
            state = sampler.step(state, prior.denoise, Watcher(), noise)
        alone = PredictorCorrectorSampler(2, snr=0.0, **RANGE)
        alone.prepare(p, sigma_min=1e-3, sigma_max=20.0, prior=prior)
        shifted = alone.step(first, prior.denoise, Watcher(), noise).x
        plain = alone.step(first, prior.denoise, NoConsistency(), noise).x
    assert seen[:4] == [(0, "axial"), (0, "axial"), (1, "coronal"), (1, "coronal")]
    torch.testing.assert_close(plain - shifted, torch.ones_like(plain))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"steps": 1}, "sampler#steps"),
        ({"steps": 10.0}, "sampler#steps"),
        ({"order": "corrector"}, "sampler#order"),
        ({"snr": -0.1}, "sampler#snr"),
        ({"corrector_steps": -1}, "sampler#corrector_steps"),
        ({"sigma_max": 0.0}, "sampler#sigma_max"),
        ({"sigma_min": float("nan")}, "sampler#sigma_min"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str) -> None:
    with raises(ConfigError, where=where):
        PredictorCorrectorSampler(**options)


@pytest.mark.parametrize("options", [{"sigma_max": 50.0}, {"sigma_min": 1e-4}, {"sigma_max": 0.1, "sigma_min": 0.2}])
def test_levels_that_the_networks_do_not_know(options: dict[str, float]) -> None:
    with raises(ConfigError, where="sampler#sigma_min, sampler#sigma_max", expected="0.001 to 10"):
        PredictorCorrectorSampler(5, **options).prepare(problem(), sigma_min=1e-3, sigma_max=10.0)


def test_a_karras_ladder_samples_the_same_gaussian() -> None:
    karras, geometric = (
        sample(PredictorCorrectorSampler(60, ladder=ladder, **RANGE)) for ladder in ("karras", "geometric")
    )
    for drawn in (karras, geometric):
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(drawn.std()) == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(karras, geometric)
    with raises(ConfigError, where="sampler#ladder", got="'linear'"):
        PredictorCorrectorSampler(ladder="linear")
