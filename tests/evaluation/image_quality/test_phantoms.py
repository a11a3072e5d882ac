# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Phantoms: what is drawn has the size, contrast and place that the sites say."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.evaluation.image_quality.phantoms.acr import acr
from monai_diffrecon.evaluation.image_quality.phantoms.anatomy import texture
from monai_diffrecon.evaluation.image_quality.phantoms.lesions import KINDS, USUAL, lesions
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import Phantom, centred_grid
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import (
    Bars,
    Cylinder,
    Ellipsoid,
    Shape,
    Tube,
    coverage,
    voxel_centres,
)
from monai_diffrecon.evaluation.image_quality.phantoms.technical import contrast_detail, line_pairs, rods, uniform, wire
from monai_diffrecon.io.nifti import write_volume

GRID = centred_grid((64, 60, 20), (2.0, 2.0, 2.0))
MAKERS: dict[str, Any] = {
    "uniform": uniform,
    "contrast_detail": contrast_detail,
    "rods": rods,
    "wire": wire,
    "line_pairs": line_pairs,
    "acr": acr,
    "lesions": lesions,
}


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (Ellipsoid((0.3, -0.4, 0.1), (5.0, 4.0, 6.0)), 4 / 3 * math.pi * 5 * 4 * 6),
        (Cylinder((0.2, 0.7, -0.3), (4.0, 6.0), 5.0, 0), math.pi * 4 * 6 * 10),
        (Cylinder((0.2, 0.7, -0.3), (4.0, 4.0), 5.0, 2), math.pi * 4 * 4 * 10),
        (Tube((-3.0, 1.0, 0.0), (4.0, -2.0, 2.0), 2.0), math.pi * 4 * math.sqrt(49 + 9 + 4) + 4 / 3 * math.pi * 8),
        (Bars((0.0, 0.0, 0.0), (10.0, 6.0, 5.0), 0.2), 0.5 * 20 * 12 * 10),
    ],
)
def test_a_body_fills_its_volume(shape: Shape, volume: float) -> None:
    grid = centred_grid((30, 26, 22), (1.1, 1.0, 1.3))
    _, part = coverage(shape, grid)
    assert part.sum() * 1.1 * 1.0 * 1.3 == pytest.approx(volume, rel=0.03)
    assert 0.0 <= part.min() <= part.max() <= 1.0


def test_a_body_outside_the_grid_fills_nothing() -> None:
    box, part = coverage(Ellipsoid((500.0, 0.0, 0.0), (3.0, 3.0, 3.0)), GRID)
    assert part.size == 0
    assert np.zeros(GRID.shape)[box].size == 0


def test_the_origin_is_the_centre() -> None:
    for centres in voxel_centres(centred_grid((5, 8, 3), (1.0, 2.0, 3.0))):
        assert centres.mean() == pytest.approx(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_every_phantom(name: str, modality: str) -> None:
    """The signals lie at the sites: each makes a difference there, of its sign, and there is none elsewhere."""
    phantom: Phantom = MAKERS[name](GRID, modality, seed=3)
    again: Phantom = MAKERS[name](GRID, modality, seed=3)
    assert np.array_equal(phantom.volume, again.volume)
    assert phantom.sites == again.sites
    assert phantom.volume.shape == phantom.without.shape == phantom.geometry.shape
    assert phantom.volume.dtype == np.float32
    assert np.isfinite(phantom.volume).all()
    difference = phantom.volume - phantom.without
    far = np.ones(GRID.shape, bool)
    grids = np.meshgrid(*voxel_centres(GRID), indexing="ij")
    for site in phantom.sites:
        offsets = [abs(g - c) for g, c in zip(grids, site.centre, strict=True)]
        near = np.ones(GRID.shape, bool)
        for axis, offset in enumerate(offsets):
            reach = site.half_length + 2.0 if site.axis is None else 1.3 * site.radius + 2.0
            near &= offset <= (site.half_length if axis == site.axis else reach)
        far &= ~near
        if site.contrast:
            inside = difference[near]
            assert abs(inside.sum()) > 0
            assert np.sign(inside.sum()) == np.sign(site.contrast)
            assert abs(inside).max() <= abs(site.contrast) * 1.0001 or name in ("acr", "lesions")
        else:
            assert site.kind == "uniform"
    assert not difference[far].any()
    assert phantom.has_signals == bool(difference.any())


def test_lesions_hold_their_contrast_and_volume() -> None:
    of = [{"kind": "nodule", "diameter": 8.0, "contrast": 40.0}]
    phantom = lesions(GRID, "CT", lesions=of, seed=1, most=1)
    mass = float((phantom.volume - phantom.without).sum()) * 8.0
    assert mass == pytest.approx(40.0 * 4 / 3 * math.pi * 4.0**3, rel=0.02)
    (site,) = phantom.sites
    grids = np.meshgrid(*voxel_centres(GRID), indexing="ij")
    weight = phantom.volume - phantom.without
    for grid, centre in zip(grids, site.centre, strict=True):
        assert float((grid * weight).sum() / weight.sum()) == pytest.approx(centre, abs=0.15)


def test_lesions_lie_apart_in_tissue_and_all_kinds_occur() -> None:
    of = [{"kind": kind, "diameter": 3.0, "contrast": 50.0} for kind in KINDS]
    grid = centred_grid((90, 90, 30), (1.5, 1.5, 1.5))
    phantom = lesions(grid, "CT", lesions=of, seed=2)
    assert {site.name for site in phantom.sites} == set(KINDS)
    for i, one in enumerate(phantom.sites):
        for two in phantom.sites[:i]:
            assert math.dist(one.centre, two.centre) >= one.half_length + two.half_length + 6.0 - 1e-9
    tissue = phantom.without[(phantom.volume - phantom.without) > 25.0]
    assert len(tissue) > 50
    assert ((tissue > 0.0) & (tissue < 110.0)).all()


def test_seeds_draw_other_places_and_anatomy() -> None:
    one, two = (lesions(GRID, "MR", seed=seed) for seed in (0, 1))
    assert one.sites[0].centre != two.sites[0].centre
    assert not np.array_equal(one.without, two.without)
    assert {site.name for site in one.sites} == {lesion["kind"] for lesion in USUAL["MR"]}


def test_a_background_from_a_file(tmp_path: Path) -> None:
    volume = torch.full((1, 40, 40, 16), 30.0)
    write_volume(tmp_path / "flat.nii.gz", volume, centred_grid((40, 40, 16), (2.0, 2.0, 2.0)))
    of = [{"kind": "nodule", "diameter": 6.0, "contrast": -20.0}]
    phantom = lesions(GRID, "CT", lesions=of, background=str(tmp_path / "flat.nii.gz"), tissue=[0, 60])
    assert phantom.geometry.shape == (40, 40, 16)
    assert np.all(phantom.without == 30.0)
    assert phantom.volume.min() == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lesions": [{"kind": "wart", "diameter": 4, "contrast": 40}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": 0, "contrast": 40}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": 4, "contrast": 0}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "contrast": 40}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": 200, "contrast": 40}]}, InputError),
        ({"lesions": [{"kind": "nodule", "diameter": float("nan"), "contrast": 40}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": 4, "contrast": float("inf")}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": "4", "contrast": 40}]}, ConfigError),
        ({"lesions": [{"kind": "nodule", "diameter": 4, "contrast": -5000}]}, ConfigError),
        ({"lesions": []}, ConfigError),
        ({"lesions": "nodule"}, ConfigError),
        ({"most": 0}, ConfigError),
        ({"most": 2.5}, ConfigError),
        ({"background": "missing.nii.gz", "tissue": [60, 0]}, ConfigError),
        ({"background": "missing.nii.gz", "tissue": "soft"}, ConfigError),
        ({"background": "missing.nii.gz"}, ConfigError),
        ({"background": "missing.nii.gz", "tissue": [0, 60]}, InputError),
    ],
)
def test_lesions_that_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        lesions(GRID, "CT", **options)


def test_rods_that_do_not_fit() -> None:
    with pytest.raises(ConfigError):
        rods(centred_grid((16, 16, 8), (1.0, 1.0, 1.0)), "CT")
    across = rods(centred_grid((80, 80, 32), (1.0, 1.0, 1.0)), "MR", contrasts=[-200.0, -400.0], diameter=16.0, axis=0)
    assert {site.axis for site in across.sites} == {0}
    assert across.sites[0].centre[1] != across.sites[1].centre[1]


def test_the_texture_of_tissue_has_its_power_law() -> None:
    """The radial power falls with the third power of the frequency, below the smoothing of voxels."""
    grid = centred_grid((64, 64, 64), (1.0, 1.0, 1.0))
    power = np.abs(np.fft.fftn(texture(grid, 0))) ** 2
    axes = np.meshgrid(*(np.fft.fftfreq(64),) * 3, indexing="ij")
    frequency = np.sqrt(sum(f**2 for f in axes))
    edges = np.geomspace(0.03, 0.15, 8)
    rings = [(frequency >= a) & (frequency < b) for a, b in pairwise(edges)]
    slope = np.polyfit([np.log(frequency[r].mean()) for r in rings], [np.log(power[r].mean()) for r in rings], 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.5)


@pytest.mark.parametrize("spacing", [2.5, 3.0, 5.0])
def test_lesions_in_thick_slices_lie_in_the_tissue(spacing: float) -> None:
    of = [{"kind": "nodule", "diameter": 5.0, "contrast": 50.0}]
    phantom = lesions(centred_grid((64, 64, 16), (1.5, 1.5, spacing)), "CT", lesions=of, background="plain", seed=1)
    assert phantom.sites
    tissue = phantom.without[(phantom.volume - phantom.without) > 1.0]
    assert (tissue == 0.0).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rods", {"contrasts": []}),
        ("rods", {"contrasts": [float("nan")]}),
        ("rods", {"diameter": 0}),
        ("rods", {"axis": 3}),
        ("wire", {"diameter": -1}),
        ("wire", {"contrast": 0}),
        ("line_pairs", {"frequencies": [0]}),
        ("line_pairs", {"frequencies": 0.2}),
        ("contrast_detail", {"diameters": [0.0]}),
        ("contrast_detail", {"contrasts": []}),
        ("contrast_detail", {"diameters": [60.0]}),
        ("rods", {"contrasts": [-5000.0]}),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MAKERS[name](GRID, "CT", **options)
