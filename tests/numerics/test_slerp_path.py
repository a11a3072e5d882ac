# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Spherical interpolation."""

import math

import pytest
import torch

from monai_diffrecon.numerics.noise import slerp_path


def draw(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn((1, 9, 8), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_quarter_circle_by_hand() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    path = slerp_path(x, y, 4)
    angles = [0.0, math.pi / 6, math.pi / 3, math.pi / 2]
    torch.testing.assert_close(path, torch.tensor([[math.cos(a), math.sin(a)] for a in angles]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_steps_are_equal_angles_on_a_circle(dtype: torch.dtype) -> None:
    """Ends of one length stay at that length; neighbours are at the same angle; the ends are the ends."""
    first, last = draw(0, dtype), draw(1, dtype)
    last = last * (torch.linalg.vector_norm(first) / torch.linalg.vector_norm(last))
    path = slerp_path(first, last, 6)
    assert path.dtype == dtype
    torch.testing.assert_close(path[0], first)
    torch.testing.assert_close(path[-1], last)
    norms = torch.linalg.vector_norm(path.flatten(1), dim=1)
    torch.testing.assert_close(norms, norms[:1].expand(6))
    real = torch.view_as_real(path) if dtype.is_complex else path
    flat = real.flatten(1) / norms[:, None]
    cosines = (flat[1:] * flat[:-1]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand(5))


def test_parallel_ends_one_point_and_no_length() -> None:
    x = draw(0)
    torch.testing.assert_close(slerp_path(x, 3 * x, 3), torch.stack([x, 2 * x, 3 * x]))
    torch.testing.assert_close(slerp_path(x, draw(1), 1), x[None])
    assert not bool(slerp_path(torch.zeros(2), torch.zeros(2), 3).any())
