# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Resampling along an axis against functions whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_diffrecon.numerics.resampling import apply_along, resampled_size, resampled_start, resampling_matrix

#: Voxels before, voxels after (mm), number of voxels.
GRIDS = [(0.43, 1.0, 240), (0.5, 1.0, 128), (0.9375, 1.0, 256), (0.69, 1.5, 200), (1.0, 0.7, 120), (1.4, 1.0, 90)]


def positions(spacing: float, target: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the old and the new voxels lie (mm)."""
    count = resampled_size(size, spacing, target)
    return np.arange(size) * spacing, resampled_start(size, spacing, target) + np.arange(count) * target


@pytest.mark.parametrize(("spacing", "target", "size"), [*GRIDS, (1.0, 1.5, 2), (0.3, 1.0, 5), (0.3, 1.0, 12)])
def test_constants_and_lines_come_out_exact_up_to_the_borders(spacing: float, target: float, size: int) -> None:
    old, new = positions(spacing, target, size)
    matrix = resampling_matrix(size, spacing, target)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix @ (3.0 * old - 7.0), 3.0 * new - 7.0, atol=1e-9)


@pytest.mark.parametrize(("spacing", "target", "size"), GRIDS)
@pytest.mark.parametrize("cycles", [0.05, 0.1, 0.2, 0.3, 0.35])  # a voxel of the coarser grid; Nyquist is 0.5
def test_band_limited_images_come_out_exact(spacing: float, target: float, size: int, cycles: float) -> None:
    old, new = positions(spacing, target, size)
    frequency = cycles / max(spacing, target)
    inside = slice(8, -8)
    for phase in (0.0, 1.0):
        got = resampling_matrix(size, spacing, target) @ np.sin(2 * np.pi * frequency * old + phase)
        # Up-sampling has its transition around the old grid's Nyquist frequency, where nothing is stopped.
        limit = 0.015 if target < spacing else 0.005
        assert np.abs(got - np.sin(2 * np.pi * frequency * new + phase))[inside].max() < limit


@pytest.mark.parametrize(("spacing", "target", "size"), [g for g in GRIDS if g[1] > 1.5 * g[0]])
@pytest.mark.parametrize("cycles", [0.72, 0.8, 0.95])
def test_what_the_new_voxels_cannot_hold_is_stopped(spacing: float, target: float, size: int, cycles: float) -> None:
    if cycles / target > 0.5 / spacing:
        cycles = 0.49 * target / spacing
    old, _ = positions(spacing, target, size)
    got = resampling_matrix(size, spacing, target) @ np.sin(2 * np.pi * cycles / target * old + 0.3)
    assert np.abs(got[8:-8]).max() < 0.02


@pytest.mark.parametrize(("spacing", "target", "size"), [g for g in GRIDS if g[1] > g[0]])
def test_white_noise_falls_as_by_a_mean_over_the_new_voxel(spacing: float, target: float, size: int) -> None:
    noise = np.random.default_rng(0).standard_normal((size, 4000))
    got = (resampling_matrix(size, spacing, target) @ noise)[8:-8].std()
    assert got == pytest.approx(np.sqrt(spacing / target), rel=0.02)


@pytest.mark.parametrize(("spacing", "target", "size"), GRIDS)
def test_the_new_grid_covers_the_old_one_and_has_its_centre(spacing: float, target: float, size: int) -> None:
    old, new = positions(spacing, target, size)
    assert new.mean() == pytest.approx(old.mean())
    assert size * spacing - 0.02 * target <= len(new) * target < size * spacing + target


def test_a_header_that_rounds_makes_no_further_voxel() -> None:
    assert resampled_size(512, 0.4297, 1.0) == 220  # 220.006 mm
    assert resampled_size(1, 5.0, 5.0) == 1


def test_another_grid_may_be_named() -> None:
    old = np.arange(60) * 0.5
    new = 4.25 + np.arange(10) * 1.25
    got = resampling_matrix(60, 0.5, 1.25, 10, 4.25) @ np.cos(2 * np.pi * old / 8.0)
    np.testing.assert_allclose(got, np.cos(2 * np.pi * new / 8.0), atol=5e-3)


def test_a_single_voxel_is_repeated() -> None:
    np.testing.assert_array_equal(resampling_matrix(1, 3.0, 1.0), np.ones((3, 1)))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_any_axis_real_or_complex(axis: int) -> None:
    x = torch.randn(1, 6, 7, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    matrix = resampling_matrix(x.shape[axis], 1.0, 1.5)
    got = apply_along(matrix, x, axis)
    naive = np.apply_along_axis(lambda line: matrix @ line, axis, x.numpy())
    np.testing.assert_allclose(got.numpy(), naive, atol=1e-5)
    assert got.dtype == torch.complex64
