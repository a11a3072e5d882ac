# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The quality that samples expect of their mean, against that of a truth that is one more draw."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_diffrecon.comparison.volume_metrics import default_data_range, psnr, ssim
from monai_diffrecon.engine.calibration.expected_quality import expected_psnr, expected_ssim

SHAPE = (1, 24, 22, 20)


def draws(count: int, spread: float) -> Tensor:
    """Draws of independent voxels around a smooth volume, whose spread grows along X."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*(torch.linspace(0, 7, n) for n in SHAPE[1:]), indexing="ij")
    smooth = sum(torch.sin(a + 1) for a in axes)
    scale = spread * (0.3 + axes[0])
    return torch.stack([smooth + scale * torch.randn(SHAPE, generator=generator) for _ in range(count)])


@pytest.mark.parametrize("spread", [0.01, 0.05])
@pytest.mark.parametrize("count", [2, 8])
def test_the_truth_is_one_more_draw(count: int, spread: float) -> None:
    *samples, truth = draws(count + 1, spread)
    mean, std = torch.stack(samples).mean(0), torch.stack(samples).std(0)
    span = default_data_range(truth)
    assert expected_psnr(mean, std, count, span) == pytest.approx(psnr(mean, truth), abs=0.3)
    expected = expected_ssim(mean, std, count, span)
    observed = sum(ssim(mean, truth, plane) for plane in ("axial", "coronal", "sagittal")) / 3
    # The mean of a few draws carries some of their noise as structure.
    assert 1 - expected == pytest.approx(1 - observed, rel=0.35)


def test_no_expectation_of_structure_where_there_is_none() -> None:
    assert math.isnan(expected_ssim(torch.rand(1, 9, 9, 9), torch.ones(1, 9, 9, 9), 2, 1.0))
    assert math.isnan(expected_ssim(torch.zeros(1, 12, 12, 12), torch.ones(1, 12, 12, 12), 2, 1.0))
    assert expected_psnr(torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2), 2, 1.0) == pytest.approx(
        -10 * math.log10(1.5)
    )
