# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Photons, Hounsfield units, and the inferer that returns what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.network_units import unit_map
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import from_tensor, to_tensor
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.numerics.ct.attenuation import MU_WATER, attenuation_to_hu, hu_to_attenuation
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import Measurement, VolumeGeometry

from ...raising import raises

GEOMETRY = VolumeGeometry((20, 18, 4), (4.0, 4.0, 4.0))
CT = {"name": "parallel_ct", "views": 24}
WINDOW = {"map": "window", "low": -1000.0, "high": 1000.0}
PERCENTILE = {"map": "percentile", "q": 99.5}


def head() -> Tensor:
    """Water in a shell of bone, in HU; air around is what a scanner writes there."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (20, 18, 4)), indexing="ij")
    radius = axes[0].square() + axes[1].square()
    hu = torch.full(GEOMETRY.shape, -1000.0)
    hu[radius < 0.8] = 700.0
    hu[radius < 0.6] = 30.0
    hu[0] = -1024.0
    return hu[None]


def score(intensity: dict[str, Any]) -> ScoreNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)
    return ScoreNetwork(
        name="ct",
        version="1",
        network=network,
        plane="axial",
        spacing=(4.0, 4.0),
        denoiser={"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0},
        intensity=intensity,
        sha256="0" * 64,
    )


def reconstruct(measured: Measurement, intensity: dict[str, Any], sampler: Any) -> Any:
    inferer = DiffReconInferer(score(intensity), "parallel_ct", sampler=sampler, progress=False)
    return inferer.reconstruct(to_tensor(measured))


def test_line_integrals_of_hounsfield_units_are_of_attenuation() -> None:
    measured, operator = simulate(head(), GEOMETRY, Simulation(CT, unit="HU"))
    expected = operator(hu_to_attenuation(head().clamp_min(-1000.0)))
    torch.testing.assert_close(measured.data, expected)
    assert measured.unit == "HU"
    # A ray through the middle: 2 x 0.11 x 40 mm of bone and 62 mm of water at least.
    assert 62 * MU_WATER < float(measured.data.max()) < 100 * MU_WATER


def test_maps_are_those_of_the_physics() -> None:
    _, operator = simulate(head(), GEOMETRY, Simulation(CT, unit="HU"))
    mu = torch.tensor([0.0, MU_WATER, 0.05])
    torch.testing.assert_close(unit_map(operator, "HU").to_physical(mu), attenuation_to_hu(mu), rtol=1e-5, atol=1e-3)
    for unit in ("1/mm", "arbitrary"):
        assert unit_map(operator, unit) == IntensityMap(1.0)
    inner, outer = IntensityMap(2.0, 3.0), IntensityMap(5.0, -7.0)
    x = torch.tensor([0.0, 1.0, -2.5])
    torch.testing.assert_close(inner.then(outer).to_physical(x), outer.to_physical(inner.to_physical(x)))
    torch.testing.assert_close(inner.then(inner.inverse()).to_physical(x), x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fan_ct", {"views": 6, "source_distance": 200.0, "detector_distance": 300.0}),
        ("rotation_ct", {"views": 6}),
    ],
)
def test_every_ct_operator_measures_attenuation(name: str, options: dict[str, Any]) -> None:
    square = VolumeGeometry((18, 18, 4), (4.0, 4.0, 4.0))
    measured, operator = simulate(head()[:, 1:19], square, Simulation({"name": name, **options}, unit="HU"))
    assert unit_map(operator, "HU").offset == -1000.0
    assert float(measured.data.min()) >= -1e-6


def test_thick_slices_of_hounsfield_units_are_in_hounsfield_units() -> None:
    measured, operator = simulate(
        head(), GEOMETRY, Simulation({"name": "slice_thickness", "thickness": 8.0}, unit="HU")
    )
    torch.testing.assert_close(measured.data, operator(head()))


def test_k_space_of_hounsfield_units_is_refused() -> None:
    with raises(InputError, where="operator CartesianMRI"):
        simulate(head(), GEOMETRY, Simulation("cartesian_mri", unit="HU"))


@pytest.mark.parametrize("intensity", [WINDOW, PERCENTILE], ids=["window", "percentile"])
@pytest.mark.parametrize("photons", [None, 1e6])
def test_the_volume_is_in_hounsfield_units(intensity: dict[str, Any], photons: float | None) -> None:
    measured, _ = simulate(head(), GEOMETRY, Simulation(CT, photons=photons, unit="HU"))
    classical = reconstruct(measured, intensity, {"name": "admm_tv", "iterations": 30, "rho": 0.1})
    pnp_hqs = {"name": "pnp_hqs", "steps": 3, "sigma_start": 0.02, "sigma_end": 0.01, "start": "admm_tv"}
    learned = reconstruct(measured, intensity, pnp_hqs)
    inside, outside = head() == 30.0, head() == -1000.0
    for done in (classical, learned):
        assert float(done.volume[inside].median()) == pytest.approx(30.0, abs=60.0)
        assert float(done.volume[outside].median()) == pytest.approx(-1000.0, abs=40.0)
        assert done.report.unit == "HU"
    if intensity is WINDOW:
        assert (learned.report.scale, learned.report.offset) == (pytest.approx(2000.0), pytest.approx(-1000.0))
    else:
        assert learned.report.offset == pytest.approx(-1000.0)


def test_the_same_attenuation_without_the_unit_stays_attenuation() -> None:
    measured, _ = simulate(head(), GEOMETRY, Simulation(CT, unit="HU"))
    in_hu = reconstruct(measured, PERCENTILE, "initial").volume
    in_mu = reconstruct(replace(measured, unit="1/mm"), PERCENTILE, "initial").volume
    torch.testing.assert_close(attenuation_to_hu(in_mu), in_hu, rtol=1e-3, atol=1.0)
    with raises(ConfigError, where="bundle ct, diffrecon#intensity", got="1/mm"):
        reconstruct(replace(measured, unit="1/mm"), WINDOW, {"name": "pnp_hqs", "steps": 1, "sigma_start": 0.1})


def test_the_noise_of_photons_is_what_weights_and_level_say() -> None:
    """Standardized by its own noise level, the difference from the clean line integrals has a variance of 1."""
    clean, _ = simulate(head(), GEOMETRY, Simulation(CT, unit="HU"))
    values = []
    for seed in range(6):
        noisy, _ = simulate(head(), GEOMETRY, Simulation(CT, photons=2e4, electronic_std=20.0, unit="HU", seed=seed))
        assert noisy.weights is not None
        std = noisy.noise_std / noisy.weights.sqrt()
        values.append(((noisy.data - clean.data) / std)[clean.data > 0.5])
    assert float(torch.cat(values).std()) == pytest.approx(1.0, abs=0.05)


def test_fewer_photons_and_longer_paths_weigh_less() -> None:
    many, few = (simulate(head(), GEOMETRY, Simulation(CT, photons=n, unit="HU"))[0] for n in (1e6, 1e3))
    assert 20 < few.noise_std / many.noise_std < 50
    assert many.weights is not None
    assert float(many.weights[many.data < 0.01].mean()) > 3 * float(many.weights[many.data > 1.2].mean())


def test_photons_depend_on_the_seed_alone() -> None:
    one, again, other = (
        simulate(head(), GEOMETRY, Simulation(CT, photons=1e4, unit="HU", seed=s))[0].data for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_transform_simulates_the_same() -> None:
    options: dict[str, Any] = {"photons": 1e4, "electronic_std": 3.0, "unit": "HU", "seed": 5}
    expected, _ = simulate(head(), GEOMETRY, Simulation(CT, **options))
    image = to_tensor(Measurement(head(), GEOMETRY, source_sha256="ab" * 32))
    out = SimulateMeasurementd(["image"], CT, **options)({"image": image})
    got = from_tensor(out["image"])
    torch.testing.assert_close(got.data, expected.data)
    assert got.weights is not None
    assert expected.weights is not None
    torch.testing.assert_close(got.weights, expected.weights)
    assert (got.unit, got.noise_std, got.source_sha256) == ("HU", expected.noise_std, "ab" * 32)
    assert torch.equal(out["reference"].as_tensor(), head())


def test_the_transform_takes_the_unit_that_the_volume_says() -> None:
    image = to_tensor(Measurement(head(), GEOMETRY, unit="HU"))
    assert from_tensor(SimulateMeasurementd(["image"], CT)({"image": image})["image"]).unit == "HU"


def test_a_measurement_is_not_measured_again() -> None:
    measured = to_tensor(simulate(head(), GEOMETRY, Simulation(CT, unit="HU"))[0])
    out = SimulateMeasurementd(["image"], {"name": "parallel_ct", "views": 7})({"image": measured})
    assert out["image"] is measured
    assert "reference" not in out


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"photons": 0.0}, "simulate_photons", "0.0"),
        ({"photons": float("inf")}, "simulate_photons", "inf"),
        ({"electronic_std": -1.0}, "simulate_electronic_std", "-1.0"),
        ({"electronic_std": 1.0}, "simulate_electronic_std", None),
        ({"photons": 1e4, "noise": 0.1}, "simulate_noise", "0.1"),
        ({"unit": "K"}, "simulate_unit", "'K'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        Simulation(CT, **options)


@pytest.mark.parametrize(
    ("operator", "unit"),
    [(CT, "arbitrary"), ("cartesian_mri", "arbitrary"), ({"name": "slice_thickness", "thickness": 8.0}, "HU")],
)
def test_photons_need_attenuation(operator: Any, unit: str) -> None:
    with raises(ConfigError, where="simulate_photons", expected="a CT operator and a volume in HU or 1/mm"):
        simulate(head(), GEOMETRY, Simulation(operator, photons=1e4, unit=unit))


def test_resampling_leaves_measurements_alone(make_bundle: Callable[..., Path]) -> None:
    from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned

    measured = to_tensor(simulate(head(), GEOMETRY, Simulation(CT))[0])
    with raises(InputError, where="image"):
        ResampleInPlaned(["image"], "axial", (1.0, 1.0))({"image": measured})
