# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MONAI's own check of a bundle passes for every bundle, without data."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import pytest

from monai_diffrecon.bundle.importing.write_bundle import TEMPLATE

BUNDLES = Path(__file__).parents[2] / "bundles"


def missing(root: Path, output: Path) -> list[str] | None:
    """Return the properties that MONAI misses; every one that it asks for is built."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        workflow = monai.bundle.ConfigWorkflow(
            config_file=str(root / "configs/inference.json"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(root),
            device="$torch.device('cpu')",
            output_dir=str(output),
        )
    workflow.initialize()
    return workflow.check_properties()


@pytest.mark.parametrize("name", sorted(p.name for p in BUNDLES.iterdir()))
def test_every_bundle_has_what_monai_asks_for(name: str, tmp_path: Path) -> None:
    assert missing(BUNDLES / name, tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_so_has_the_template_of_imported_bundles(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(tmp_path / "axial")
    network = (root / "configs/inference.json").read_text()
    shutil.copytree(Path(str(TEMPLATE)) / "configs", root / "configs", dirs_exist_ok=True)
    inference = monai.bundle.ConfigParser.load_config_file(root / "configs/inference.json")
    assert inference["network_def"] is None
    inference["network_def"] = monai.bundle.ConfigParser.load_config_file(_written(tmp_path, network))["network_def"]
    monai.bundle.ConfigParser.export_config_file(inference, root / "configs/inference.json")
    assert missing(root, tmp_path / "out") == []


def _written(folder: Path, text: str) -> Path:
    path = folder / "network.json"
    path.write_text(text)
    return path


def test_a_property_that_is_missing_is_found(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(tmp_path / "axial")
    inference = monai.bundle.ConfigParser.load_config_file(root / "configs/inference.json")
    inference["evaluator"]["val_handlers"] = "@own"
    inference["own"] = []
    monai.bundle.ConfigParser.export_config_file(inference, root / "configs/inference.json")
    assert missing(root, tmp_path / "out") == ["handlers"]
