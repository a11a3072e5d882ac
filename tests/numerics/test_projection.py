# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The volume nearest to another that explains a measurement."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import project_on_measured
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.testing.dense_operator import DenseOperator

SHAPE, N = (1, 3, 4, 5), 60


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_pseudo_inverse(dtype: torch.dtype) -> None:
    A, y, x = draw(20, N, seed=0, dtype=dtype), draw(20, seed=1, dtype=dtype), 300 * draw(*SHAPE, seed=2, dtype=dtype)
    operator = DenseOperator(VolumeGeometry((3, 4, 5)), A)
    got = project_on_measured(operator, y, x, iterations=100, tolerance=1e-12)
    expected = x.reshape(-1) + torch.linalg.pinv(A) @ (y - A @ x.reshape(-1))
    torch.testing.assert_close(got.reshape(-1), expected, rtol=1e-7, atol=1e-7)


def test_thick_slices_move_as_wholes() -> None:
    """Groups of three get the mean that was measured; a remainder stays; a second projection changes nothing."""
    operator = SliceThickness(VolumeGeometry((2, 2, 7)), thickness=3.0)
    x, y = 300 * draw(1, 2, 2, 7, seed=0, dtype=torch.float32), draw(1, 2, 2, 2, seed=1, dtype=torch.float32)
    kept = x.clone()
    got = project_on_measured(operator, y, x)
    assert torch.equal(x, kept)
    expected = x.clone()
    for k in range(2):
        group = slice(3 * k, 3 * k + 3)
        expected[..., group] += y[..., k : k + 1] - x[..., group].mean(-1, keepdim=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(project_on_measured(operator, y, got), got, rtol=1e-5, atol=1e-4)
