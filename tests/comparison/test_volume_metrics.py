# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.comparison.image_metrics import slice_ssim
from monai_diffrecon.comparison.volume_metrics import default_data_range, psnr, ssim, volume_metrics
from monai_diffrecon.errors import ConfigError, InputError

from ..raising import raises


def _pair(shape: tuple[int, ...] = (1, 16, 18, 14)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=generator)
    return reference + 0.1 * torch.randn(shape, generator=generator), reference


def _naive_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004 by the definition: weighted moments of every 11 x 11 window."""
    t = np.arange(-5, 6)
    w = np.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, vab = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_is_that_of_the_paper() -> None:
    x, reference = _pair()
    span = default_data_range(reference)
    for plane, axis in (("sagittal", 1), ("coronal", 2), ("axial", 3)):
        pairs = zip(x.double().unbind(axis), reference.double().unbind(axis), strict=True)
        expected = np.mean([_naive_ssim(a[0].numpy(), b[0].numpy(), span) for a, b in pairs])
        assert ssim(x, reference, plane) == pytest.approx(expected, abs=1e-6)


def test_ssim_does_not_lose_faint_structure_on_a_bright_ground() -> None:
    # In float32 the variance 0.08 of 4096 + u would drown in round-off of 4096^2.
    x, reference = (v + 4096 for v in _pair((1, 16, 16, 3)))
    values = slice_ssim(x, reference, 1.0, "axial")
    for k in range(3):
        expected = _naive_ssim(x[0, ..., k].double().numpy(), reference[0, ..., k].double().numpy(), 1.0)
        assert float(values[k]) == pytest.approx(expected, abs=1e-4)


def test_psnr_nmse_mae_by_hand() -> None:
    reference = torch.zeros(1, 12, 12, 12)
    reference[:, 2:8] = 2.0
    x = reference + 0.1
    metrics = volume_metrics(x, reference)
    assert metrics["psnr"] == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-4)
    assert metrics["nmse"] == pytest.approx(0.01 * 12 / (4.0 * 6), rel=1e-5)
    assert metrics["mae"] == pytest.approx(0.1, rel=1e-5)
    assert psnr(x, reference, data_range=1.0) == pytest.approx(20.0, abs=1e-4)
    assert set(metrics) == {"psnr", "nmse", "mae"} | {
        f"{m}_{p}" for m in ("psnr", "ssim") for p in ("axial", "coronal", "sagittal")
    }


def test_empty_slices_are_left_out_whatever_the_background() -> None:
    x, reference = _pair((1, 14, 14, 14))
    padded = [torch.nn.functional.pad(v, (5, 5), value=-1000.0) for v in (x, reference)]
    span = default_data_range(reference)
    inner, outer = volume_metrics(x, reference, span), volume_metrics(*padded, span)
    assert outer["ssim_axial"] == pytest.approx(inner["ssim_axial"], abs=1e-9)
    assert outer["psnr_axial"] == pytest.approx(inner["psnr_axial"], abs=1e-9)
    assert outer["psnr"] > inner["psnr"]


def test_equal_volumes() -> None:
    _, reference = _pair()
    metrics = volume_metrics(reference, reference)
    assert metrics["psnr"] == metrics["psnr_axial"] == math.inf
    assert metrics["nmse"] == metrics["mae"] == 0.0
    assert metrics["ssim_coronal"] == pytest.approx(1.0)


def test_unit_does_not_matter() -> None:
    x, reference = _pair()
    one, other = volume_metrics(x, reference), volume_metrics(1000 * x, 1000 * reference)
    for name in one.keys() - {"mae"}:
        assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_mean_over_no_slice_is_nan() -> None:
    x, reference = _pair((1, 12, 12, 6))
    metrics = volume_metrics(x, reference)
    assert math.isnan(metrics["ssim_sagittal"])  # 12 x 6: smaller than the window
    assert math.isfinite(metrics["ssim_axial"])
    assert math.isfinite(metrics["psnr_sagittal"])
    ramp = torch.arange(12.0).expand(1, 12, 12, 12)
    assert math.isnan(volume_metrics(ramp + 1, ramp)["psnr_axial"])


def test_faults() -> None:
    x, reference = _pair()
    with raises(InputError, where="metrics", got="(1, 15, 18, 14) and (1, 16, 18, 14)"):
        volume_metrics(x[:, 1:], reference)
    with raises(InputError, where="metrics", got="(16, 18, 14) and (16, 18, 14)"):
        volume_metrics(x[0], reference[0])
    with raises(InputError, where="reconstruction", mend="take the magnitude"):
        volume_metrics(x.to(torch.complex64), reference)
    with raises(InputError, where="reference"):
        volume_metrics(x, torch.ones_like(reference))
    with raises(InputError, where="data_range", got=0.0):
        psnr(x, reference, data_range=0.0)
    with raises(ConfigError, where="plane", got="'transverse'"):
        ssim(x, reference, "transverse")
    broken = x.clone()
    broken[0, 0, 0, 0] = math.nan
    with raises(InputError, where="reconstruction", mend=None):
        volume_metrics(broken, reference)
