# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images whose slices lean: known from the affine, and put straight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.straight import lean_of, straighten

#: A rotation about all axes.
TURN = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]


def leaning(
    axis: int, degrees: float, towards: int, spacing: tuple[float, float, float] = (1.0, 1.2, 1.1)
) -> np.ndarray:
    """Return an affine whose ``axis`` leans towards another one."""
    columns = np.diag(spacing)
    columns[towards, axis] = np.tan(np.radians(degrees)) * spacing[axis]
    affine = np.eye(4)
    affine[:3, :3] = TURN @ columns
    affine[:3, 3] = 5.0, -8.0, 30.0
    return affine


def smooth(points: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth function of the world's coordinates (3, ...), around the middle of an image, 100 far away."""
    middle = (affine @ [*((n - 1) / 2 for n in shape), 1.0])[:3]
    local = TURN.T @ (points.reshape(3, -1) - middle[:, None])
    squared = (local / np.array([[4.0], [5.0], [4.5]])) ** 2
    return (100.0 + 900.0 * np.exp(-0.5 * squared.sum(0))).reshape(points.shape[1:])


def points(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    index = np.stack([*np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), np.ones(shape)])
    return np.tensordot(affine[:3], index, 1)


@pytest.mark.parametrize("degrees", [-20.0, 12.0, 30.0])
@pytest.mark.parametrize(("axis", "towards"), [(2, 1), (2, 0), (0, 2), (1, 0)])
def test_an_obliquely_sampled_function_comes_out_right_on_the_straight_grid(
    axis: int, towards: int, degrees: float
) -> None:
    affine, shape = leaning(axis, degrees, towards), (46, 44, 42)
    x = torch.from_numpy(smooth(points(affine, shape), affine, shape))[None].float()
    got, straight = straighten(x, geometry_of(shape, affine), axis)
    columns = straight[:3, :3]
    np.testing.assert_allclose(columns.T @ columns, np.diag(np.array([1.0, 1.2, 1.1]) ** 2), atol=1e-9)
    truth = smooth(points(straight, tuple(got.shape[1:])), affine, shape)
    np.testing.assert_allclose(got[0].numpy(), truth, atol=6.0)  # of 900; a shift by a tenth of a voxel is 15
    assert float((got[0] - torch.from_numpy(truth)).abs().mean()) < 0.1


@pytest.mark.parametrize("degrees", [-15.0, 15.0])
def test_the_straight_grid_covers_every_voxel(degrees: float) -> None:
    affine, shape = leaning(2, degrees, 1), (6, 7, 20)
    got, straight = straighten(torch.rand(1, *shape), geometry_of(shape, affine), 2)
    index = np.linalg.solve(straight, np.vstack([points(affine, shape).reshape(3, -1), np.ones(6 * 7 * 20)]))[:3]
    assert index.min() > -1e-9
    assert (index.max(1) < np.array(got.shape[1:]) - 1 + 1e-9).all()
    assert got.shape[1] == 6
    assert got.shape[3] == 20


def test_beyond_the_slices_is_the_minimum_and_no_value_is_new() -> None:
    affine, shape = leaning(2, 20.0, 1), (5, 9, 12)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 500 - 1024
    got, _ = straighten(x, geometry_of(shape, affine), 2)
    assert float(got.min()) == pytest.approx(float(x.min()))
    assert float(got.max()) <= float(x.max())
    torch.testing.assert_close(got[0, :, -1, 0], torch.full((5,), float(x.min())))
    assert got.dtype == torch.float32


@pytest.mark.parametrize(("axis", "towards"), [(2, 1), (2, 0), (1, 2), (0, 1)])
def test_the_lean_and_the_axis_of_thick_slices_are_found(axis: int, towards: int) -> None:
    spacing = tuple(5.0 if a == axis else 0.5 for a in range(3))
    lean = lean_of(geometry_of((20, 20, 20), leaning(axis, 17.0, towards, spacing)))
    assert lean is not None
    assert lean.axis == axis
    assert lean.degrees == pytest.approx(17.0, abs=0.01)


def test_slices_that_lean_in_two_directions() -> None:
    affine = leaning(2, 17.0, 1)
    affine[:3, 2] += TURN[:, 0] * 0.2
    shape = (46, 44, 42)
    lean = lean_of(geometry_of((20, 20, 20), affine))
    assert lean is not None
    assert lean.axis == 2
    x = torch.from_numpy(smooth(points(affine, shape), affine, shape))[None].float()
    got, straight = straighten(x, geometry_of(shape, affine), 2)
    np.testing.assert_allclose(got[0].numpy(), smooth(points(straight, tuple(got.shape[1:])), affine, shape), atol=8.0)


def test_what_no_shift_of_slices_makes_straight() -> None:
    affine = leaning(2, 17.0, 1)
    affine[:3, 1] += TURN[:, 0] * 0.3
    affine[:3, 2] += TURN[:, 0] * 0.3
    lean = lean_of(geometry_of((20, 20, 20), affine))
    assert lean is not None
    assert lean.axis is None
    steep = lean_of(geometry_of((20, 20, 20), leaning(2, 60.0, 1)))
    assert steep is not None
    assert steep.axis is None


@pytest.mark.parametrize("degrees", [0.0, 0.02, 0.05])
def test_rounding_in_a_header_is_no_lean(degrees: float) -> None:
    assert lean_of(geometry_of((256, 256, 60), leaning(2, degrees, 1))) is None
    rounded = np.round(leaning(2, 0.0, 1), 4)
    assert lean_of(geometry_of((512, 512, 300), rounded)) is None
    assert lean_of(geometry_of((256, 256, 60), leaning(2, 0.3, 1))) is not None
