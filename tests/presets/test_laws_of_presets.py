# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every registered operator composes with every preset, which picks the settings of the operator's family."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import monai_diffrecon as dr
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.presets.family import family_of
from monai_diffrecon.presets.overlays import METHODS, presets
from monai_diffrecon.protocols import Operator, Problem
from monai_diffrecon.protocols.operator import FAMILIES

INFERENCE = Path(__file__).resolve().parents[2] / "bundles/brain_mr_t1_axial/configs/inference.json"
GEOMETRY = geometry_of((8, 8, 6))
BEAM = {"views": 5, "source_distance": 30.0, "detector_distance": 50.0}
#: Operator -> its family, and options to build it with. A new built-in operator needs an entry.
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "slice_thickness": ("image", {"thickness": 2.0}),
    "parallel_ct": ("ct", {"views": 5}),
    "fan_ct": ("ct", BEAM),
    "rotation_ct": ("ct", {"views": 5}),
    "cone_beam_ct": ("ct", BEAM),
    "cartesian_mri": ("mri", {"acceleration": 2.0}),
    "cartesian_mri_3d": ("mri", {"acceleration": 2.0}),
    "noncartesian_mri": ("mri", {"spokes": 5}),
    "unconditional": ("none", {}),
}
NAMES = [preset.name for preset in presets()]
TV = {"name": "admm_tv", "rho": 0.3, "threshold": 0.03}


def start(tv: bool = True) -> dict[str, tuple[Any, Any]]:
    """Return family -> (start, sigma_start) of the fast presets."""
    known = (TV, 0.2) if tv else ("initial", 0.5)
    return {"ct": known, "mri": known, "image": ("initial", 0.5), "none": ("noise", "max")}


def z_tv(rho: float, threshold: float, **more: Any) -> dict[str, Any]:
    step = {"name": "z_tv", "threshold": threshold, "boundary": "periodic"}
    return {"name": "admm_iterate", "rho": rho, "regularizers": [step], **more}


def dps(zeta: float, plane: str, noised: bool) -> dict[str, Any]:
    more = {"norm": "batch", "batch_size": 6, "plane": plane, "noised_measurement": noised}
    return {"name": "published_dps", "zeta": zeta, **more}


#: Preset -> what of it depends on the family, as docs/methods.md has it.
EXPECTED: dict[str, dict[str, Any]] = {
    "admm_tv": {"ct": (0.1, 0.01), "mri": (0.3, 0.03), "image": (0.1, 0.01), "none": (0.1, 0.01)},
    "dds": start(),
    "dds_tpdm": start(),
    "posterior": {
        "ct": (TV, 1.0),
        "mri": (TV, 0.5),
        "image": ("initial", 1.0),
        "none": ("noise", "max"),
    },
    "conservative": {"ct": (0.0, 0.8), "mri": (0.0, 2.0), "image": (0.7, 0.8), "none": (0.0, 0.8)},
    "ddnm": start(tv=False),
    "diffpir": start(tv=False),
    "iscs": start(tv=False),
    "diffusion_mbir": {
        "ct": z_tv(0.026, 0.004, final_sirt=True),
        "mri": z_tv(0.01, 0.5),
        "image": z_tv(0.026, 0.004),
        "none": {"name": "none"},
    },
    "tpdm": {
        "ct": (2.7, "axial", dps(2.36, "axial", False), "noise", "noise"),
        "mri": (2, "axial", dps(0.512, "axial", False), "noise", "noise"),
        "image": (2, "auto", dps(4.0, "auto", True), "measured", "zero"),
        "none": (2, "coronal", {"name": "none"}, "noise", "noise"),
    },
}


def varied(preset: str, specs: dict[str, Any]) -> Any:
    """Return what of the specs depends on the family."""
    sampler, prior = specs["sampler"], specs["prior"]
    if preset == "admm_tv":
        return sampler["rho"], sampler["threshold"]
    if preset == "conservative":
        return specs["consistency"]["correlation"], specs["consistency"]["bound"]
    if preset == "diffusion_mbir":
        return specs["consistency"]
    if preset == "tpdm":
        return prior["K"], prior["primary"], specs["consistency"], sampler["start"], sampler["unseen"]
    return sampler["start"], sampler["sigma_start"]


def composed(preset: str, operator: Any) -> dict[str, Any]:
    """Return the specs that a bundle, a preset and an operator make together."""
    bundle = json.loads(INFERENCE.read_text())
    own = {name: bundle[name] for name in ("perpendicular", "prior", "consistency", "sampler", "noise")}
    method = json.loads((METHODS / f"{preset}.json").read_text())
    parser = ConfigParser({**own, **method, "operator": operator, "auxiliaries": [None]})
    return {name: parser.get_parsed_content(name) for name in ("prior", "consistency", "sampler", "noise")}


@functools.cache
def built(name: str) -> Operator:
    return registry.build("operators", {"name": name, **OPERATORS[name][1]}, geometry=GEOMETRY)


def test_every_operator_states_its_family() -> None:
    stated = {info.name: family_of(info.name) for info in registry.available("operators")}
    assert set(OPERATORS) <= set(stated)
    assert {name: stated[name] for name in OPERATORS} == {name: family for name, (family, _) in OPERATORS.items()}


@pytest.mark.parametrize("preset", NAMES)
def test_every_operator_composes_with_every_preset(preset: str) -> None:
    for info in registry.available("operators"):
        specs = composed(preset, {"name": f"{info.distribution}:{info.name}"})
        for name, kind in (("prior", "priors"), ("consistency", "consistency"), ("sampler", "samplers")):
            registry.build(kind, specs[name], where=name)
        registry.check_options("noises", specs["noise"], context=("seed", "case"))
        family = family_of(info.name)
        if preset in EXPECTED and family is not None:
            assert varied(preset, specs) == EXPECTED[preset][family], info.name


def test_no_preset_looks_at_the_name_of_an_operator() -> None:
    assert set(EXPECTED) == {p.stem for p in METHODS.glob("*.json") if "by_family" in p.read_text()}
    assert not [p.stem for p in METHODS.glob("*.json") if "@operator#" in p.read_text()]


CLASSICAL = [p for p in presets() if p.name not in EXPECTED or p.name == "admm_tv"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", CLASSICAL, ids=lambda p: p.name)
def test_a_classical_method_refuses_what_it_is_not_for(preset: Any) -> None:
    """What a preset says of its families is what its sampler does with operators of them."""
    assert set(preset.families) < set(FAMILIES)
    taken = set()
    for name, (family, _) in OPERATORS.items():
        error = refusal(preset.name, name)
        if error is None:
            taken.add(family)
            continue
        assert (error.exit_code, "\n" in str(error)) == (2, False)
        # Among operators of one family, not all have the same classical estimate.
        assert family not in preset.families or preset.name in ("fbp", "fdk"), name
    assert taken == set(preset.families)


def refusal(preset: str, name: str) -> ConfigError | None:
    """Return what a preset's sampler says to an operator's problem, or None when it takes it."""
    operator = built(name)
    sampler = registry.build("samplers", composed(preset, {"name": name})["sampler"])
    problem = Problem(operator, operator(torch.ones(operator.volume_shape)), 0.0)
    try:
        sampler.prepare(problem, sigma_min=1e-4, sigma_max=1.0)
    except ConfigError as error:
        return error
    return None


def test_every_preset_has_a_summary_and_families() -> None:
    for preset in presets():
        assert preset.summary
        assert preset.families == tuple(f for f in FAMILIES if f in preset.families)
        content = json.loads(preset.path.read_text())
        assert set(content["_method_"]) == {"summary", "families"}


def test_one_network_serves_both_planes_of_tpdm() -> None:
    brain = dr.load(INFERENCE.parents[2] / "brain_mr", method="tpdm", overrides={"sampler#steps": 2})
    image = np.random.default_rng(0).random((16, 16, 4)).astype(np.float32)
    result = brain.reconstruct(image, affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    assert result.volume.shape == (1, 16, 16, 20)
    assert result.report.options["prior"]["share"] == {"coronal": "axial"}
