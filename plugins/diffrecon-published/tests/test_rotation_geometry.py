# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The matrices of rotate-and-sum CT."""

import math

import numpy as np
import pytest
import torch

from diffrecon_published.rotation_geometry import (
    from_published_layout,
    padded_size,
    rotation_back_projection,
    rotation_entries,
    rotation_matrix,
    to_published_layout,
)


@pytest.mark.parametrize(
    ("width", "expected"), [(1, (2, 1)), (5, (8, 2)), (16, (23, 3)), (33, (47, 7)), (64, (91, 13)), (256, (363, 53))]
)
def test_padded_size(width: int, expected: tuple[int, int]) -> None:
    assert padded_size(width) == expected


def test_padded_size_is_the_rounded_up_diagonal() -> None:
    for width in range(1, 1025):
        size, before = padded_size(width)
        assert (size - 1) ** 2 < 2 * width**2 <= size**2
        pad = math.ceil(math.sqrt(2) * width) - width
        assert before == (width + pad) // 2 - width // 2


def test_axis_parallel_views_are_sums_of_columns_and_rows() -> None:
    """At 0 degrees bin j sums column j; at 90 degrees ``column' = -row``, so the rows come in reverse.

    With P - W even the image lies in the middle of the padding; no bin is interpolated.
    """
    width = 5
    size, before = padded_size(width)
    image = np.random.default_rng(0).normal(size=(width, width))
    sinogram = (rotation_matrix(width, np.deg2rad([0.0, 90.0])) @ image.ravel()).reshape(2, size)
    expected = np.zeros((2, size))
    expected[0, before : before + width] = image.sum(axis=0)
    after = size - before - width
    expected[1, after : after + width] = image.sum(axis=1)[::-1]
    np.testing.assert_allclose(sinogram, expected, atol=1e-6)


def test_axis_parallel_views_have_one_entry_a_pixel() -> None:
    """Rounding errors of the grid are no entries."""
    angles = np.deg2rad([0.0, 90.0])
    assert rotation_matrix(16, angles).nnz == 2 * 16**2
    assert rotation_back_projection(16, angles).nnz == 2 * 16**2


@pytest.mark.parametrize("degrees", [0.0, 20.0, 77.0, 130.0, 179.0])
def test_parity_with_loops(degrees: float) -> None:
    """A pixel's weight in a bin: its hat function summed over the bin's samples; backwards, a hat of the bin."""
    width, theta = 4, math.radians(degrees)
    size, before = padded_size(width)
    cos, sin, centre = math.cos(theta), math.sin(theta), (size - 1) / 2
    forward, backward = np.zeros((size, width, width)), np.zeros((width, width, size))
    for row in range(width):
        for column in range(width):
            r, c = row + before - centre, column + before - centre
            for d in range(size):
                backward[row, column, d] = math.pi / 2 * max(0.0, 1 - abs(c * cos - r * sin - (d - centre)))
                for k in range(size):
                    across = cos * (d - centre) + sin * (k - centre) - c
                    along = -sin * (d - centre) + cos * (k - centre) - r
                    forward[d, row, column] += max(0.0, 1 - abs(across)) * max(0.0, 1 - abs(along))
    got = rotation_matrix(width, np.array([theta])).toarray()
    np.testing.assert_allclose(got, forward.reshape(size, -1), atol=1e-6)
    got = rotation_back_projection(width, np.array([theta])).toarray()
    np.testing.assert_allclose(got, backward.reshape(-1, size), atol=1e-6)


def test_a_view_keeps_the_mass_of_a_smooth_image() -> None:
    """The samples lie one pixel apart, whatever the angle."""
    at = np.arange(32) - 15.5
    image = np.exp(-(at[:, None] ** 2 + (at[None] - 3) ** 2) / 18.0)
    angles = np.deg2rad(np.arange(0.0, 180.0, 7.0))
    sums = (rotation_matrix(32, angles) @ image.ravel()).reshape(len(angles), -1).sum(axis=1)
    np.testing.assert_allclose(sums, image.sum(), rtol=1e-3)


def test_estimate_of_entries_is_close_from_above() -> None:
    angles = np.linspace(0, np.pi, 9, endpoint=False) + 0.05
    projection, back = rotation_entries(24, angles)
    assert rotation_matrix(24, angles).nnz <= projection <= 1.3 * rotation_matrix(24, angles).nnz
    assert rotation_back_projection(24, angles).nnz <= back <= 1.05 * rotation_back_projection(24, angles).nnz


def test_matrices_are_compact() -> None:
    """The types of the estimate of memory."""
    angles = np.deg2rad([10.0, 60.0])
    for matrix in (rotation_matrix(6, angles), rotation_back_projection(6, angles)):
        assert matrix.data.dtype == np.float32
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32


def test_published_layout() -> None:
    sinogram = torch.arange(24.0).reshape(2, 3, 4)
    published = to_published_layout(sinogram)
    assert published.shape == (4, 1, 3, 2)
    assert published[3, 0, 2, 1] == sinogram[1, 2, 3]
    assert torch.equal(from_published_layout(published), sinogram)
