# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Coil maps that are fitted to the image while it is made."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from diffrecon_mri.coil_maps import low_resolution_maps
from diffrecon_mri.refined_coil_maps import RefinedCoilMaps
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.mri.fourier import AXIAL, centred_fft
from monai_diffrecon.protocols import Problem, SamplerState, VolumeGeometry
from monai_diffrecon.testing.consistency_laws import check_consistency

SHAPE, COILS, NOISE = (36, 32, 2), 4, 0.005
GEOMETRY = VolumeGeometry(SHAPE)
CG = {"name": "conjugate_gradient", "iterations": 10}


def step(**options: Any) -> RefinedCoilMaps:
    made = registry.create("consistency", "refined_coil_maps", **{"step": CG, **options})
    assert isinstance(made, RefinedCoilMaps)
    return made


def head() -> Tensor:
    """Return an ellipse (1, X, Y, Z) with structure and a smooth phase."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = torch.sigmoid(30 * (1 - torch.hypot(x / 0.85, y / 0.8)))
    return (inside * (1 + 0.4 * torch.sin(9 * x + 4 * y + z)) * smooth_phase(SHAPE, 2, 0.4))[None]


IMAGE, MAPS = head(), birdcage_maps(COILS, SHAPE)


def problem(maps: Tensor, lines: Tensor, name: str = "cartesian_mri", **options: Any) -> Problem:
    """Return what the true maps measure, with an operator of others."""
    options = {"complex_volume": True, **options}
    if name == "cartesian_mri":
        options["mask"] = lines.expand(SHAPE[:2])
    true = registry.create("operators", name, geometry=GEOMETRY, coil_maps=MAPS, **options)
    y = true(IMAGE if options["complex_volume"] else IMAGE.real.contiguous())
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    operator = registry.create("operators", name, geometry=GEOMETRY, coil_maps=maps, **options)
    return Problem(operator, y + 2**0.5 * NOISE * (y != 0) * noise, NOISE)


def few_lines() -> tuple[Tensor, Tensor]:
    """Return every other line and 4 in the centre, and the maps that these 4 give."""
    lines, central = torch.arange(SHAPE[1]) % 2 == 0, slice(14, 18)
    lines[central] = True
    return lines, low_resolution_maps(centred_fft(MAPS * IMAGE, AXIAL), 4)


def agreement(maps: Tensor) -> float:
    """Return the smallest correlation of two maps in the object; 1 when they are equal up to phase."""
    found = (maps.conj() * MAPS).sum(0).abs() / (maps.norm(dim=0) * MAPS.norm(dim=0)).clamp_min(1e-12)
    return float(found[IMAGE[0].abs() > 0.5].min())


@pytest.mark.parametrize("name", ["cartesian_mri", "noncartesian_mri"])
def test_the_true_image_gives_the_true_maps(name: str) -> None:
    lines = torch.arange(SHAPE[1]) % 3 != 0
    options = {} if name == "cartesian_mri" else {"spokes": 30}
    p, refined = problem(torch.ones_like(MAPS) / COILS**0.5, lines, name, **options), step(iterations=60, order=10)
    refined.bind(p)
    state = SamplerState(x=IMAGE, sigma=0.1)
    # A step that changes nothing: the image is what it is.
    refined.step = registry.create("consistency", "none")
    refined.on_estimate(IMAGE, state)
    assert torch.equal(refined.on_estimate(IMAGE, state), IMAGE)
    found = refined.problem.operator.get_buffer("coil_maps")
    assert agreement(p.operator.get_buffer("coil_maps")) < 0.9
    assert agreement(found) > 0.995
    torch.testing.assert_close(found.norm(dim=0), torch.ones(SHAPE))


def test_parity_with_dense_least_squares() -> None:
    """The fit of one coil and slice, as one writes it."""
    order, smoothness = 3, 0.01
    p, refined = problem(MAPS, torch.arange(SHAPE[1]) % 2 == 0), step(order=order, smoothness=smoothness, iterations=80)
    refined.bind(p)
    state = SamplerState(x=IMAGE, sigma=0.1)
    x = refined.on_estimate(IMAGE, state)
    found = state.memory["coil_maps"]["cosines"][1, ..., 0]
    k, i, j = torch.arange(order), torch.arange(SHAPE[0]) + 0.5, torch.arange(SHAPE[1]) + 0.5
    waves = [torch.cos(torch.pi * k * at[:, None] / len(at)) for at in (i, j)]
    bx, by = (w / w.norm(dim=0) for w in waves)
    single = registry.create("operators", "cartesian_mri", geometry=GEOMETRY, mask=p.operator.mask, complex_volume=True)
    columns, rows = [], []
    for a in range(order):
        for b in range(order):
            wave = (bx[:, a, None] * by[None, :, b])[None, :, :, None]
            columns.append(single((x * wave).contiguous())[0, ..., 0].flatten())
            rows.append((smoothness * float(x.abs().square().mean()) * (a * a + b * b)) ** 0.5)
    system = torch.cat([torch.stack(columns, 1), torch.diag(torch.tensor(rows)).to(x.dtype)])
    right = torch.cat([p.measurement[1, ..., 0].flatten(), torch.zeros(order * order, dtype=x.dtype)])
    expected = torch.linalg.lstsq(system, right[:, None]).solution[:, 0].reshape(order, order)
    torch.testing.assert_close(found, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_few_calibration_lines_suffice() -> None:
    lines, poor = few_lines()
    p, errors = problem(poor, lines), {}
    for refined in (False, True):
        one = step() if refined else registry.build("consistency", CG)
        one.bind(p)
        state = SamplerState(x=p.operator.initial(p.measurement), sigma=0.05)
        for _ in range(12):
            state.x = one.on_estimate(state.x, state)
        errors[refined] = float((state.x.abs() - IMAGE.abs()).norm() / IMAGE.norm())
    assert errors[True] < 0.6 * errors[False]


def test_the_laws_of_a_consistency_step() -> None:
    lines, poor = few_lines()
    for options in ({}, {"step": {"name": "admm", "regularizers": [{"name": "z_tv"}]}, "order": 40}):
        check_consistency(lambda options=options: step(**options), problem(poor, lines), IMAGE + 1)


def test_what_a_run_has_found_is_not_left_in_the_problem() -> None:
    lines, poor = few_lines()
    p = problem(poor, lines)
    kept, refined = copy.deepcopy(p.operator), step()
    refined.bind(p)
    state = SamplerState(x=IMAGE, sigma=0.1)
    first = refined.on_estimate(refined.on_estimate(IMAGE, state), state)
    assert torch.equal(p.operator.coil_maps, kept.coil_maps)
    assert p.operator.measurement_shape == kept.measurement_shape
    state = SamplerState(x=IMAGE, sigma=0.1)
    assert torch.equal(refined.on_estimate(refined.on_estimate(IMAGE, state), state), first)


def test_what_cannot_be_refined_is_refused() -> None:
    lines, poor = few_lines()
    mask = lines.expand(SHAPE[:2])
    volumetric = registry.create("operators", "cartesian_mri_3d", geometry=GEOMETRY, coil_maps=MAPS)
    single = registry.create("operators", "cartesian_mri", geometry=GEOMETRY, mask=mask, complex_volume=True)
    for p in (
        problem(poor, lines, complex_volume=False),
        *(Problem(a, torch.ones(a.measurement_shape, dtype=torch.complex64)) for a in (volumetric, single)),
    ):
        with pytest.raises(ConfigError) as caught:
            step().bind(p)
        assert caught.value.where == "consistency RefinedCoilMaps"
    for options in ({"step": {"name": "dps"}}, {"order": 1}, {"smoothness": 0.0}, {"iterations": 0}):
        with pytest.raises(ConfigError):
            step(**options)
