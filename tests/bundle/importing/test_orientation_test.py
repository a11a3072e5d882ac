# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The orientation test on denoisers whose losses are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.importing.orientation_report import OrientationReport
from monai_diffrecon.bundle.importing.orientations import (
    check_orientation,
    choose_slices,
    noise_levels,
    score_matching_loss,
    turn,
)
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Denoiser

from ...raising import raises


class Shrink(Denoiser):
    """``E[x0 | x]`` of slices drawn from N(mean, variance)."""

    API_VERSION = 1

    def __init__(self, mean: Tensor | float, variance: float, sigma_max: float = 2.0) -> None:
        super().__init__(nn.Identity(), sigma_min=0.02, sigma_max=sigma_max)
        self.mean, self.variance = torch.as_tensor(mean), variance

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        mean = self.mean if self.mean.shape == x.shape[-2:] else self.mean.mean()
        return mean + self.variance / (self.variance + sigma**2) * (x - mean)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_eight_orientations_are_the_symmetries_of_a_square() -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = [turn(square, k) for k in range(8)]
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert torch.equal(turned[0], square)
    assert turned[1][0, 0, 0].tolist() == [6, 7, 8]
    assert turned[2][0, 0, 0].tolist() == [2, 1, 0]
    assert turned[4][0, 0, 0].tolist() == [0, 3, 6]
    assert torch.equal(turned[5], square.flip(2).transpose(2, 3))


def test_the_loss_is_that_of_the_gaussian() -> None:
    # The error of the posterior mean has the variance v s^2 / (v + s^2) in every pixel.
    v, sigma = 0.04, 0.3
    clean, noise = v**0.5 * normal(8, 1, 64, 64), normal(8, 1, 64, 64, seed=1)
    assert score_matching_loss(Shrink(0.0, v), clean, noise, sigma) == pytest.approx(v / (v + sigma**2), rel=0.03)
    assert score_matching_loss(lambda x, s: x, clean, noise, sigma) == pytest.approx(1.0, rel=0.02)
    assert score_matching_loss(lambda x, s: torch.zeros_like(x), clean, noise, sigma) == pytest.approx(
        v / sigma**2, rel=0.02
    )


@pytest.mark.parametrize("truth", range(8))
def test_the_orientation_of_the_training_is_found(truth: int) -> None:
    mean = normal(16, 16).cumsum(0).cumsum(1) / 20
    slices = mean + 0.05 * normal(3, 1, 16, 16, seed=1)
    report = check_orientation(Shrink(turn(mean[None, None], truth)[0, 0], 0.0025), slices, "coronal")
    assert report.best == truth
    assert bool(report.warnings) == (truth != 0)
    assert report.gains[truth] == max(report.gains)


def test_a_network_that_knows_no_direction() -> None:
    slices = 0.5 + 0.2 * normal(2, 1, 16, 24)
    report = check_orientation(Shrink(0.5, 0.04), slices, "axial")
    assert report.gains == pytest.approx([0.0] * 8, abs=1e-5)
    assert report.warnings == ()
    again = check_orientation(Shrink(0.5, 0.04), slices, "axial")
    assert again == report
    assert check_orientation(Shrink(0.5, 0.04), slices, "axial", seed=1) != report


def test_a_network_of_other_data_is_said_to_be_one() -> None:
    slices = 0.5 + 0.2 * normal(2, 1, 16, 16)
    report = check_orientation(Shrink(0.5, 1e6), slices, "axial")  # leaves the noise where it is
    assert report.informative == ()
    assert "in no orientation: check --plane, --intensity" in report.warnings[0]
    far = check_orientation(Shrink(20.0, 0.04), slices, "axial")
    assert any("makes the sample worse at sigma" in w or "in no orientation" in w for w in far.warnings)


@pytest.mark.parametrize("unit", [1e-4, 1e3])
def test_a_sample_of_another_unit(unit: float) -> None:
    # Of slices near 0 a network that returns 0 takes all noise away.
    report = check_orientation(Shrink(0.0, 1e-6), unit * normal(2, 1, 16, 16), "axial")
    (warning,) = report.warnings
    assert "check --intensity and the sample's units" in warning
    assert report.bright == pytest.approx(2.58 * unit, rel=0.2)


def test_a_small_gain_is_left_to_chance() -> None:
    def report(gain: float) -> OrientationReport:
        losses = ((0.5, 1.0), (0.5 * (1 - gain), 1.0), *[(0.5, 1.0)] * 6)
        return OrientationReport("sagittal", 2, (0.1, 0.01), losses)

    assert report(0.015).best == 0
    assert report(0.03).best == 1
    assert report(0.03).informative == (0,)
    assert "better by 3% when its sagittal slices are turned (flip Y)" in report(0.03).warnings[0]
    assert report(0.03).names[7] == "flip Y, flip Z, transpose"
    assert report(0.03).table()[2].split() == ["flip", "Y", "0.4850", "1.0000", "+3.0%"]


def test_levels_stay_within_the_network() -> None:
    assert noise_levels(0.01, 378.0) == pytest.approx([0.01, 0.0562, 0.316, 1.78, 10.0], rel=1e-2)
    assert noise_levels(0.05, 2.0)[::4] == pytest.approx([0.05, 2.0])
    assert noise_levels(20.0, 80.0)[::4] == pytest.approx([20.0, 80.0])


def test_slices_with_something_in_them() -> None:
    volume = torch.zeros(1, 20, 27, 12)
    volume[:, 5:15, 5:15, 6:] = normal(10, 10, 6)
    slices = choose_slices(volume, "axial", 4, 8)
    assert slices.shape == (4, 1, 16, 24)
    assert bool((slices.flatten(1).std(1) > 0).all())
    assert torch.equal(choose_slices(volume, "axial", 99, 8), volume[0, 2:18, 1:25, 6:].permute(2, 0, 1)[:, None])
    assert torch.equal(choose_slices(volume, "axial", 4, 8, (9, 99)), slices[:, :, 4:12])
    with raises(InputError, where="--sample", got=(20, 27)):
        choose_slices(volume, "axial", 4, 32)
    with raises(InputError, where="--sample", got=None):
        choose_slices(torch.ones(1, 8, 8, 8), "axial", 4, 8)
