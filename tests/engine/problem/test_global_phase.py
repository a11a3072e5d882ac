# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Phase of the scanner in the data of a volume assumed to be real."""

from __future__ import annotations

import cmath
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.evaluation.cohort.case_runner import data_residual
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import Measurement

from ..tiny_networks import SCORE

SHAPE = (20, 18, 3)
X, Y = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 18), indexing="ij")
HEAD = (torch.sigmoid(20 * (1 - torch.hypot(X / 0.8, Y / 0.7))) * (1 + 0.3 * torch.sin(5 * X + Y)))[None, ..., None]
HEAD = 40 * HEAD.expand(1, *SHAPE).contiguous()
SAMPLERS: dict[str, dict[str, Any]] = {
    "initial": {"name": "initial"},
    "cg_least_squares": {"name": "cg_least_squares"},
    "pnp_hqs": {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.2},
}
ECHO = torch.ones(20, 18, dtype=torch.bool)
ECHO[:7] = False


def coil_maps() -> Tensor:
    """Smooth maps whose phases differ and have no mean of 0."""
    ramps = [torch.exp(1j * (0.5 + a * X + b * Y)) * (1 + c * X) for a, b, c in ((1, 0, 0.4), (0, -1, -0.4), (1, 1, 0))]
    maps = torch.stack(ramps)[..., None].expand(3, *SHAPE).to(torch.complex64)
    return (maps / maps.abs().square().sum(0).sqrt()).contiguous()


OPTIONS: dict[str, dict[str, Any]] = {
    "full": {"mask": torch.ones(20, 18)},
    "undersampled": {"acceleration": 3.0, "mask_type": "gaussian2d"},
    "a partial echo": {"mask": ECHO},
    "coils": {"mask": torch.ones(20, 18), "coil_maps": coil_maps()},
    "coils, a partial echo": {"mask": ECHO, "coil_maps": coil_maps()},
}


def reconstruct(
    y: Tensor, options: dict[str, Any], sampler: str = "cg_least_squares", **more: Any
) -> tuple[Reconstruction, Tensor]:
    spec = {"name": "cartesian_mri", **options}
    measurement = to_tensor(Measurement(y, geometry_of(SHAPE), operator=spec, **more))
    inferer = DiffReconInferer(SCORE, "cartesian_mri", sampler=SAMPLERS[sampler], progress=False)
    return inferer.reconstruct(measurement), measurement


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_global_phase_changes_nothing(name: str, sampler: str) -> None:
    y = CartesianMRI(geometry_of(SHAPE), **OPTIONS[name])(HEAD)
    expected = reconstruct(y, OPTIONS[name], sampler)[0].volume
    for phi in (0.3, 1.5, math.pi / 2, -2.5, math.pi):
        done, measurement = reconstruct(y * cmath.exp(1j * phi), OPTIONS[name], sampler)
        assert float((done.volume - expected).norm() / expected.norm()) < 5e-5
        assert cmath.exp(1j * done.report.phase) == pytest.approx(cmath.exp(1j * phi), abs=1e-3)
        assert [line for line in done.report.notices if "global phase" in line]
        assert not [line for line in done.report.notices if "complex_volume" in line]
        if sampler == "cg_least_squares" and name == "full":
            assert (
                data_residual(
                    done, DiffReconInferer(SCORE, "cartesian_mri", sampler="cg_least_squares").pose(measurement)
                )
                < 1e-4
            )
    if sampler == "cg_least_squares" and "full" in name:
        assert float((expected - HEAD).norm() / HEAD.norm()) < 1e-4


@pytest.mark.parametrize("name", OPTIONS)
def test_data_of_a_real_volume_stay_as_they_are(name: str) -> None:
    y = CartesianMRI(geometry_of(SHAPE), **OPTIONS[name])(HEAD)
    noise = 0.5 * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1)) * (y != 0)
    assert reconstruct(y, OPTIONS[name])[0].report.notices == ()
    noisy = reconstruct(y + noise, OPTIONS[name], noise_std=0.5 / 2**0.5)[0].report
    assert abs(noisy.phase) < 0.05
    assert not [line for line in noisy.notices if "complex_volume" in line]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_phase_that_varies_is_said_with_the_option(name: str, caplog: pytest.LogCaptureFixture) -> None:
    options = OPTIONS[name] | {"complex_volume": True}
    phase = torch.exp(1j * (2.0 * X + 1.5 * Y * X))[None, ..., None]
    y = CartesianMRI(geometry_of(SHAPE), **options)(HEAD * phase)
    with caplog.at_level(logging.WARNING):
        notices = reconstruct(y, OPTIONS[name])[0].report.notices
    (said,) = (line for line in notices if "operator#complex_volume" in line)
    assert said in [r.getMessage() for r in caplog.records]
    assert reconstruct(y, options)[0].report.notices == ()


def test_a_volume_that_was_measured_within_the_run_keeps_its_sign() -> None:
    """An image of negative values is what was asked for; its data have no scanner's phase."""
    image = to_tensor(Measurement(HEAD - 100, geometry_of(SHAPE)))
    spec = {"name": "cartesian_mri", "mask": torch.ones(20, 18)}
    measured = SimulateMeasurementd(["image"], spec)({"image": image})["image"]
    inferer = DiffReconInferer(SCORE, spec, sampler=SAMPLERS["cg_least_squares"], progress=False)
    done = inferer.reconstruct(measured)
    assert done.report.notices == ()
    assert float((done.volume - (HEAD - 100)).abs().max()) < 0.01


def test_a_volume_of_both_signs_is_not_turned_round() -> None:
    volume = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = CartesianMRI(geometry_of(SHAPE), **OPTIONS["full"])(volume)
    done = reconstruct(y, OPTIONS["full"])[0]
    torch.testing.assert_close(done.volume, volume, atol=1e-3, rtol=0)
    assert done.report.phase == 0.0
