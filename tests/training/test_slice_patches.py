# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.training.denoising_batch import DenoisingBatch
from monai_diffrecon.training.slice_patches import SlicePatches, _warped

ALL = ["sagittal", "coronal", "axial"]


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """A volume whose voxels say where they lie, label maps, and a volume with axial slices only."""
    x, y, z = np.meshgrid(np.arange(20), np.arange(24), np.arange(28), indexing="ij")
    np.save(tmp_path / "volume.npy", (1 + x / 100 + y / 10000 + z / 1000000).astype(np.float32))
    np.save(tmp_path / "labels.npy", ((x > 5) + (x > 10)).astype(np.uint8))
    np.save(tmp_path / "thick.npy", np.full((20, 24, 3), 5, np.float16))
    rows = [
        {"file": "volume.npy", "planes": ALL},
        {"file": "labels.npy", "planes": ALL, "labels": [0, 2, 3]},
        {"file": "thick.npy", "planes": ["axial"], "weight": 3.0},
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": rows, "validation": rows[:1], "labels": rows[1:2]}))
    return tmp_path / "datalist.json"


def patches(datalist: Path, plane: str = "axial", **options: Any) -> SlicePatches:
    return SlicePatches(str(datalist), plane, **{"patch_size": 16, "length": 40, **options})


def test_an_item_is_the_same_whenever_it_is_asked_for(datalist: Path) -> None:
    first, second = patches(datalist), patches(datalist)
    late = second[7]
    for i in range(8):
        item = first[i]
    assert torch.equal(item, late)
    assert item.shape == (1, 16, 16)
    assert item.dtype == torch.float32
    assert len(first) == 40


def test_epochs_items_and_seeds_differ(datalist: Path) -> None:
    data = patches(datalist)
    here = data[3]
    assert not torch.equal(here, data[4])
    data.epoch = 1
    assert not torch.equal(here, data[3])
    assert not torch.equal(here, patches(datalist, seed=1)[3])


@pytest.mark.parametrize(("plane", "axes"), [("sagittal", (1, 2)), ("coronal", (0, 2)), ("axial", (0, 1))])
def test_a_patch_is_of_its_plane(datalist: Path, plane: str, axes: tuple[int, int], monkeypatch: Any) -> None:
    monkeypatch.setattr("monai_diffrecon.training.slice_patches._augment", lambda patch, rng, **_: patch.copy())
    data = patches(datalist, plane, section="validation")
    steps = np.array([1e-2, 1e-4, 1e-6])
    for i in range(4):
        patch = data[i][0].double()
        for dim, axis in enumerate(axes):
            np.testing.assert_allclose(torch.diff(patch, dim=dim), steps[axis], atol=3e-7)


def test_augmentation_is_of_intensity_and_mirroring(datalist: Path) -> None:
    flipped = 0
    for i in range(40):
        patch = patches(datalist, section="validation")[i][0]
        assert bool((patch > 0).all())
        assert 0.3 < float(patch.mean()) < 2.5
        flipped += bool(patch[0].mean() > patch[-1].mean())
    assert 5 < flipped < 35


def test_weights_and_planes_of_volumes(datalist: Path) -> None:
    data = patches(datalist, label_fraction=0.0, length=200)
    thick = sum(float(data[i].mean()) > 2.9 for i in range(200))
    assert 0.65 < thick / 200 < 0.85
    assert len(data.images) == 2
    assert len(patches(datalist, "coronal").images) == 1


def test_label_maps_alone(datalist: Path) -> None:
    data = patches(datalist, section="labels", foreground=0.0)
    stack = torch.stack([data[i] for i in range(20)])
    assert bool(torch.isfinite(stack).all())
    assert bool((stack >= 0).all())
    contrasts = {round(float(patch.max()), 3) for patch in stack}
    assert len(contrasts) > 10


def test_a_slice_smaller_than_the_patch_is_padded(datalist: Path) -> None:
    patch = patches(datalist, section="validation", patch_size=32)[0][0]
    assert patch.shape == (32, 32)
    inside = patch != 0
    assert int(inside.sum()) == 20 * 24
    assert bool(inside[6:26, 4:28].all())


def test_what_is_no_data_is_refused(datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        patches(tmp_path / "none.json")
    assert (caught.value.where, caught.value.got) == ("dataset#datalist", "none.json")
    assert "prepare_training_data" in str(caught.value.expected)
    with pytest.raises(InputError) as caught:
        patches(datalist, section="test")
    assert (caught.value.where, caught.value.got) == ("dataset#datalist", None)
    with pytest.raises(ConfigError) as caught:
        patches(datalist, "frontal")
    assert (caught.value.where, caught.value.got) == ("dataset#plane", "'frontal'")


def test_a_warp_turns_and_scales_about_the_middle(datalist: Path) -> None:
    plain = patches(datalist, "axial", section="validation", patch_size=24)[3]
    warped = patches(datalist, "axial", section="validation", patch_size=24, warp=0.1)[3]
    assert warped.shape == plain.shape
    assert not torch.equal(warped, plain)
    rng = np.random.default_rng(0)
    disk = (np.hypot(*np.mgrid[-15:16, -15:16]) < 8).astype(np.float32)
    moved = _warped(disk, rng, 0.05)
    np.testing.assert_allclose(moved.sum(), disk.sum(), rtol=0.1)
    np.testing.assert_allclose([(moved * g).sum() / moved.sum() for g in np.mgrid[-15:16, -15:16]], 0, atol=0.1)


@pytest.fixture
def fine_ramp(tmp_path: Path) -> Path:
    """A volume of 0.8 x 0.8 x 2 mm whose voxels are x in mm."""
    x = np.broadcast_to((np.arange(120) * 0.8)[:, None, None], (120, 100, 60))
    np.save(tmp_path / "ramp.npy", x.astype(np.float32))
    rows = [{"file": "ramp.npy", "planes": ALL, "spacing": [0.8, 0.8, 2.0]}]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": rows}))
    return tmp_path / "datalist.json"


def test_patches_are_resampled_to_pixels_of_the_range_and_half_of_them_keep_theirs(fine_ramp: Path) -> None:
    data = patches(fine_ramp, spacing_range=[0.4, 2.0], foreground=0.0, contrast=0.0, flip=False, length=200)
    # The ramp rises by its pixel's size from pixel to pixel.
    steps = torch.stack([(data[i][0, 8, 8] - data[i][0, 7, 8]).abs() for i in range(200)])
    kept = (steps - 0.8).abs() < 1e-3
    assert 0.4 < kept.float().mean() < 0.6
    assert steps.max() < 2.1
    assert steps.min() > 0.6 * 0.8 - 0.02
    assert steps[~kept].std() > 0.2


def test_any_plane_draws_every_plane(fine_ramp: Path) -> None:
    data = patches(fine_ramp, "any", foreground=0.0, contrast=0.0, flip=False)
    # Sagittal slices are constant; the others rise along their first axis.
    flat = [bool(data[i][0].std() < 1e-6) for i in range(40)]
    assert 0.1 < sum(flat) / 40 < 0.6


@pytest.mark.parametrize("limits", [[2.0, 1.0], [0.0, 1.0]])
def test_a_range_of_pixels_must_rise(fine_ramp: Path, limits: list[float]) -> None:
    with pytest.raises(ConfigError) as caught:
        patches(fine_ramp, spacing_range=limits)
    assert caught.value.where == "dataset#spacing_range"


def test_a_range_of_pixels_needs_the_voxel_sizes(datalist: Path) -> None:
    with pytest.raises(InputError):
        patches(datalist, spacing_range=[0.5, 2.0])


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_positions_are_those_of_a_cube_around_the_patch(
    datalist: Path, plane: str, axis: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr("monai_diffrecon.training.slice_patches._augment", lambda patch, rng, **_: patch.copy())
    data = patches(datalist, plane, section="validation", position=True, flip=False)
    firsts = set()
    for i in range(30):
        item = data[i].double()
        assert item.shape == (4, 16, 16)
        voxels = (item[1:] + 1) / 2 * 15  # of the cube, along X, Y, Z
        value = item[0, 0, 0] - 1
        index = [int(torch.round(value / step)) % 100 for step in (1e-2, 1e-4, 1e-6)]
        first = [n - int(torch.round(at)) for n, at in zip(index, voxels[:, 0, 0], strict=True)]
        firsts.add(first[axis])
        assert all(0 <= a <= n - 16 for a, n in zip(first, (20, 24, 28), strict=True))
        for dim, other in enumerate(a for a in range(3) if a != axis):
            torch.testing.assert_close(
                torch.diff(voxels[other], dim=dim), torch.ones_like(torch.diff(voxels[0], dim=dim))
            )
        assert float(voxels[axis].std()) == 0
    assert len(firsts) > 2


def test_a_mirrored_sagittal_slice_lies_on_the_other_side(datalist: Path) -> None:
    sides = {
        tuple(patches(datalist, "sagittal", position=True, flip=flip, length=200)[i][1, 0, 0].item() for i in range(50))
        for flip in (False, True)
    }
    plain, mirrored = sides
    assert all(abs(abs(a) - abs(b)) < 1e-6 for a, b in zip(plain, mirrored, strict=True))
    assert 10 < sum(a != b for a, b in zip(plain, mirrored, strict=True)) < 40


@pytest.mark.parametrize("options", [{"spacing_range": [0.5, 2.0]}, {"patch_size": 24}])
def test_positions_need_a_cube(datalist: Path, options: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, InputError)):
        patches(datalist, "any", position=True, **options)


def test_a_batch_of_placed_patches_tells_the_network_where(datalist: Path) -> None:
    data = patches(datalist, "any", section="validation", position=True)
    batch = torch.stack([data[i] for i in range(4)])
    noisy, target, _, more = DenoisingBatch(seed=1)(batch)
    assert noisy.shape == target["clean"].shape == (4, 1, 16, 16)
    assert torch.equal(more["position"], batch[:, 1:])
    assert "position" not in DenoisingBatch(seed=1)(batch[:, :1])[3]
