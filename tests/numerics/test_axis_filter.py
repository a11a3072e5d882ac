# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from monai_diffrecon.numerics.axis_filter import along_axis, gaussian_matrix, gaussian_mean, reach_of


@pytest.mark.parametrize("width", [0.4, 1.0, 2.5])
def test_it_is_the_filter_of_scipy_with_zeros_outside(width: float) -> None:
    x = torch.randn(1, 4, 21, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = gaussian_filter1d(x.numpy(), width, axis=2, mode="constant", truncate=8.0)
    torch.testing.assert_close(along_axis(gaussian_matrix(21, width), x, 2), torch.from_numpy(want), atol=1e-9, rtol=0)


def test_it_is_symmetric_and_keeps_a_constant_inside() -> None:
    matrix = gaussian_matrix(40, 1.5)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix[20].sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, rtol=0)
    assert bool((torch.linalg.eigvalsh(matrix) > -1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    x = torch.ones(1, 2, 3, 9, dtype=dtype)
    out = along_axis(gaussian_matrix(9, 1.0), x, 3)
    assert (out.dtype, out.shape) == (dtype, x.shape)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("width", [0.3, 2.0, 3.75, 40.0])
def test_the_mean_is_the_filter_over_what_is_there(axis: int, width: float) -> None:
    shape = [1, 7, 6, 5]
    shape[axis] = 113
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = gaussian_matrix(113, width)
    present = along_axis(matrix, torch.ones_like(x), axis)
    got = gaussian_mean(x, width, axis)
    torch.testing.assert_close(got, along_axis(matrix, x, axis) / present, atol=1e-4, rtol=0)
    # A constant stays what it is, up to the edges; a view is filtered as its copy.
    torch.testing.assert_close(gaussian_mean(torch.ones_like(x), width, axis), torch.ones_like(x))
    turned = x.transpose(1, 3)
    torch.testing.assert_close(gaussian_mean(turned, width, 4 - axis), got.transpose(1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize(("size", "width"), [(64, 0.7), (193, 0.7), (300, 3.0), (300, 30.0)])
def test_a_band_gives_what_the_whole_matrix_gives(size: int, width: float, axis: int, dtype: torch.dtype) -> None:
    shape = [1, 3, 4, 5]
    shape[axis] = size
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    matrix = gaussian_matrix(size, width)
    want = torch.movedim(torch.tensordot(x, matrix.to(dtype), dims=([axis], [1])), -1, axis)
    got = along_axis(matrix, x, axis, reach_of(matrix))
    assert got.is_contiguous()
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_reach_is_that_of_the_farthest_entry() -> None:
    matrix = torch.eye(6)
    assert reach_of(matrix) == 0
    matrix[5, 1] = 1e-9
    assert reach_of(matrix) == 4
    assert reach_of(torch.zeros(3, 3)) == 0


def test_a_matrix_with_other_rows_than_columns() -> None:
    matrix, x = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), torch.arange(6.0).reshape(1, 1, 3, 2)
    assert along_axis(matrix, x, 2).flatten().tolist() == [2.0, 4.0, 8.0, 10.0]
    assert along_axis(matrix, x.transpose(2, 3), 3).flatten().tolist() == [2.0, 8.0, 4.0, 10.0]
