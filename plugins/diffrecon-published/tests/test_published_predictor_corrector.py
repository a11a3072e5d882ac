# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the published loops do otherwise, on a Gaussian prior whose samples are known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffrecon_published.published_dps import PublishedDPSStep, StagedState
from diffrecon_published.published_predictor_corrector import PublishedPredictorCorrectorSampler
from monai_diffrecon.consistency.admm_iterate import ADMMIterateStep
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
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
        {"order": "predictor_corrector", "langevin_norm": "batch", "batch_size": 3, "split": "floor_plus_one"},
        {"carry": "mean", "start": "measured", "unseen": "zero"},
        {"corrector_steps": 2, "time_end": 1e-10, "index_rule": "trunc32"},
        {"ladder": "karras"},
    ],
)
@pytest.mark.parametrize(
    "consistency",
    [
        ConjugateGradientStep,
        lambda: ADMMIterateStep(ZTV(0.05)),
        lambda: PublishedDPSStep(0.5),
    ],
    ids=["conjugate_gradient", "admm_iterate", "published_dps"],
)
def test_laws(options: dict[str, Any], consistency: Any) -> None:
    check_sampler(lambda: PublishedPredictorCorrectorSampler(4, **options), problem(), PRIOR.denoise, consistency)


@pytest.mark.parametrize("ladder", ["karras", "geometric"])
def test_its_defaults_are_the_sampler_of_the_core(ladder: str) -> None:
    """But for the published time grid, which ends at 1e-5 instead of 0: levels differ by less than 1e-4."""
    core, published = (
        sample(cls(30, ladder=ladder, **RANGE))
        for cls in (PredictorCorrectorSampler, PublishedPredictorCorrectorSampler)
    )
    torch.testing.assert_close(published, core, rtol=0.0, atol=0.0 if ladder == "karras" else 5e-3)


def test_a_sample_that_carries_the_mean_is_too_smooth() -> None:
    """The predictor's noise is thrown away (TPDM): 0.22 at 20 steps, 0.24 at 50 with the published range."""
    wide = GaussianPrior(sigma_max=400.0, sigma_min=0.01)
    for steps, expected in ((20, 0.222), (50, 0.24)):
        sampler = PublishedPredictorCorrectorSampler(
            steps, carry="mean", langevin_norm="batch", batch_size=6, sigma_max=378.0, sigma_min=0.01
        )
        x = run(sampler, problem((16, 16, 16)), wide.denoise, NoConsistency(), sigma_min=0.01, sigma_max=400.0).x
        assert float(x.std()) == pytest.approx(expected, abs=0.008)
    full, mean = (sample(PublishedPredictorCorrectorSampler(50, carry=c, **RANGE)) for c in ("sample", "mean"))
    assert float(mean.std()) < float(full.std()) - 0.002


def test_norms_of_batches() -> None:
    """A batch of one is a slice; a batch of all mixes them; a slice does not depend on the batches."""

    def of(norm: str, size: int) -> Tensor:
        return sample(PublishedPredictorCorrectorSampler(6, langevin_norm=norm, batch_size=size, **RANGE), (5, 4, 7))

    torch.testing.assert_close(of("batch", 1), of("slice", 0))
    assert torch.equal(of("slice", 3), of("slice", 0))
    assert torch.equal(of("batch", 7), of("batch", 0))
    assert (of("batch", 3) - of("batch", 0)).abs().max() > 1e-3


def test_starts() -> None:
    p = problem((4, 5, 7), thickness=3.0)  # two thick slices and a thin one that nothing measures
    noise = IndependentNoise(0, "case")

    def begin(**options: Any) -> Tensor:
        sampler = PublishedPredictorCorrectorSampler(5, **options, **RANGE)
        sampler.prepare(p, sigma_min=1e-3, sigma_max=20.0)
        return sampler.begin(noise, seed=0, case="case").x

    free, measured = begin(), begin(start="measured")
    assert (p.operator(free) - p.measurement).abs().max() > 5.0
    torch.testing.assert_close(p.operator(measured), p.measurement, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(measured[..., 6], free[..., 6])
    moved = (measured - free)[..., :6].unflatten(-1, (2, 3))
    torch.testing.assert_close(moved, moved.mean(-1, keepdim=True).expand_as(moved), rtol=1e-4, atol=1e-4)
    zeroed = begin(start="measured", unseen="zero")
    assert not bool(zeroed[..., 6].any())
    assert torch.equal(zeroed[..., :6], measured[..., :6])


def test_guidance_carries_its_stage_and_the_mean_is_shifted_too() -> None:
    seen = []

    class Watcher(ConsistencyStep):
        def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor:
            assert isinstance(state, StagedState)
            seen.append((state.step, state.stage, state.plane))
            return torch.ones_like(x)

    prior = PerpendicularPrior(2)
    prior.bind([GaussianPrior(plane="axial"), GaussianPrior(plane="coronal")])
    noise, p = IndependentNoise(0), problem()
    sampler = PublishedPredictorCorrectorSampler(2, **RANGE)
    mean = PublishedPredictorCorrectorSampler(2, carry="mean", snr=0.0, **RANGE)
    for each in (sampler, mean):
        each.prepare(p, sigma_min=1e-3, sigma_max=20.0, prior=prior)
    with torch.no_grad():
        first = state = sampler.begin(noise, seed=0, case="")
        for _ in range(2):
            state = sampler.step(state, prior.denoise, Watcher(), noise)
        shifted = mean.step(first, prior.denoise, Watcher(), noise).x
        plain = mean.step(first, prior.denoise, NoConsistency(), noise).x
    assert type(state) is SamplerState
    assert seen[:4] == [
        (0, "corrector0", "axial"),
        (0, "predictor", "axial"),
        (1, "corrector0", "coronal"),
        (1, "predictor", "coronal"),
    ]
    torch.testing.assert_close(plain - shifted, torch.ones_like(plain))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"time_end": 0.7}, "sampler#time_end"),
        ({"index_rule": "round"}, "sampler#index_rule"),
        ({"langevin_norm": "volume"}, "sampler#langevin_norm"),
        ({"batch_size": -1}, "sampler#batch_size"),
        ({"split": "halves"}, "sampler#split"),
        ({"carry": "nothing"}, "sampler#carry"),
        ({"start": "initial"}, "sampler#start"),
        ({"unseen": "mean"}, "sampler#unseen"),
        ({"steps": 1}, "sampler#steps"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PublishedPredictorCorrectorSampler(**options)
    assert caught.value.where == where
