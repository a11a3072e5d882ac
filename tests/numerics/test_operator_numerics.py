# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Slice profiles, views' weights, the ramp filter and the sparse product."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from monai_diffrecon.numerics.ct.back_projection import ramp_filter
from monai_diffrecon.numerics.ct.joseph import ray_entries
from monai_diffrecon.numerics.ct.parallel_geometry import joseph_matrix, parallel_rays, view_weights
from monai_diffrecon.numerics.sparse_matrix import SparseMatrix
from monai_diffrecon.operators._slice_profile import cubic_interpolation, slice_count, slice_weights


@pytest.mark.parametrize(
    ("extent", "thickness", "gap", "expected"),
    [(10, 5, 0, 2), (9.99, 5, 0, 1), (11, 5, 1, 2), (10.9, 5, 1, 1), (4, 5, 0, 0), (14 * 0.7, 1.4, 0, 7)],
)
def test_slice_count(extent: float, thickness: float, gap: float, expected: int) -> None:
    assert slice_count(extent, thickness, gap) == expected


@pytest.mark.parametrize("profile", ["boxcar", "gaussian"])
def test_rows_of_a_profile_sum_to_one(profile: str) -> None:
    weights = slice_weights(23, 0.9, 5, 3.1, 0.7, profile)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    assert (weights >= 0).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_interpolation_reproduces_lines_between_the_knots(count: int) -> None:
    knots = np.arange(count) * 4.0 + 2.0
    at = np.arange(4 * count) + 0.5
    got = cubic_interpolation(4 * count, 1.0, count, 4.0, 0.0) @ (3.0 - 0.5 * knots)
    np.testing.assert_allclose(got, 3.0 - 0.5 * np.clip(at, knots[0], knots[-1]), atol=1e-12)


def test_view_weights() -> None:
    uneven = view_weights(np.deg2rad([0.0, 60.0, 90.0, 120.0]))
    np.testing.assert_allclose(np.rad2deg(uneven), [60.0, 45.0, 30.0, 45.0])
    assert view_weights(np.deg2rad([7.0])) == pytest.approx([np.pi])
    opposite = view_weights(np.deg2rad([10.0, 190.0]))
    assert opposite.sum() == pytest.approx(np.pi)
    limited = view_weights(np.deg2rad([170.0, 0.0, 10.0, 20.0]))
    np.testing.assert_allclose(np.rad2deg(limited), 10.0)
    np.testing.assert_allclose(np.rad2deg(view_weights(np.deg2rad([0.0, 10.0]))), 10.0)
    golden = view_weights(np.deg2rad(np.arange(89) * 111.246117975))
    assert golden.sum() == pytest.approx(np.pi)


def test_ramp_has_its_response() -> None:
    """The interior of a filtered cosine is the cosine times its frequency in cycles per mm."""
    spacing, frequency = 0.5, 0.1
    s = (np.arange(2048) - 1024) * spacing
    wave = torch.from_numpy(np.cos(2 * np.pi * frequency * s)).reshape(1, -1, 1)
    got = ramp_filter(wave, spacing)[0, 924:1124, 0]
    torch.testing.assert_close(got, frequency * wave[0, 924:1124, 0], atol=1e-3, rtol=0)


def test_hann_halves_half_the_nyquist_frequency() -> None:
    s = np.arange(4096)
    wave = torch.from_numpy(np.cos(2 * np.pi * 0.25 * s)).reshape(1, -1, 1)
    ramp, hann = (ramp_filter(wave, 1.0, window)[0, 2000:2100, 0] for window in ("ramp", "hann"))
    torch.testing.assert_close(hann, 0.5 * ramp, atol=1e-3, rtol=0)


@pytest.mark.parametrize("width", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 2.0)])
def test_estimate_of_entries_is_close_from_above(width: float, spacing: tuple[float, float]) -> None:
    angles = np.linspace(0, np.pi, 9, endpoint=False)
    shape, bins = (24, 20), 71
    entries = joseph_matrix(shape, spacing, angles, bins, width).nnz
    estimate = ray_entries(shape, spacing, parallel_rays(angles, bins, width)).sum()
    assert entries <= estimate <= 1.2 * entries


def test_sparse_matrix() -> None:
    """Parity with the dense product, an empty row, other types, and what a module must survive."""
    dense = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0], [0.5, 0.25, 4.0]], dtype=np.float32)
    matrix = SparseMatrix(csr_array(dense))
    x = torch.randn((3, 5), generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(dense) @ x
    torch.testing.assert_close(matrix(x), expected)
    torch.testing.assert_close(matrix(x.T.contiguous().T), expected)
    assert matrix(x.double()).dtype == torch.float64
    wide = copy.deepcopy(matrix).double()
    torch.testing.assert_close(wide(x.double()), torch.from_numpy(dense).double() @ x.double())
    torch.testing.assert_close(matrix(x), expected)
    assert not matrix.state_dict()
