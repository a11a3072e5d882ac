# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes to slices and back."""

from __future__ import annotations

import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.planes import check_plane, from_slices, to_slices
from monai_diffrecon.protocols import PLANE_AXIS

from ..raising import raises

X = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
SHAPES = {"sagittal": (3, 2, 4, 5), "coronal": (4, 2, 3, 5), "axial": (5, 2, 3, 4)}


@pytest.mark.parametrize("plane", PLANE_AXIS)
def test_round_trip(plane: str) -> None:
    slices = to_slices(X, plane)
    assert slices.shape == SHAPES[plane]
    assert torch.equal(from_slices(slices, plane), X)
    assert torch.equal(to_slices(from_slices(slices, plane), plane), slices)


@pytest.mark.parametrize("plane", PLANE_AXIS)
def test_slice_k_is_the_kth_along_the_planes_axis(plane: str) -> None:
    """The two axes that remain keep their order: an axial slice is (C, X, Y)."""
    for k, piece in enumerate(to_slices(X, plane)):
        assert torch.equal(piece, X.select(1 + PLANE_AXIS[plane], k))


def test_axes_by_name() -> None:
    assert float(to_slices(X, "sagittal")[2, 1, 3, 4]) == float(X[1, 2, 3, 4])
    assert float(to_slices(X, "coronal")[3, 1, 2, 4]) == float(X[1, 2, 3, 4])
    assert float(to_slices(X, "axial")[4, 1, 2, 3]) == float(X[1, 2, 3, 4])


@pytest.mark.parametrize("plane", PLANE_AXIS)
def test_slices_are_a_view(plane: str) -> None:
    """A volume is not copied to be sliced."""
    assert to_slices(X, plane).untyped_storage().data_ptr() == X.untyped_storage().data_ptr()


@pytest.mark.parametrize("plane", PLANE_AXIS)
def test_gradients_and_types_go_through(plane: str) -> None:
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: from_slices(to_slices(v, plane) ** 2, plane), x)


def test_planes_differ() -> None:
    """On a cube no shape betrays a wrong axis."""
    cube = torch.arange(27.0).reshape(1, 3, 3, 3)
    for slicing in PLANE_AXIS:
        for joining in PLANE_AXIS:
            same = torch.equal(from_slices(to_slices(cube, slicing), joining), cube)
            assert same == (slicing == joining), f"{slicing} slices joined as {joining}"


@pytest.mark.parametrize("plane", ["z", "Axial", "", "transverse"])
def test_unknown_planes(plane: str) -> None:
    with raises(ConfigError, where="prior#plane", expected="sagittal, coronal or axial"):
        check_plane(plane, "prior#plane")
    for convert in (to_slices, from_slices):
        with raises(ConfigError, where="plane", expected="sagittal, coronal or axial"):
            convert(X, plane)


def test_a_known_plane_is_returned() -> None:
    assert [check_plane(p) for p in PLANE_AXIS] == list(PLANE_AXIS)
