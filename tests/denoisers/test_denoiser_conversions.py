# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every parameterization of one known posterior gives the same denoiser."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from monai_diffrecon.denoisers._ddpm_schedules import SCHEDULES, alphas_cumprod
from monai_diffrecon.denoisers.ddpm import DDPMDenoiser
from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.denoisers.edm import EDMDenoiser
from monai_diffrecon.denoisers.ve_score import VEScoreDenoiser
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.testing.denoiser_laws import check_denoiser
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

from ..raising import raises

PRIOR = GaussianPrior()


class Net(nn.Module):
    """A network that is a formula, and remembers what it was given."""

    def __init__(self, formula) -> None:
        super().__init__()
        self.formula, self.seen = formula, {}

    def forward(self, x: Tensor, level: Tensor | None = None, timesteps: Tensor | None = None) -> Tensor:
        level = timesteps if level is None else level
        assert level.shape == (x.shape[0],)
        self.seen = {"x": x, "level": level}
        return self.formula(x, level.reshape(-1, 1, 1, 1))


def edm_formula(x: Tensor, c_noise: Tensor, sigma_data: float = 0.4) -> Tensor:
    sigma = torch.exp(4 * c_noise)
    total = sigma**2 + sigma_data**2
    noisy = x * total.sqrt()
    wanted = PRIOR.estimate(noisy, sigma)
    return (wanted - sigma_data**2 / total * noisy) / (sigma * sigma_data / total.sqrt())


def ddpm_formula(prediction: str):
    # In the range [-1, 1] the voxels are N(0, 0.5^2).
    prior, abars = GaussianPrior(mean=0.0, std=0.5), alphas_cumprod("linear_beta", 1000)

    def formula(x: Tensor, t: Tensor) -> Tensor:
        abar = abars[t].to(x.dtype)
        sigma = ((1 - abar) / abar).sqrt()
        z, n = prior.estimate(x / abar.sqrt(), sigma), prior.epsilon(x / abar.sqrt(), sigma)
        return {"epsilon": n, "sample": z, "v_prediction": abar.sqrt() * n - (1 - abar).sqrt() * z}[prediction]

    return formula


def make(kind: str):
    if kind == "direct":
        return DirectDenoiser(Net(PRIOR.estimate), sigma_min=0.005, sigma_max=50)
    if kind == "edm":
        return EDMDenoiser(Net(edm_formula), sigma_min=0.005, sigma_max=50, sigma_data=0.4)
    if kind == "ve_score":
        return VEScoreDenoiser(Net(PRIOR.score), sigma_min=0.005, sigma_max=50)
    return DDPMDenoiser(Net(ddpm_formula(kind)), prediction_type=kind, data_range=(-1, 1))


KINDS = ["direct", "edm", "ve_score", "epsilon", "v_prediction", "sample"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_parameterizations_are_one_denoiser(kind: str) -> None:
    abar = alphas_cumprod("linear_beta", 1000)[torch.tensor([3, 200, 700])]
    sigma = (((1 - abar) / abar).sqrt() / 2).float()  # noise levels that DDPM has, halved from [-1, 1] to [0, 1]
    x = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    torch.testing.assert_close(
        make(kind)(x, sigma), PRIOR.estimate(x, sigma.reshape(-1, 1, 1, 1)), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind: str) -> None:
    check_denoiser(make(kind))


def test_laws_of_a_monai_network() -> None:
    torch.manual_seed(0)
    net = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 8),
        attention_levels=(False, False),
        num_res_blocks=1,
        num_head_channels=8,
        norm_num_groups=4,
    ).eval()
    for timesteps in ("nearest", "interpolated"):
        check_denoiser(DDPMDenoiser(net, timesteps=timesteps, sigma_max=5.0))


@pytest.mark.parametrize("count", [1000, 50])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_those_of_monai(schedule: str, count: int) -> None:
    expected = DDPMScheduler(count, schedule=schedule).alphas_cumprod.double()
    got = alphas_cumprod(schedule, count)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert ((got[1:] < got[:-1]) & (got[1:] > 0)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_network_sees_what_monai_trained_it_with(schedule: str, prediction: str) -> None:
    scheduler = DDPMScheduler(1000, schedule=schedule, prediction_type=prediction)
    generator = torch.Generator().manual_seed(1)
    x0, n = torch.rand((4, 1, 6, 6), generator=generator), torch.randn((4, 1, 6, 6), generator=generator)
    t = torch.tensor([0, 10, 400, 900])
    z0 = 2 * x0 - 1
    target = {"epsilon": n, "sample": z0, "v_prediction": scheduler.get_velocity(z0, n, t)}[prediction]
    net = Net(lambda x, level: target)
    denoiser = DDPMDenoiser(net, schedule=schedule, prediction_type=prediction, data_range=[-1, 1])
    abar = alphas_cumprod(schedule, 1000)[t]
    sigma = (((1 - abar) / abar).sqrt() / 2).float()
    estimate = denoiser(x0 + sigma.reshape(-1, 1, 1, 1) * n, sigma)
    assert torch.equal(net.seen["level"], t)
    torch.testing.assert_close(net.seen["x"], scheduler.add_noise(z0, n, t), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(estimate, x0, atol=2e-4, rtol=1e-3)


def test_levels_between_timesteps() -> None:
    abar = torch.tensor([1.0, 0.9, 0.5, 0.1], dtype=torch.float64)
    levels = ((1 - abar) / abar).sqrt()
    between = float(torch.exp(0.75 * levels[1].log() + 0.25 * levels[2].log()))
    nearest = DDPMDenoiser(Net(None), alphas_cumprod=abar.tolist())
    fraction = DDPMDenoiser(Net(None), alphas_cumprod=abar, timesteps="interpolated")
    asked = torch.tensor([1e-9, float(levels[1]), between, float(levels[2]), 99.0], dtype=torch.float64)
    assert nearest.timestep(asked).tolist() == [1, 1, 1, 2, 3]
    assert nearest.timestep(asked).dtype == torch.int64
    # Timestep 0 has no noise, so the smallest noise level is that of timestep 1.
    torch.testing.assert_close(fraction.timestep(asked), torch.tensor([1.0, 1.0, 1.25, 2.0, 3.0]))
    assert nearest.sigma_min == pytest.approx(float(levels[1]))
    assert nearest.sigma_max == pytest.approx(float(levels[3]))


def test_a_learned_variance_is_dropped_and_other_shapes_are_refused() -> None:
    x = torch.rand(2, 1, 4, 4)
    twice = DDPMDenoiser(
        Net(lambda x, t: torch.cat((torch.full_like(x, 0.25), x + 9), dim=1)), prediction_type="sample"
    )
    torch.testing.assert_close(twice(x, 0.5), torch.full_like(x, 0.25))
    for cls, name in ((DirectDenoiser, "direct"), (EDMDenoiser, "edm"), (VEScoreDenoiser, "ve_score")):
        with raises(InputError, where=f"denoiser {name}", expected=(2, 1, 4, 4), got=(2, 2, 4, 4)):
            cls(Net(lambda x, s: torch.cat((x, x), dim=1)))(x, 0.5)


@pytest.mark.parametrize(
    ("cls", "options", "where", "got"),
    [
        (DirectDenoiser, {"sigma_min": 0.0}, "denoiser#sigma_min", "0.0"),
        (DirectDenoiser, {"sigma_min": True}, "denoiser#sigma_min", "True"),
        (EDMDenoiser, {"sigma_min": 2.0, "sigma_max": 1.0}, "denoiser#sigma_max", "1.0"),
        (EDMDenoiser, {"sigma_data": float("nan")}, "denoiser#sigma_data", "nan"),
        (VEScoreDenoiser, {"sigma_max": float("inf")}, "denoiser#sigma_max", "inf"),
        (DDPMDenoiser, {"sigma_max": 500.0}, "denoiser#sigma_min, sigma_max", "0.0100005 to 500"),
        (DDPMDenoiser, {"prediction_type": "x0"}, "denoiser#prediction_type", "'x0'"),
        (DDPMDenoiser, {"schedule": "linear"}, "denoiser#schedule", "'linear'"),
        (DDPMDenoiser, {"num_train_timesteps": 1000.0}, "denoiser#num_train_timesteps", "1000.0"),
        (DDPMDenoiser, {"beta_end": 1e-5}, "denoiser#beta_end", "1e-05"),
        (DDPMDenoiser, {"timesteps": "closest"}, "denoiser#timesteps", "'closest'"),
        (DDPMDenoiser, {"data_range": (1, -1)}, "denoiser#data_range", "-1"),
        (DDPMDenoiser, {"data_range": "01"}, "denoiser#data_range", "'01'"),
        (DDPMDenoiser, {"alphas_cumprod": [0.5, 0.9]}, "denoiser#alphas_cumprod", "(2,) from [0.5] to [0.9]"),
        (
            DDPMDenoiser,
            {"alphas_cumprod": [0.9, float("nan"), 0.1]},
            "denoiser#alphas_cumprod",
            "(3,) from [0.9] to [0.1]",
        ),
        (DDPMDenoiser, {"alphas_cumprod": [1.0, 0.5]}, "denoiser#alphas_cumprod", "(2,) from [1.0] to [0.5]"),
    ],
)
def test_wrong_options(cls, options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        cls(Net(None), **options)
