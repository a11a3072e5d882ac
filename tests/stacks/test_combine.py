# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick scans that moved between each other become one measurement."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.operators.stacks import Stacks
from monai_diffrecon.protocols import Measurement
from monai_diffrecon.stacks.align import Aligner, slice_weights_of
from monai_diffrecon.stacks.combine import _DOUBTFUL, _stack_of, combine_stacks
from monai_diffrecon.stacks.grid import common_grid

from ..raising import raises

SIZE, THICKNESS = 40, 4
AXES = {"axial": 2, "sagittal": 0, "coronal": 1}
#: plane -> degrees and mm by which the object had moved.
MOTIONS = {
    "axial": ((0, 0, 0), (0, 0, 0)),
    "sagittal": ((2, -3, 1), (1.5, -1, 1)),
    "coronal": ((-1, 2, 3), (-1, 2, 0.5)),
}


@cache
def truth() -> np.ndarray:
    random = np.random.default_rng(0)
    blobs = gaussian_filter(random.normal(size=(SIZE,) * 3), 2.0)
    radius = np.linalg.norm(np.indices((SIZE,) * 3) - (SIZE - 1) / 2, axis=0)
    return np.where(radius < 17, 1.0 + 0.6 * blobs / blobs.std(), 0.0).clip(0).astype(np.float32)


def moved(plane: str) -> np.ndarray:
    degrees, shift = MOTIONS[plane]
    centre, out = np.full(3, (SIZE - 1) / 2), np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    out[:3, 3] = shift + centre - out[:3, :3] @ centre
    return out


def scan(plane: str, poses: list[np.ndarray] | None = None, factor: float = 1.0) -> Measurement:
    """Measure the truth by cubic interpolation at eight points across each slice, each slice with its own motion."""
    axis, count = AXES[plane], SIZE // THICKNESS
    affine = np.eye(4)
    affine[axis, axis], affine[axis, 3] = THICKNESS, (THICKNESS - 1) / 2
    shape = [SIZE, SIZE, SIZE]
    shape[axis] = count
    poses = [moved(plane)] * count if poses is None else poses
    slices = []
    for number, pose in enumerate(poses):
        at = np.indices([1 if i == axis else SIZE for i in range(3)]).reshape(3, -1).astype(float)
        values = []
        for k in range(8):
            at[axis] = number + (k + 0.5) / 8 - 0.5
            world = pose @ affine @ np.vstack([at, np.ones(at.shape[1])])
            values.append(map_coordinates(truth(), world[:3], order=3))
        slices.append(np.mean(values, 0).reshape([1 if i == axis else SIZE for i in range(3)]))
    image = np.concatenate(slices, axis) * factor
    data = torch.from_numpy(image).float()[None]
    return Measurement(data, geometry_of(shape, affine), source_sha256="0" * 64)


def errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return how far (mm) points of the object are put from where they were."""
    points = np.stack(np.meshgrid(*[np.linspace(8, SIZE - 9, 4)] * 3), -1).reshape(-1, 3)
    difference = found - true
    return np.asarray(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1))


@pytest.fixture(scope="module")
def combined() -> Measurement:
    scans = [scan("axial"), scan("sagittal", factor=1.3), scan("coronal", factor=0.7)]
    scans[1].data[:, 4] *= 0.2  # a slice that lost its signal
    return combine_stacks(scans)


def test_stacks_are_found_where_they_were(combined: Measurement) -> None:
    assert combined.operator is not None
    poses = combined.operator["poses"].numpy().reshape(3, -1, 4, 4)
    for found, plane in zip(poses, ("axial", "sagittal", "coronal"), strict=True):
        assert errors(found[0], moved(plane)).max() < 0.3
        assert np.array_equal(found, np.tile(found[0], (len(found), 1, 1)))
    assert errors(np.eye(4), moved("sagittal")).min() > 1.0


def test_intensities_are_those_of_the_first(combined: Measurement) -> None:
    spec = dict(combined.operator or {})
    spec.pop("name")
    operator = Stacks(combined.geometry, **spec)
    x = torch.from_numpy(truth())[None]
    expected, found = operator.images(operator(x)), operator.images(combined.data)
    for number, (e, f) in enumerate(zip(expected, found, strict=True)):
        kept = [i for i in range(SIZE // THICKNESS) if (number, i) != (1, 4)]
        axis = (2, 0, 1)[number]
        index = torch.tensor(kept)
        ratio = f.index_select(axis, index).sum() / e.index_select(axis, index).sum()
        assert float(ratio) == pytest.approx(1.0, abs=0.03)


def test_a_slice_without_signal_is_hardly_used(combined: Measurement) -> None:
    assert combined.weights is not None
    parts = combined.weights.split([SIZE * SIZE * SIZE // THICKNESS] * 3)
    sagittal = parts[1].view(SIZE // THICKNESS, SIZE, SIZE).amax((1, 2))
    assert float(sagittal[4]) < 0.1
    # The first and the last may reach out of the volume, where nothing is known of what they measure.
    assert bool((sagittal[[i for i in range(1, SIZE // THICKNESS - 1) if i != 4]] == 1.0).all())
    assert any("slice 5 is unlike" in notice for notice in combined.notices)


def test_the_volume_is_isotropic_along_the_first_scan(combined: Measurement) -> None:
    assert combined.geometry.shape == (SIZE,) * 3
    assert np.allclose(affine_of(combined.geometry), np.eye(4))
    assert combined.data.shape == (3 * SIZE**3 // THICKNESS,)
    coarse = combine_stacks([scan("axial"), scan("sagittal")], spacing=2.0, motion="none")
    assert coarse.geometry.shape == (SIZE // 2,) * 3
    assert np.allclose(coarse.geometry.spacing, 2.0)
    assert np.allclose((affine_of(coarse.geometry) @ (-0.5, -0.5, -0.5, 1))[:3], -0.5)


def test_scans_that_did_not_move_are_left_where_they_are() -> None:
    still = combine_stacks([scan("axial"), scan("axial")], motion="none")
    assert still.operator is not None
    assert torch.equal(still.operator["poses"], torch.eye(4).double().repeat(20, 1, 1))


@pytest.mark.slow
def test_slices_are_found_one_by_one() -> None:
    random = np.random.default_rng(3)
    poses = []
    for _ in range(SIZE // THICKNESS):
        pose = moved("axial")
        pose[:3, :3] = Rotation.from_euler("xyz", random.normal(size=3) * 1.5, degrees=True).as_matrix()
        centre = np.full(3, (SIZE - 1) / 2)
        pose[:3, 3] = random.normal(size=3) + centre - pose[:3, :3] @ centre
        poses.append(pose)
    still = [scan(plane, [np.eye(4)] * (SIZE // THICKNESS)) for plane in ("sagittal", "coronal")]
    found = combine_stacks([*still, scan("axial", poses)], motion="slices")
    assert found.operator is not None
    axial = found.operator["poses"].numpy()[-SIZE // THICKNESS :]
    inner = range(2, SIZE // THICKNESS - 2)  # the outer slices hold little
    before = np.mean([errors(np.eye(4), poses[i]).mean() for i in inner])
    after = np.mean([errors(axial[i], poses[i]).mean() for i in inner])
    assert before > 1.2
    assert after < 0.4


def walked(plane: str, seed: int) -> list[np.ndarray]:
    """The motion of each slice: that of the one before, and a step of 0.5 mm and degrees."""
    walk = np.cumsum(np.random.default_rng(seed).normal(size=(SIZE // THICKNESS, 6)) * 0.5, axis=0)
    centre, out = np.full(3, (SIZE - 1) / 2), []
    for step in walk:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("xyz", step[:3], degrees=True).as_matrix()
        pose[:3, 3] = step[3:] + centre - pose[:3, :3] @ centre
        out.append(pose @ moved(plane))
    return out


@pytest.mark.slow
def test_all_is_estimated_at_poses_that_are_known() -> None:
    poses = [walked(plane, seed) for seed, plane in enumerate(AXES)]
    factors = (1.0, 1.3, 0.7)
    scans = [scan(plane, p, f) for plane, p, f in zip(AXES, poses, factors, strict=True)]
    known = torch.from_numpy(np.concatenate(poses))
    found = combine_stacks(scans, motion="none", poses=known)
    assert found.operator is not None
    assert torch.equal(found.operator["poses"], known)
    operator = Stacks(found.geometry, **{k: v for k, v in found.operator.items() if k != "name"})
    # The object fits, at the intensity of the first ...
    x = torch.from_numpy(truth())[None]
    for expected, stack in zip(operator.images(operator(x)), operator.images(found.data), strict=True):
        assert float(stack.sum() / expected.sum()) == pytest.approx(1.0, abs=0.03)
    # ... and a voxel that reaches out of the volume, where its slice was, is not used.
    inside = operator(torch.ones(1, *found.geometry.shape)) > 0.999
    assert found.weights is not None
    assert bool((found.weights[~inside] == 0.0).all())
    assert bool((found.weights[inside] > 0.0).all())
    assert not any("fit badly" in notice for notice in found.notices)
    headers = combine_stacks(scans, motion="none")
    assert headers.weights is None or not torch.equal(headers.weights, found.weights)


@pytest.mark.parametrize(
    ("motion", "poses", "got"),
    [
        ("stacks", np.tile(np.eye(4), (20, 1, 1)), "motion stacks"),
        ("none", np.tile(np.eye(4), (19, 1, 1)), (19, 4, 4)),
        ("none", np.tile(2.0 * np.eye(4), (20, 1, 1)), None),
    ],
)
def test_poses_that_are_none(motion: str, poses: np.ndarray, got: object) -> None:
    with raises(ConfigError, where="poses", got=got):
        combine_stacks([scan("axial"), scan("sagittal")], motion=motion, poses=torch.from_numpy(poses))


def test_stacks_that_fit_badly_are_said_to_once(combined: Measurement) -> None:
    assert not any("fit badly" in notice for notice in combined.notices)
    scans = [scan(plane) for plane in AXES]
    assert sum("fit badly" in notice for notice in combine_stacks(scans, motion="none").notices) == 1


@pytest.mark.slow
@pytest.mark.parametrize("planes", [("axial", "sagittal", "coronal"), ("axial", "sagittal")])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_misfit_tells_motion_from_thickness_and_noise(planes: tuple[str, ...], noise: float) -> None:
    """Whatever the number of stacks and their noise; all correlate less, the fewer they are."""

    def misfit(still: bool) -> float:
        random = torch.Generator().manual_seed(0)
        scans = [scan(plane, [np.eye(4)] * (SIZE // THICKNESS) if still else None) for plane in planes]
        images = [s.data[0] + noise * torch.randn(s.data.shape[1:], generator=random) for s in scans]
        stacks = [_stack_of(s, i) for i, s in enumerate(scans)]
        return max(Aligner(common_grid(stacks, 1.0), stacks, images).align(rounds=0).misfits)

    assert 0.8 < misfit(still=True) < 1.2
    assert misfit(still=False) > _DOUBTFUL


def test_what_leaves_the_volume_aligns_nothing() -> None:
    """The subject goes on where the stacks end; each covers a box about its middle, in its own position."""
    margin, side = 8, 24
    random = np.random.default_rng(1)
    tissue = 1.0 + 0.3 * gaussian_filter(random.normal(size=(SIZE,) * 3), 2.0) / 0.07
    scans, stacks, poses = [], [], []
    for plane, axis in AXES.items():
        shape, affine = [side, side, side], np.eye(4)
        shape[axis], affine[axis, axis] = side // THICKNESS, THICKNESS
        affine[:3, 3] = margin
        affine[axis, 3] += (THICKNESS - 1) / 2
        poses.append(moved(plane))
        world = poses[-1] @ affine
        at = np.indices(shape).reshape(3, -1)
        values = []
        for k in range(8):
            points = at.astype(float)
            points[axis] += (k + 0.5) / 8 - 0.5
            values.append(map_coordinates(tissue, world[:3, :3] @ points + world[:3, 3:], order=3))
        data = torch.from_numpy(np.mean(values, 0).reshape(shape)).float()[None]
        scans.append(Measurement(data, geometry_of(shape, affine)))
        stacks.append(_stack_of(scans[-1], 0))
    known = [np.tile(pose, (stack.slices, 1, 1)) for pose, stack in zip(poses, stacks, strict=True)]
    grid = common_grid(stacks, 1.0)
    aligned = Aligner(grid, stacks, [scan.data[0] for scan in scans], poses=known).align(rounds=0)
    assert max(aligned.misfits) < _DOUBTFUL
    assert min(aligned.agreements) > 0.95


@pytest.mark.slow
def test_the_same_scans_make_the_same_measurement(combined: Measurement) -> None:
    pair = [scan("axial"), scan("sagittal")]
    one, two = combine_stacks(pair), combine_stacks(pair)
    assert torch.equal(one.data, two.data)
    assert one.operator is not None
    assert two.operator is not None
    assert torch.equal(one.operator["poses"], two.operator["poses"])


def test_scans_that_cannot_be_one_volume_are_refused() -> None:
    good = scan("axial")
    noise = replace(good, data=torch.rand(good.data.shape, generator=torch.Generator().manual_seed(1)))
    far = replace(
        good, geometry=geometry_of(good.geometry.shape, affine_of(good.geometry) + 3000 * np.eye(4)[:, [3] * 4].T)
    )
    cubic = Measurement(torch.ones(1, 8, 8, 8), geometry_of((8, 8, 8)))
    with raises(InputError, where="SCAN", got=1):
        combine_stacks([good])
    with raises(InputError, where="SCAN 2"):
        combine_stacks([good, cubic])
    with raises(InputError, where="SCAN", got="HU, arbitrary"):
        combine_stacks([good, replace(good, unit="HU")])
    with raises(InputError, where="SCAN", got="CT, MR"):
        combine_stacks([replace(good, header={"Modality": "MR"}), replace(good, header={"Modality": "CT"})])
    with raises(InputError, where="SCAN 1", got=...):
        combine_stacks([good, noise])
    with raises(InputError, where="SCAN"):
        combine_stacks([good, far])
    with raises(ConfigError, where="motion"):
        combine_stacks([good, good], motion="some")


def test_outliers_are_told_from_the_spread_of_all() -> None:
    usual = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0])
    assert np.array_equal(slice_weights_of(usual), np.ones(6))
    odd = slice_weights_of(np.array([*usual, 4.0, np.nan]))
    assert odd[6] < 0.1
    assert np.array_equal(odd[[0, 5, 7]], np.ones(3))
