# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stacks of slices that lie anywhere."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.operators.stacks import Stacks
from monai_diffrecon.protocols import VolumeGeometry

from ..raising import raises

PLANES = ("sagittal", "coronal", "axial")


def affine(degrees: tuple[float, ...], start: tuple[float, ...], spacing: tuple[float, ...]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    out[:3, 3] = start
    return out


def stack(shape: tuple[int, ...], where: np.ndarray, plane: str, thickness: float) -> dict[str, Any]:
    return {"shape": list(shape), "affine": where.tolist(), "plane": plane, "thickness": thickness}


def geometry(shape: tuple[int, int, int], where: np.ndarray) -> VolumeGeometry:
    spacing = np.linalg.norm(where[:3, :3], axis=0)
    return VolumeGeometry(shape, tuple(spacing.tolist()), tuple(map(tuple, where.tolist())))


VOLUME = geometry((9, 8, 10), affine((10, -5, 3), (4, -2, 7), (1.0, 1.0, 1.0)))
ASKEW = stack((4, 5, 3), affine((14, -3, 8), (6, -1, 9), (1.0, 1.3, 2.5)), "axial", 2.0)
ACROSS = stack((2, 5, 6), affine((8, -4, 1), (6, 0, 8), (3.0, 0.9, 1.0)), "sagittal", 3.0)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("thickness", "gap"), [(5.0, 0.0), (3.0, 1.0)])
def test_a_stack_along_the_axes_is_slice_thickness(plane: str, thickness: float, gap: float) -> None:
    shape = [7, 7, 7]
    axis = PLANES.index(plane)
    shape[axis] = 20
    volume = geometry((shape[0], shape[1], shape[2]), np.eye(4))
    known = SliceThickness(volume, thickness, gap, plane=plane)
    said = known.measured_geometry()
    assert said.affine is not None
    alike = Stacks(volume, [stack(said.shape, np.array(said.affine), plane, thickness)])
    x = torch.rand(known.volume_shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(alike(x), known(x).flatten(), atol=1e-6)
    assert torch.allclose(alike.initial(alike(x)), known.initial(known(x)), atol=1e-5)


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_voxels_are_means_over_their_points(limit: float) -> None:
    x = torch.rand((1, *VOLUME.shape), generator=torch.Generator().manual_seed(0))
    pose = affine((4, 2, -3), (0.5, -0.2, 0.3), (1.0, 1.0, 1.0))
    poses = torch.from_numpy(np.stack([np.eye(4), pose, np.eye(4)]))
    y = Stacks(VOLUME, [ASKEW], poses=poses, memory_limit_gb=limit)(x).view(4, 5, 3)
    to_volume, finer = np.linalg.inv(np.array(VOLUME.affine)), x[0].numpy()
    for axis, size in enumerate(finer.shape):
        halves = (np.arange(2 * size + 1) - 1) / 2
        finer = CubicSpline(np.arange(size), finer, axis=axis)(halves.clip(0, size - 1))
    for index in ((0, 0, 0), (2, 3, 1), (1, 4, 2)):
        # A slice of 2 mm with voxels of 1 mm: points 0.5 mm above and below its middle.
        points = []
        for along in (-0.5, 0.5):
            world = np.array(ASKEW["affine"]) @ (index[0], index[1], index[2] + along / 2.5, 1.0)
            points.append((to_volume @ poses[index[2]].numpy() @ world)[:3])
        expected = map_coordinates(finer, 2 * np.array(points).T + 1, order=1, mode="grid-constant").mean()
        assert float(y[index]) == pytest.approx(float(expected), abs=1e-5)


def test_a_smooth_volume_is_not_blurred() -> None:
    def wave(points: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * points / 6.0).prod(0)  # six voxels a period

    where = affine((20, 10, -15), (7.3, 6.2, 5.1), (1.0, 1.0, 1.0))
    operator = Stacks(geometry((24, 24, 24), np.eye(4)), [stack((6, 6, 6), where, "axial", 1.0)])
    x = torch.from_numpy(wave(np.indices((24, 24, 24)) - 11.5)).float()[None]
    at = np.einsum("ij,j...->i...", where[:3, :3], np.indices((6, 6, 6))) + where[:3, 3, None, None, None]
    linear = map_coordinates(x[0].numpy(), at, order=1)
    errors = [np.abs(values - wave(at - 11.5)).max() for values in (operator(x).view(6, 6, 6).numpy(), linear)]
    assert errors[0] < 0.12
    assert errors[1] > 0.2


def test_large_pixels_are_means_too() -> None:
    volume = geometry((8, 8, 8), np.eye(4))
    coarse = affine((0, 0, 0), (0.5, 0.5, 0.0), (2.0, 2.0, 1.0))
    x = torch.rand((1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    y = Stacks(volume, [stack((4, 4, 8), coarse, "axial", 1.0)])(x).view(4, 4, 8)
    assert torch.allclose(y, x[0].unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2)), atol=1e-6)


def test_the_gaussian_profile_has_its_width() -> None:
    volume = geometry((2, 2, 81), np.eye(4))
    middle = affine((0, 0, 0), (0, 0, 40), (1.0, 1.0, 8.0))
    operator = Stacks(volume, [stack((2, 2, 1), middle, "axial", 8.0)], "gaussian")
    profile = operator.adjoint(torch.ones(4))[0, 0, 0]
    assert float(profile.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(profile[44] / profile[40]) == pytest.approx(0.5, abs=0.01)


def test_with_and_without_a_matrix(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.rand((1, *VOLUME.shape), generator=torch.Generator().manual_seed(0))
    fast = Stacks(VOLUME, [ASKEW, ACROSS])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        slow = Stacks(VOLUME, [ASKEW, ACROSS], memory_limit_gb=1e-9)
    assert len(caplog.records) == 1
    assert torch.allclose(fast(x), slow(x), atol=1e-6)
    y = fast(x)
    assert torch.allclose(fast.adjoint(y), slow.adjoint(y), atol=1e-5)


def test_slices_that_moved_measure_what_was_moved() -> None:
    volume = geometry((6, 6, 12), np.eye(4))
    scan = stack((6, 6, 3), affine((0, 0, 0), (0, 0, 1), (1.0, 1.0, 4.0)), "axial", 3.0)
    x = torch.rand((1, 6, 6, 12), generator=torch.Generator().manual_seed(0))
    poses = torch.eye(4).repeat(3, 1, 1).double()
    poses[1, 2, 3] = 1.0
    still, moved = Stacks(volume, [scan])(x).view(6, 6, 3), Stacks(volume, [scan], poses=poses)(x).view(6, 6, 3)
    assert torch.equal(still[..., ::2], moved[..., ::2])
    assert torch.allclose(moved[..., 1], x[0, :, :, 5:8].mean(-1), atol=1e-6)


def test_the_start_is_the_mean_of_the_stacks_where_they_are() -> None:
    operator = Stacks(VOLUME, [ASKEW, ACROSS])
    constant = operator.initial(torch.full(operator.measurement_shape, 3.0)).round(decimals=4)
    assert set(constant.unique().tolist()) == {0.0, 3.0}
    one, other = (Stacks(VOLUME, [scan]) for scan in (ASKEW, ACROSS))
    y, z = torch.full(one.measurement_shape, 2.0), torch.full(other.measurement_shape, 4.0)
    first, second = one.initial(y), other.initial(z)
    both = operator.initial(torch.cat([y, z])).round(decimals=4)
    assert torch.equal(both[(first > 0) & (second > 0)].unique(), torch.tensor([3.0]))
    assert torch.equal(both[(first > 0) & (second == 0)].unique(), torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"stacks": []}, "operator#stacks"),
        ({"stacks": [{"shape": [1, 2, 3]}]}, "operator#stacks#0"),
        ({"stacks": [ASKEW, {**ASKEW, "shape": [4, 5]}]}, "operator#stacks#1"),
        ({"stacks": [{**ASKEW, "affine": np.zeros((4, 4)).tolist()}]}, "operator#stacks#0"),
        ({"stacks": [{**ASKEW, "affine": [[float("nan")] * 4] * 4}]}, "operator#stacks#0"),
        ({"stacks": [{**ASKEW, "affine": "no"}]}, "operator#stacks#0"),
        ({"stacks": [{**ASKEW, "shape": [4, 5, 10**9]}]}, "operator#stacks#0"),
        ({"stacks": [{**ASKEW, "shape": [8192, 8192, 1]}]}, "operator#stacks"),
        ({"stacks": [{**ASKEW, "thickness": -1.0}]}, "operator#stacks#0#thickness"),
        ({"stacks": [ASKEW], "poses": torch.eye(4)}, "operator#poses"),
        ({"stacks": [ASKEW], "poses": 2 * torch.eye(4).repeat(3, 1, 1)}, "operator#poses"),
    ],
)
def test_what_is_no_stack_is_refused(options: dict[str, Any], where: str) -> None:
    with raises(ConfigError, where=where):
        Stacks(VOLUME, **options)
