# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every flag takes true and false in the forms in which they arrive, and nothing else."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.floor_padding import FloorPaddingd
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd, LoadVolumed
from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.evaluation.cohort.read import read_cohort
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.networks.preconditioned_unet import PreconditionedUNet
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.training.slice_patches import SlicePatches

from ..raising import raises

ROOT = Path(__file__).parents[2]
GEOMETRY = VolumeGeometry((8, 8, 8), (1.0, 1.0, 1.0))
#: Options that a plugin needs beside its flags.
NEEDED: dict[str, dict[str, Any]] = {
    "cartesian_mri": {"acceleration": 2.0},
    "cartesian_mri_3d": {"acceleration": 2.0},
    "noncartesian_mri": {"spokes": 4},
}
SPELLINGS = [(True, True), ("true", True), ("True", True), (1, True), ("1", True)]
SPELLINGS += [(False, False), ("false", False), ("False", False), (0, False), ("0", False)]
NO_FLAGS = ["yes", "FALSE", "", " false", 2, -1, 1.0, 0.0, None, [], "none"]


def flags(component: Any) -> list[str]:
    """Return the options of a constructor that are annotated as truth values."""
    return [
        p.name for p in inspect.signature(component).parameters.values() if re.search(r"\bbool\b", str(p.annotation))
    ]


def of_plugins() -> list[tuple[str, str, str]]:
    names = [(kind, info.name) for kind in registry.KINDS for info in registry.available(kind)]
    return [(kind, name, flag) for kind, name in names for flag in flags(registry.load(kind, name))]


@pytest.mark.parametrize(("value", "meant"), SPELLINGS)
def test_a_flag_is_true_or_false(value: object, meant: bool) -> None:
    assert check_flag(value, "x") is meant


@pytest.mark.parametrize("value", NO_FLAGS)
def test_all_else_is_refused(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        check_flag(value, "x#y")
    assert (caught.value.where, caught.value.exit_code) == ("x#y", 2)


@pytest.mark.parametrize(("kind", "name", "flag"), of_plugins())
def test_flags_of_plugins(kind: str, name: str, flag: str) -> None:
    given = {"geometry": GEOMETRY} if kind == "operators" else {}

    def make(value: object) -> Any:
        return registry.build(kind, {"name": name, **NEEDED.get(name, {}), flag: value}, **given)

    for value, meant in SPELLINGS:
        plugin = make(value)
        if hasattr(plugin, flag):
            assert getattr(plugin, flag) is meant
    for value in ("no", 2, []):
        with pytest.raises(ConfigError) as caught:
            make(value)
        assert str(caught.value.where).endswith(f"#{flag}")


@pytest.fixture
def components(tmp_path: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the components of bundles that have a flag, each with options that make it."""
    network = BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1)
    direct = {"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0}
    score = ScoreNetwork("b", "1", network, "axial", (1.0, 1.0), direct, {"map": "percentile", "q": 99.5}, "0" * 64)
    inferer = DiffReconInferer(score, "slice_thickness")
    np.save(tmp_path / "a.npy", np.ones((16, 16, 16), np.float16))
    row = {"file": "a.npy", "planes": ["axial"]}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [row]}))
    (tmp_path / "cohort.json").write_text("{}")
    evaluator = {"device": "cpu", "val_data_loader": [], "network": network, "inferer": inferer}
    found = [
        (DiffReconInferer, {"score": score, "operator": "slice_thickness"}),
        (ReconstructionEvaluator, {**evaluator, "output_dir": str(tmp_path / "out")}),
        (CohortEvaluation, {"cohort": tmp_path / "cohort.json", "output_dir": tmp_path / "out"}),
        (LoadMeasurementd, {"keys": ["image"]}),
        (FloorPaddingd, {"keys": ["image"], "intensity": {"map": "percentile"}}),
        (LoadVolumed, {"keys": ["image"]}),
        (ResampleInPlaned, {"keys": ["image"], "plane": "axial", "spacing": (1.0, 1.0)}),
        (SimulateMeasurementd, {"keys": ["image"], "operator": "slice_thickness"}),
        (SlicePatches, {"datalist": str(tmp_path / "datalist.json"), "plane": "axial"}),
        (PreconditionedUNet, {"channels": (32, 32, 32), "res_blocks": 1}),
    ]
    return {component.__name__: (component, options) for component, options in found}


def test_flags_of_components(components: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    text = "".join(p.read_text() for p in ROOT.glob("bundles/*/configs/**/*.json"))
    targets = {locate(name) for name in re.findall(r'"_target_": "(monai_diffrecon\.[\w.]+)"', text)}
    # DenoisingBatch is called by MONAI with its flag.
    assert {t.__name__ for t in targets if flags(t)} - {"DenoisingBatch"} <= set(components)  # type: ignore[union-attr]
    for component, options in components.values():
        for flag in flags(component):
            levels = component is PreconditionedUNet
            with pytest.raises(ConfigError) as caught:
                component(**options, **{flag: ["no", "no", "no"] if levels else "no"})
            where = {"enabled": "resample" if component is ResampleInPlaned else "simulate"}.get(flag, flag)
            assert str(caught.value.where).rpartition("#")[2] == where, (component, flag)


def test_words_do_what_they_say(components: dict[str, tuple[Any, dict[str, Any]]], tmp_path: Path) -> None:
    def make(name: str, **flag: object) -> Any:
        component, options = components[name]
        return component(**options, **flag)

    assert make("ResampleInPlaned", enabled="false").enabled is False
    assert make("SimulateMeasurementd", enabled="0").enabled is False
    assert make("SlicePatches", flip="False").flip is False
    assert make("DiffReconInferer", progress="false").progress is False
    assert make("DiffReconInferer", keep_samples="1").keep_samples is True
    assert make("ReconstructionEvaluator", track="false").recorder.track is False
    assert make("LoadMeasurementd", allow_missing_keys="true")({"case": "a"}) == {"case": "a"}
    with torch.device("meta"):
        net = make("PreconditionedUNet", attention_levels=["false", "true", "0"])
    assert [type(block).__name__ for block in net.unet.down_blocks] == ["DownBlock", "AttnDownBlock", "DownBlock"]


@pytest.mark.parametrize(("value", "meant"), [("false", False), (1, True)])
def test_flags_of_a_cohort(tmp_path: Path, value: object, meant: bool, make_bundle: Callable[..., Path]) -> None:
    make_bundle(tmp_path / "axial")
    (tmp_path / "a.nii").touch()
    method = {"label": "A", "bundle": "axial"}
    content = {"cases": [{"image": "a.nii", "name": 1011}], "methods": [method], "vif": "False", "simulate": value}
    (tmp_path / "cohort.json").write_text(json.dumps(content))
    spec = read_cohort(tmp_path / "cohort.json", tmp_path)
    assert spec.simulate == {"simulate": meant}
    assert spec.cases[0].name == "1011"
    for key, wrong in (("simulate", "no"), ("vif", 2)):
        (tmp_path / "cohort.json").write_text(json.dumps(content | {key: wrong}))
        with pytest.raises(ConfigError) as caught:
            read_cohort(tmp_path / "cohort.json", tmp_path)
        assert caught.value.where == key


@pytest.mark.parametrize("name", [1000.0, True, ["a"], {}])
def test_a_name_that_is_no_text_is_refused_in_a_cohort(tmp_path: Path, name: object) -> None:
    (tmp_path / "a.nii").touch()
    content = {"cases": [{"image": "a.nii", "name": name}], "methods": [{"label": "A", "bundle": "."}]}
    (tmp_path / "cohort.json").write_text(json.dumps(content))
    with raises(InputError, where="cases#0#name", expected="a string of letters, digits, '.', '_', '-'"):
        read_cohort(tmp_path / "cohort.json", tmp_path)
