# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Public names: lazy, complete, and all that bundles and entry points name."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest

import monai_diffrecon
from monai_diffrecon._lazy import exports
from monai_diffrecon.bundle.former_names import former_names, public_name, with_public_names

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([*ROOT.glob("bundles/*/configs/**/*.json"), *ROOT.glob("monai_diffrecon/**/*.json")])
HOMES = ["monai_diffrecon", *(f"monai_diffrecon.{n}" for n in ("networks", "training", "transforms", "evaluation"))]


def targets(config: Any) -> list[str]:
    if isinstance(config, dict):
        own = [config["_target_"]] if "_target_" in config else []
        return own + [name for value in config.values() for name in targets(value)]
    return [name for value in config for name in targets(value)] if isinstance(config, list) else []


def test_the_package_is_imported_without_torch_and_quickly() -> None:
    code = (
        "import sys, time; before = {*sys.modules}; t = time.process_time(); import monai_diffrecon;"
        "print(time.process_time() - t, *({*sys.modules} - before))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds, *modules = runs[0].stdout.split()
    assert not {"torch", "monai", "numpy", "ignite", "nibabel"} & {*modules}
    assert min(float(run.stdout.split()[0]) for run in runs) < 0.1, seconds


def test_every_public_name_is_there() -> None:
    names = dir(monai_diffrecon)
    wanted = "load reconstruct read_scan write_volume DiffReconInferer Measurement ReconstructionResult DiffReconError"
    bases = "Denoiser ScorePrior Regularizer Operator ConsistencyStep NoiseSource Sampler LadderSampler"
    more = "ClassicalSampler MeasurementReader CheckpointImporter testing"
    assert {*wanted.split(), *bases.split(), *more.split()} <= {*names}
    assert all(getattr(monai_diffrecon, name) is not None for name in names)


@pytest.mark.parametrize(
    "package", ["", *["denoisers", "networks", "operators", "samplers", "testing", "training", "transforms"]]
)
def test_exports_are_what_their_modules_define(package: str) -> None:
    home = importlib.import_module(f"monai_diffrecon.{package}".rstrip("."))
    found = exports(home.__name__)
    assert found
    for name, (module, attribute) in found.items():
        there = importlib.import_module(module)
        assert getattr(home, name) is (getattr(there, attribute) if attribute else there)


@pytest.mark.parametrize(
    ("home", "name", "near"),
    [
        ("monai_diffrecon", "lod", "load"),
        ("monai_diffrecon", "DiffreconInferer", "DiffReconInferer"),
        ("monai_diffrecon.operators", "ParalelCT", "ParallelCT"),
        ("monai_diffrecon.testing", "check_operators", "check_operator"),
        ("monai_diffrecon", "zzzz", None),
    ],
)
def test_a_mistyped_name_names_a_near_one(home: str, name: str, near: str | None) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(importlib.import_module(home), name)
    assert (repr(near) in str(caught.value)) if near else ("did you mean" not in str(caught.value))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_configurations_name_what_is_public(path: Path) -> None:
    config = json.loads(path.read_text())
    assert list(former_names(config)) == []
    for target in targets(config):
        assert callable(locate(target)) or "." not in target, target


def test_entry_points_name_what_packages_export() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    points = setup["options.entry_points"]
    lines = [line for group, text in points.items() if group != "console_scripts" for line in text.strip().split("\n")]
    assert len(lines) > 30
    for line in lines:
        module, _, attribute = line.partition(" = ")[2].partition(":")
        assert attribute in exports(module), line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("monai_diffrecon.bundle.score_network.load_score_network", "monai_diffrecon.load_score_network"),
        ("monai_diffrecon.engine.inferer.DiffReconInferer", "monai_diffrecon.DiffReconInferer"),
        ("monai_diffrecon.engine.cases.list_cases.list_cases", "monai_diffrecon.list_cases"),
        ("monai_diffrecon.engine.transforms.floor_padding.FloorPaddingd", "monai_diffrecon.transforms.FloorPaddingd"),
        ("monai_diffrecon.networks.bias_free_unet.BiasFreeUNet", "monai_diffrecon.networks.BiasFreeUNet"),
        ("monai_diffrecon.training.slice_patches.SlicePatches", "monai_diffrecon.training.SlicePatches"),
        ("monai_diffrecon.evaluation.cohort.runner.CohortEvaluation", "monai_diffrecon.evaluation.CohortEvaluation"),
        ("monai_diffrecon.presets.by_family", "monai_diffrecon.presets.by_family"),
        ("monai_diffrecon.io.nifti.write_volume", "monai_diffrecon.io.nifti.write_volume"),
        ("monai_diffrecon.gone.DiffReconInferer", "monai_diffrecon.DiffReconInferer"),
        ("acme.engine.inferer.DiffReconInferer", "acme.engine.inferer.DiffReconInferer"),
        ("monai.transforms.Compose", "monai.transforms.Compose"),
        ("Compose", "Compose"),
        ("monai_diffrecon", "monai_diffrecon"),
    ],
)
def test_names_of_older_bundles(old: str, new: str) -> None:
    assert public_name(old) == new
    config = {"a": [{"_target_": old, "name": old}], "n": 3}
    assert with_public_names(config) == {"a": [{"_target_": new, "name": old}], "n": 3}
    assert list(former_names(config)) == ([(old, new)] if old != new else [])


def test_imports_of_older_bundles() -> None:
    old = {"imports": ["$from monai_diffrecon.errors.uncaught import report_errors_in_one_line", "$import torch"]}
    new = {"imports": ["$from monai_diffrecon import report_errors_in_one_line", "$import torch"]}
    assert with_public_names(old) == new
    assert len(list(former_names(old))) == 1
    assert list(former_names(new)) == []
