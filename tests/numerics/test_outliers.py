# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import FOREGROUND, IntensityMap, image_offset, looks_like_hounsfield
from monai_diffrecon.numerics.statistics.outliers import replace_outliers

EXAMPLE = Path(__file__).parents[2] / "examples/colin27_t1.nii.gz"


@pytest.fixture(scope="module")
def head() -> Tensor:
    """The example at 2 x 2 x 4 mm, whole, so that most of it is air."""
    return torch.nn.functional.avg_pool3d(read_volume(EXAMPLE)[0], (2, 2, 4))


@pytest.fixture(scope="module")
def brain() -> Tensor:
    """A part of the example without any air, 5 mm slices."""
    return read_volume(EXAMPLE)[0][:, 58:122, 76:140, 80:120].reshape(1, 64, 64, 8, 5).mean(-1)


def spoiled(image: Tensor, value: float, part: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    count = max(1, round(part * image.numel()))
    mask = torch.zeros(image.numel(), dtype=torch.bool)
    mask[torch.randperm(image.numel(), generator=torch.Generator().manual_seed(seed))[:count]] = True
    mask = mask.view(image.shape)
    return torch.where(mask, torch.tensor(value), image), mask


def percentile_by_hand(volume: Tensor) -> float:
    array = np.abs(volume.numpy().astype(np.float64))
    return float(np.percentile(array[array > FOREGROUND * array.max()], 99.5))


def test_clean_images_keep_their_values_and_their_map(head: Tensor, brain: Tensor) -> None:
    for image in (head, brain):
        clean, found = replace_outliers(image, 2, 1.0)
        assert torch.equal(clean, image)
        assert not found.any()
        assert IntensityMap.percentile(image).scale == pytest.approx(percentile_by_hand(image), rel=1e-6)


@pytest.mark.parametrize("value", [1e3, 32767.0, 1e6, 1e30, -32768.0, -1e3])
@pytest.mark.parametrize("part", [0.0, 1e-3])
def test_outliers_are_found_and_the_map_stays(head: Tensor, brain: Tensor, value: float, part: float) -> None:
    for image in (head, brain):
        bad, mask = spoiled(image, value, part)
        clean, found = replace_outliers(bad, 2, 1.0)
        assert bool(found[mask].all())
        assert int((found & ~mask).sum()) == 0
        # What stands in their place is of the neighbourhood.
        assert float((clean - image).abs().max()) < 1.0 * float(image.max())
        assert IntensityMap.percentile(bad).scale == pytest.approx(percentile_by_hand(image), rel=0.03)


def test_the_axis_of_the_slices_is_the_callers(brain: Tensor) -> None:
    bad, mask = spoiled(brain, 5e3, 1e-3)
    turned, found = replace_outliers(bad.movedim(3, 1), 0, 1.0)
    assert torch.equal(found, replace_outliers(bad, 2, 1.0)[1].movedim(3, 1))
    assert torch.equal(turned, replace_outliers(bad, 2, 1.0)[0].movedim(3, 1))
    assert bool(found.movedim(1, 3)[mask].all())


def test_a_block_that_was_saturated_does_not_take_the_map_with_it(head: Tensor) -> None:
    bad = head.clone()
    bad[:, 30:42, 40:52, 10:11] = 32767.0  # 144 of 348 thousand voxels
    assert IntensityMap.percentile(bad).scale == pytest.approx(percentile_by_hand(head), rel=0.03)
    clean, found = replace_outliers(bad, 2, 1.0)
    assert int(found.sum()) == 144
    assert float(clean.max()) <= float(head.max())


def test_a_line_two_pixels_wide_is_tissue(brain: Tensor) -> None:
    vessel = brain.clone()
    vessel[:, 20:22] = 3 * float(brain.max())
    assert not replace_outliers(vessel, 2, 1.0)[1].any()


@pytest.mark.parametrize("image", [torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8, 3), 7.0), torch.rand(1, 2, 9, 4)])
def test_images_without_contrast_or_size_are_left_alone(image: Tensor) -> None:
    clean, found = replace_outliers(image, 2, 1.0)
    assert torch.equal(clean, image)
    assert not found.any()


@pytest.mark.parametrize("gain", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("shift", [-2.0, -0.7, -0.1, 0.1, 0.5, 10.0])
def test_the_background_of_a_shifted_image_is_its_offset(head: Tensor, gain: float, shift: float) -> None:
    assert image_offset(head) == 0.0
    level = gain * shift * float(head.max())
    assert image_offset(gain * head + level) == pytest.approx(level, abs=0.01 * gain * float(head.max()))


def test_an_image_without_air_has_its_zero_below_its_tissue(brain: Tensor) -> None:
    assert image_offset(brain) == 0.0
    low, span = float(brain.min()), float(brain.max() - brain.min())
    for shift in (-1024.0, 200.0, 5000.0):
        assert low + shift - 0.5 * span < image_offset(brain + shift) < low + shift


def test_hounsfield_units_are_told_from_shifted_magnitudes(head: Tensor) -> None:
    ct = torch.full((1, 40, 40, 4), -1000.0)
    ct[:, 8:32, 8:32] = 40.0
    ct[:, 8:32, 8:10] = 700.0
    assert looks_like_hounsfield(ct)
    for gain in (1.0, 5.0, 8.0):
        assert not looks_like_hounsfield(gain * head)
        assert not looks_like_hounsfield(gain * head - 1024.0)
