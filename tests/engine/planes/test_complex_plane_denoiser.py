# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Complex volumes: the denoiser alone, and whole reconstructions whose result is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.complex_plane_denoiser import ComplexPlaneDenoiser
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.cartesian_mri_3d import CartesianMRI3D
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

from ...raising import raises

SPACING = (1.0, 1.2, 0.8)


class Gaussian(nn.Module):
    """The denoiser of independent voxels N(mean, std^2)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma.view(-1, 1, 1, 1).square()
        return (variance * self.mean + self.std**2 * x) / (variance + self.std**2)


class Magnitudes(nn.Module):
    """Knows that magnitudes are not negative, and that neighbours are alike."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        mean = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        share = sigma.view(-1, 1, 1, 1) / (sigma.view(-1, 1, 1, 1) + 0.05)
        return (share * mean + (1 - share) * x).clamp_min(0.0)


class TwoChannels(nn.Module):
    """Exchanges the real and the imaginary part, and takes one channel only for none."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert x.shape[1] == 2
        return x.flip(1)


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)


def planes(network: nn.Module, plane: str = "axial") -> BatchedPlaneDenoiser:
    return BatchedPlaneDenoiser(DirectDenoiser(network), plane, batch_size=3)


def coordinates(*shape: int) -> tuple[Tensor, ...]:
    return torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")


def smooth_phase_object(*shape: int) -> Tensor:
    """A bright body with a hole, whose phase turns by several radians."""
    X, Y, Z = coordinates(*shape)
    body = 0.4 * (X**2 + Y**2 < 0.8) + 0.5 * ((X.abs() < 0.5) & (Y.abs() < 0.4)) - 0.3 * (X**2 + (Y - 0.6) ** 2 < 0.03)
    return (body.clamp_min(0) * torch.exp(1j * (2.5 * X + 1.5 * Y * Z + 2.0)))[None].to(torch.complex64)


def noisy(sigma: float, *shape: int) -> Tensor:
    x = smooth_phase_object(*shape)
    return x + sigma * keyed_normal(tuple(x.shape), torch.complex64, "noise")


def rms(x: Tensor) -> float:
    return float(x.abs().square().mean().sqrt())


@pytest.mark.parametrize("angle", [0.5, 2.0, -3.0])
def test_a_constant_phase_changes_nothing(angle: float) -> None:
    denoise = ComplexPlaneDenoiser(planes(tiny()), "phase", SPACING)
    x, turn = noisy(0.1, 14, 13, 9), torch.polar(torch.tensor(1.0), torch.tensor(angle))
    torch.testing.assert_close(denoise(turn * x, 0.1), turn * denoise(x, 0.1), atol=2e-5, rtol=0)


def test_a_positive_volume_without_phase_is_denoised_as_a_real_one() -> None:
    x = 0.5 + torch.rand((1, 9, 8, 7), generator=torch.Generator().manual_seed(0))
    got = ComplexPlaneDenoiser(planes(tiny(), "coronal"), "phase", SPACING)(torch.complex(x, torch.zeros_like(x)), 0.2)
    torch.testing.assert_close(got.real, planes(tiny(), "coronal")(x, 0.2))
    assert float(got.imag.abs().max()) == 0.0


def test_the_phase_mode_takes_noise_from_both_parts() -> None:
    """The network alone cannot: what is negative is noise to it."""
    x0, sigma = smooth_phase_object(40, 36, 12), 0.1
    x = noisy(sigma, 40, 36, 12)
    phase, channels = (
        ComplexPlaneDenoiser(planes(Magnitudes()), mode, (1.0,) * 3)(x, sigma) for mode in ("phase", "channels")
    )
    before = rms(x - x0)
    assert before == pytest.approx(sigma * math.sqrt(2), rel=0.05)
    assert rms(phase - x0) < 0.65 * before
    assert rms(channels - x0) > 1.5 * before


def test_the_imaginary_part_is_shrunk_by_what_is_signal_around_it() -> None:
    """Network that leaves all as it is: the real part stays; noise goes from the imaginary part, structure stays."""

    class Nothing(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x

    sigma, shape = 0.05, (30, 30, 16)
    flat = torch.complex(torch.ones(1, *shape), torch.zeros(1, *shape))
    X = torch.arange(30.0)[:, None, None]
    flat[0, 15:] += 0.5j * torch.cos(math.pi * X)[15:]  # alternates, so no low-pass takes it for phase
    x = flat + sigma * keyed_normal((1, *shape), torch.complex64, "noise")
    out = ComplexPlaneDenoiser(planes(Nothing()), "phase", (1.0, 1.0, 1.0))(x, sigma)
    assert rms((out - flat).imag[:, 1:5]) < 0.25 * sigma
    assert rms((out - flat).imag[:, 25:29]) == pytest.approx(sigma, rel=0.3)
    assert rms((out - flat).real) == pytest.approx(sigma, rel=0.1)


def test_the_width_is_in_millimetres() -> None:
    x = noisy(0.1, 12, 12, 12)
    fine, coarse = (
        ComplexPlaneDenoiser(planes(tiny()), "phase", (s,) * 3, width=s * 2.0, neighbourhood=s * 3.0)(x, 0.1)
        for s in (1.0, 3.0)
    )
    torch.testing.assert_close(fine, coarse)
    assert not torch.allclose(fine, ComplexPlaneDenoiser(planes(tiny()), "phase", (2.0,) * 3)(x, 0.1), atol=1e-4)


def test_two_channels_are_the_two_parts_of_one_slice() -> None:
    x = keyed_normal((1, 4, 5, 6), torch.complex64, "x")
    out = ComplexPlaneDenoiser(planes(TwoChannels()), "channels", SPACING, channels=2)(x, 0.1)
    assert torch.equal(out, torch.complex(x.imag, x.real))
    with raises(ConfigError, where="inferer#complex", got="'phase'", expected="channels"):
        ComplexPlaneDenoiser(planes(TwoChannels()), "phase", SPACING, channels=2)


@pytest.mark.parametrize("mode", ["phase", "channels"])
def test_another_plane_calls_and_gradients(mode: str) -> None:
    x = noisy(0.1, 7, 8, 9)
    axial = ComplexPlaneDenoiser(planes(tiny()), mode, SPACING, width=1.5)
    coronal = axial.for_plane("coronal")
    expected = ComplexPlaneDenoiser(planes(tiny(), "coronal"), mode, SPACING, width=1.5)(x, 0.1)
    torch.testing.assert_close(coronal(x, 0.1), expected)
    assert (axial.network_calls, coronal.network_calls) == (0, 3 * (1 if mode == "phase" else 2))
    assert (coronal.plane, coronal.sigma_min, coronal.sigma_max) == ("coronal", axial.sigma_min, axial.sigma_max)
    leaf = x.clone().requires_grad_()
    weights = keyed_normal(tuple(x.shape), torch.complex64, "w")
    (slope,) = torch.autograd.grad((axial(leaf, 0.1) * weights.conj()).real.sum(), leaf)
    assert slope.dtype == x.dtype
    assert float(slope.abs().max()) > 1e-3


GEOMETRY = VolumeGeometry((6, 5, 4))
MAPS = keyed_normal((2, *GEOMETRY.shape), torch.complex64, "maps")
SCORE = ScoreNetwork(
    name="gaussian",
    version="1",
    network=Gaussian(0.5, 0.25),
    plane="axial",
    spacing=(1.0, 1.0),
    denoiser={"name": "direct", "sigma_min": 0.001, "sigma_max": 2000.0},
    intensity={"map": "percentile", "q": 99.5},
    sha256="0" * 64,
)


def measure(operator: Operator, spec: dict[str, Any], x: Tensor, std: float) -> Tensor:
    y = operator(x)
    y = y + std * (y != 0) * keyed_normal(tuple(y.shape), torch.complex64, "measured")
    return to_tensor(Measurement(y, operator.geometry, operator=spec, noise_std=std))


@pytest.mark.parametrize("kind", [CartesianMRI, CartesianMRI3D])
@pytest.mark.parametrize("maps", [None, MAPS], ids=["single", "coils"])
def test_the_posterior_mean_of_a_gaussian_prior(kind: type, maps: Tensor | None) -> None:
    """At a noise level far above the prior's width the denoiser gives its mean, and CG the rest, in closed form.

    ``(A^H A / n^2 + I / s^2) x = A^H y / n^2 + m / s^2`` in network units, with n and s of each real component and the
    mean m = 0.5 + 0.5i of both parts.
    """
    name = {CartesianMRI: "cartesian_mri", CartesianMRI3D: "cartesian_mri_3d"}[kind]
    options = {"acceleration": 2.0, "complex_volume": True, "mask_seed": 1}
    options |= {} if maps is None else {"coil_maps": maps}
    operator, std = kind(GEOMETRY, **options), 30.0
    x = 200.0 * (0.5 + 0.5j + 0.25 * keyed_normal(operator.volume_shape, torch.complex64, "x"))
    measurement = measure(operator, {"name": name, **options}, x, std)
    y = measurement.as_tensor()
    scale = IntensityMap.percentile(operator.initial(y)).scale
    weight = (std / scale / 0.25) ** 2
    consistency = {"name": "conjugate_gradient", "iterations": 200, "tolerance": 1e-7}
    consistency["gamma"] = weight / operator.norm()
    sampler = {"name": "pnp_hqs", "steps": 1, "sigma_start": 1500.0, "sigma_end": 1500.0}
    inferer = DiffReconInferer(SCORE, name, "slices", consistency, sampler, complex="channels", progress=False)
    done = inferer.reconstruct(measurement)
    columns = [operator(e.reshape(operator.volume_shape)).flatten() for e in torch.eye(120, dtype=torch.complex64)]
    A = torch.stack(columns, 1).to(torch.complex128)
    right = A.mH @ (y.flatten().to(torch.complex128) / scale) + weight * (0.5 + 0.5j)
    expected = scale * torch.linalg.solve(A.mH @ A + weight * torch.eye(120, dtype=A.dtype), right)
    torch.testing.assert_close(done.volume.flatten().to(torch.complex128), expected, atol=1e-3 * scale, rtol=0)
    assert done.report.options["complex"] == "channels"
    assert done.report.scale == pytest.approx(scale)


def test_a_smooth_phase_object_from_few_measurements() -> None:
    """Phase mode beats both its start and the two parts as slices."""
    geometry = VolumeGeometry((40, 36, 8))
    options = {"acceleration": 3.0, "complex_volume": True}
    operator, x = CartesianMRI(geometry, **options), 300.0 * smooth_phase_object(40, 36, 8)
    measurement = measure(operator, {"name": "cartesian_mri", **options}, x, 3.0)
    score = replace(SCORE, network=Magnitudes())
    sampler = {"name": "pnp_hqs", "steps": 6, "sigma_start": 0.15, "start": "initial"}
    errors = {
        mode: rms(
            DiffReconInferer(score, "cartesian_mri", sampler=sampler, complex=mode, progress=False)
            .reconstruct(measurement)
            .volume
            - x
        )
        for mode in ("phase", "channels")
    }
    start = rms(operator.initial(measurement.as_tensor()) - x)
    assert errors["phase"] < 0.95 * start
    assert errors["phase"] < 0.5 * errors["channels"]


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "ddim", "steps": 3, "sigma_start": 0.5},
        {"name": "heun", "steps": 2, "S_churn": 1.0, "start": {"name": "admm_tv", "iterations": 2}, "sigma_start": 0.2},
        {"name": "predictor_corrector", "steps": 3, "sigma_max": 0.5},
        {"name": "pnp_hqs", "steps": 2, "start": {"name": "cg_least_squares", "weight": 0.01}},
        {"name": "cg_least_squares"},
    ],
    ids=lambda spec: spec["name"],
)
@pytest.mark.parametrize(
    "consistency",
    [
        "conjugate_gradient",
        {"name": "conjugate_gradient", "gamma": "discrepancy", "correlation": 1.0},
        {"name": "admm", "regularizers": [{"name": "z_tv"}]},
        {"name": "admm_iterate", "regularizers": [{"name": "z_tv"}]},
        {"name": "dps", "zeta": 0.1},
    ],
    ids=["cg", "discrepancy", "admm", "admm_iterate", "dps"],
)
def test_every_part_takes_complex_volumes(sampler: Any, consistency: Any) -> None:
    options = {"acceleration": 2.0, "complex_volume": True, "coil_maps": MAPS}
    operator = CartesianMRI(GEOMETRY, **options)
    x = smooth_phase_object(*GEOMETRY.shape)
    measurement = measure(operator, {"name": "cartesian_mri", **options}, x, 0.02)
    score = replace(SCORE, network=Gaussian(0.3, 0.3))
    done = DiffReconInferer(
        score, "cartesian_mri", consistency=consistency, sampler=sampler, progress=False
    ).reconstruct(measurement)
    assert done.volume.dtype == torch.complex64
    assert bool(torch.isfinite(torch.view_as_real(done.volume)).all())


def test_what_does_not_go_together_is_refused() -> None:
    operator = CartesianMRI(GEOMETRY, acceleration=2.0, complex_volume=True)
    spec = {"name": "cartesian_mri", "acceleration": 2.0}
    x = smooth_phase_object(*GEOMETRY.shape)
    measurement = measure(operator, {**spec, "complex_volume": True}, x, 0.0)
    real = measure(CartesianMRI(GEOMETRY, acceleration=2.0), spec, x.abs(), 0.0)
    with raises(ConfigError, where="inferer#complex", got="'polar'"):
        DiffReconInferer(SCORE, "cartesian_mri", complex="polar")
    two = replace(SCORE, network=TwoChannels(), channels=2)
    with raises(ConfigError, where="inferer#complex", got="'phase'"):
        DiffReconInferer(two, "cartesian_mri", progress=False).reconstruct(measurement)
    with raises(ConfigError, where="bundle gaussian"):
        DiffReconInferer(two, "cartesian_mri", progress=False).reconstruct(real)
    window = replace(SCORE, intensity={"map": "window", "low": -10.0, "high": 10.0})
    with raises(ConfigError, where="bundle gaussian, diffrecon#intensity", got="low -10"):
        DiffReconInferer(window, "cartesian_mri", progress=False).reconstruct(measurement)
