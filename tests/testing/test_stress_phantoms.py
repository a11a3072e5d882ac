# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Phantoms whose structure runs across slices."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.testing.phantoms.stress import branching_vessels, twisting_tube
from monai_diffrecon.testing.phantoms.vessel_tree import Branch, grow_tree, murray_angles

from ..raising import raises

SHAPE = (96, 88, 40)
AXES = (36.0, 33.0, 17.0)
CENTRE = (47.5, 43.5, 19.5)


def tree(seed: int, tortuosity: float = 0.06) -> list[Branch]:
    rng = np.random.Generator(np.random.PCG64(seed))
    options = {"root_radius": 3.5, "min_radius": 1.0, "length": 7.0}
    return grow_tree(CENTRE, AXES, rng, tortuosity=tortuosity, **options)


def daughters(branches: list[Branch]) -> dict[int, list[Branch]]:
    out = defaultdict(list)
    for branch in branches:
        out[branch.parent].append(branch)
    return out


def bright(volume: torch.Tensor) -> np.ndarray:
    return (volume > 0.6)[0].numpy()


@pytest.mark.parametrize("make", [branching_vessels, twisting_tube])
def test_network_units(make) -> None:
    volume = make(SHAPE)
    assert volume.shape == (1, *SHAPE)
    assert volume.dtype == torch.float32
    assert float(volume.min()) == 0.0
    assert float(volume.max()) == pytest.approx(0.9)
    # All that lies between air, body and vessel is an edge, and there is little of it.
    body = (volume > 0.2) & (volume < 0.3)
    assert float(volume[body].mean()) == pytest.approx(0.25, abs=0.01)
    assert float(volume[body].std()) > 0.01
    assert float((body | (volume == 0.0) | (volume > 0.89)).float().mean()) > 0.9
    # Enough of it is bright for a bundle that scales by a percentile to take the vessels for white.
    assert IntensityMap.percentile(volume, 99.5).scale == pytest.approx(0.9, abs=0.01)


def test_seed_alone_decides() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = branching_vessels(SHAPE, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    torch.manual_seed(2)
    assert torch.equal(branching_vessels(SHAPE, seed=3), first)
    for other in (0, 1, 2, 4):
        both = bright(branching_vessels(SHAPE, seed=other)), bright(first)
        assert (both[0] & both[1]).sum() < 0.5 * both[1].sum()


@pytest.mark.parametrize("seed", range(4))
def test_tree_is_in_one_piece_and_crosses_the_slices_of_every_plane(seed: int) -> None:
    mask = bright(branching_vessels(SHAPE, seed=seed))
    _, pieces = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    assert pieces == 1
    # Where vessels run: the direction in which the smoothed volume changes least.
    smooth = ndimage.gaussian_filter(mask.astype(float), 1.0)
    gradients = np.gradient(smooth)
    tensor = np.stack([np.stack([ndimage.gaussian_filter(a * b, 2.0) for b in gradients], -1) for a in gradients], -1)
    along = np.linalg.eigh(tensor[mask])[1][:, :, 0]
    share = np.bincount(np.abs(along).argmax(axis=1), minlength=3) / len(along)
    assert share.min() > 0.1, f"part of the tree that runs along each axis: {share}"
    for axis in range(3):
        met = mask.any(axis=tuple(a for a in range(3) if a != axis))
        assert met.mean() > 0.4, f"part of the slices with a vessel, axis {axis}: {met.mean()}"


@pytest.mark.parametrize("seed", range(4))
def test_radii_obey_murrays_law_and_daughters_start_where_their_parent_ends(seed: int) -> None:
    branches = tree(seed)
    forks = daughters(branches)
    assert len(forks.pop(-1)) == 1
    assert len(forks) > 8
    assert min(b.radius for b in branches) >= 1.0
    for parent, pair in forks.items():
        assert len(pair) == 2
        assert sum(b.radius**3 for b in pair) == pytest.approx(branches[parent].radius ** 3)
        for branch in pair:
            assert np.array_equal(branch.points[0], branches[parent].points[-1])


def test_angles_balance_the_pull_of_the_vessels() -> None:
    """Least work is a balance of forces that are as large as the cross-sections, and it shows in the tree."""
    for branches in (tree(0), tree(1)):
        for parent, pair in daughters(branches).items():
            if parent < 0:
                continue
            end = branches[parent].points
            pull = sum(b.radius**2 * (b.points[1] - b.points[0]) for b in pair)
            np.testing.assert_allclose(pull, branches[parent].radius ** 2 * (end[-1] - end[-2]), atol=1e-9)
    # Equal daughters, each with half the flow: 37.5 degrees on either side, as Murray gives it.
    half = 2.0 ** (-1.0 / 3.0)
    assert [math.degrees(a) for a in murray_angles(1.0, half, half)] == pytest.approx([37.47, 37.47], abs=0.01)


def test_walk_is_smooth_and_stays_inside() -> None:
    for branch in tree(2):
        steps = np.diff(branch.points, axis=0)
        np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1.0)
        turns = np.arccos(np.clip((steps[1:] * steps[:-1]).sum(axis=1), -1.0, 1.0))
        assert turns.max() < 0.8
        assert np.linalg.norm((branch.points - CENTRE) / AXES, axis=1).max() < 1.1
    root = tree(2, tortuosity=0.0)[0].points
    inner = root[np.linalg.norm((root - CENTRE) / AXES, axis=1) < 0.69]
    np.testing.assert_allclose(np.diff(inner, n=2, axis=0), 0.0, atol=1e-9)


@pytest.mark.parametrize("turns", [3.0, -1.25])
def test_middle_of_the_winding_tube_lies_at_its_angle(turns: float) -> None:
    shape, away = (80, 80, 64), 14.0
    volume = twisting_tube(shape, turns=turns, helix_radius=away)[0].numpy()
    i, j = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape[:2]), indexing="ij")
    ring = np.abs(np.hypot(i, j) - away) < 4.0
    for k in range(8, shape[2] - 8):
        weight = np.where(ring & (volume[:, :, k] > 0.6), volume[:, :, k], 0.0)
        middle = np.array([(weight * i).sum(), (weight * j).sum()]) / weight.sum()
        expected = 2.0 * math.pi * turns * k / (shape[2] - 1)
        off = math.atan2(middle[1], middle[0]) - expected
        off = math.remainder(off, 2.0 * math.pi) * away
        assert abs(off) < 1.0, f"slice {k}: off by {off:.2f} voxels"


def test_straight_tube_has_the_area_of_its_circle() -> None:
    """The edge is a part of a voxel where the circle cuts it, whatever the place of the middle on the grid."""
    for shape in ((48, 48, 20), (49, 48, 20)):
        volume = twisting_tube(shape, turns=0.0, helix_radius=0.0, radius=4.3, background=0.0)
        area = volume.sum(dim=(0, 1, 2)) / 0.9
        torch.testing.assert_close(area, torch.full((20,), math.pi * 4.3**2), rtol=0.01, atol=0.0)
        edges = torch.unique((volume[..., 10] * 100).round())
        assert len(edges) > 5


@pytest.mark.parametrize(
    ("make", "options", "where"),
    [
        (branching_vessels, {"shape": (8, 64, 64)}, "shape"),
        (branching_vessels, {"shape": (64, 64)}, "shape"),
        (branching_vessels, {"seed": -1}, "seed"),
        (branching_vessels, {"min_radius": 5.0}, "min_radius"),
        (twisting_tube, {"helix_radius": 40.0}, "helix_radius"),
        (twisting_tube, {"brightness": 1.5}, "brightness"),
        (twisting_tube, {"background": 0.9}, "background"),
    ],
)
def test_options_out_of_range(make, options: dict, where: str) -> None:
    with raises(ConfigError, where=where):
        make(**{"shape": (64, 64, 32), **options})
