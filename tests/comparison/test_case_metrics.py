# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a case, whole and within a mask, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_diffrecon.comparison.axis_detail import high_frequency_ratio, jump_ratio
from monai_diffrecon.comparison.case_metrics import case_metrics, foreground
from monai_diffrecon.comparison.visual_information import visual_information
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of

from ..raising import raises

SHAPE = (1, 14, 13, 12)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(SHAPE, generator=generator) * 100
    return reference + 5 * torch.randn(SHAPE, generator=generator), reference


def test_a_mask_of_everything_changes_nothing() -> None:
    x, reference = pair()
    metrics = case_metrics(x, reference, geometry_of(SHAPE[1:]), mask=torch.ones(SHAPE))
    whole = volume_metrics(x, reference)
    for name in ("psnr", "nmse", "mae", "ssim_axial", "ssim_coronal", "ssim_sagittal"):
        assert metrics[f"{name}_mask"] == pytest.approx(whole[name], rel=1e-6), name
    assert {k: metrics[k] for k in whole} == whole
    assert metrics["ssim"] == pytest.approx(np.mean([whole[f"ssim_{p}"] for p in ("axial", "coronal", "sagittal")]))


def test_within_a_mask_only_its_voxels_count() -> None:
    x, reference = pair()
    mask = torch.zeros(SHAPE)
    mask[:, 3:11, 3:10, 3:9] = 2
    inside = mask.numpy() > 0
    a, b = x.double().numpy()[inside], reference.double().numpy()[inside]
    span = float(reference.max() - reference.min())
    metrics = case_metrics(x, reference, geometry_of(SHAPE[1:]), mask=mask)
    assert metrics["psnr_mask"] == pytest.approx(10 * math.log10(span**2 / np.mean((a - b) ** 2)))
    assert metrics["nmse_mask"] == pytest.approx(np.sum((a - b) ** 2) / np.sum(b**2))
    assert metrics["mae_mask"] == pytest.approx(np.abs(a - b).mean())
    outside = torch.where(mask > 0, x, x + 1000)
    again = case_metrics(outside, reference, geometry_of(SHAPE[1:]), mask=mask)
    assert again["psnr_mask"] == metrics["psnr_mask"]
    assert again["psnr"] < metrics["psnr"] - 10


def test_thick_slices_say_axis_borders_and_cutoff() -> None:
    x, reference = pair()
    geometry = geometry_of(SHAPE[1:], np.diag([1.0, 2.0, 1.0, 1.0]))
    operator = {"name": "slice_thickness", "thickness": 6.0, "plane": "coronal"}
    metrics = case_metrics(x, reference, geometry, operator=operator)
    assert metrics["jump_ratio"] == jump_ratio(x, reference, 2, [3, 6, 9, 12])
    assert metrics["high_frequency_ratio"] == high_frequency_ratio(x, reference, 2, 1 / 6)
    plain = case_metrics(x, reference, geometry, operator={"name": "parallel_ct"})
    assert plain["jump_ratio"] == jump_ratio(x, reference, 3)


def test_a_mask_that_cannot_be_used() -> None:
    x, reference = pair()
    with raises(InputError, where="mask", got=None):
        case_metrics(x, reference, geometry_of(SHAPE[1:]), mask=torch.zeros(SHAPE))
    with raises(InputError, where="mask", got=(1, 2, 2, 2)):
        case_metrics(x, reference, geometry_of(SHAPE[1:]), mask=torch.ones(1, 2, 2, 2))


def test_foreground_leaves_out_air() -> None:
    ct = torch.tensor([-1000.0, -999.0, -900.0, 0.0, 1000.0])
    assert foreground(ct).tolist() == [False, False, True, True, True]


def test_visual_information() -> None:
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand((1, 42, 42, 42), generator=generator) * 1000 - 500
    blurred = torch.nn.functional.avg_pool3d(reference, 3, stride=1, padding=1)
    assert visual_information(reference, reference, 1000.0) == pytest.approx(1.0, abs=1e-3)
    assert visual_information(blurred, reference, 1000.0) < 0.5
    assert math.isnan(visual_information(*pair(), 100.0))
