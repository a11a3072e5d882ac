# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A bundle does what the ``MonaiBundleInferenceOperator`` of MONAI Deploy App SDK 4.0 asks of it, call by call."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple, first

from .scan import AFFINE, Scan, make_family, make_scan


class BundleOperator:
    """The calls of the operator for a bundle in a folder: the first scan reads it, each scan runs it."""

    #: What it makes of the type of an output; another type passes as it is.
    ARRAYS = ("series", "tuples")

    def __init__(self, bundle_path: Path) -> None:
        if str(bundle_path) not in sys.path:
            sys.path.insert(0, str(bundle_path))
        self.parser = ConfigParser()
        self.parser.read_meta(f=json.loads((bundle_path / "configs/metadata.json").read_text()))
        self.parser.read_config([bundle_path / "configs/inference.json"])
        self.parser.parse()
        meta = self.parser["_meta_"]
        assert self.parser.get("device") is not None
        self.device = self.parser.get_parsed_content("device")
        self.inferer = self.parser.get_parsed_content("inferer")
        self.inputs, self.outputs = (meta["network_data_format"][key] for key in ("inputs", "outputs"))
        self.pre, self.post = self._compose("preprocessing"), self._compose("postprocessing")
        # It tries to load the weights as TorchScript first, which they are not.
        self.network = self.parser.get_parsed_content("network")
        weights = torch.load(str(bundle_path / "models/model.pt"), map_location=self.device)
        self.network.load_state_dict(weights, strict=True)
        self.network.eval()

    def compute(self, image: np.ndarray, metadata: dict[str, Any]) -> Any:
        """Run one scan: ``image`` (D, H, W) as the SDK keeps it."""
        name, *others = list(self.inputs)
        assert not others
        with torch.no_grad():
            value = convert_to_dst_type(np.swapaxes(image, 0, 2), dst=np.swapaxes(image, 0, 2))[0]
            inputs: Any = {name: MetaTensor.ensure_torch_and_prune_meta(value, metadata)}
            inputs = self._map(self.pre, inputs)
            kept = inputs[name]
            data = inputs.pop(name)[None].to(self.device)
            assert not [key for key, value in inputs.items() if isinstance(value, torch.Tensor)]
            outputs = ensure_tuple(self.inferer(inputs=data, network=self.network))[0]
            inputs[name] = kept
            made = self._map(self.post, {first(self.outputs): outputs, **inputs})
        (output,) = self.outputs
        return self.send(made[output], self.outputs[output]["type"])

    def send(self, value: Any, kind: str) -> Any:
        """Return what the next operator receives; a method that applications override for outputs of their own."""
        if kind == "image":
            return np.swapaxes(np.squeeze(value.cpu().numpy(), 0), 0, 2).astype(np.uint8)
        return np.asarray(value) if kind in self.ARRAYS else value.cpu().numpy()

    def _compose(self, name: str) -> Compose:
        compose = self.parser.get_parsed_content(name) if self.parser.get(name) is not None else Compose([])
        hidden = ("LoadImage", "SaveImage")
        compose.transforms = tuple(t for t in compose.transforms if not any(h in type(t).__name__ for h in hidden))
        return compose

    def _map(self, compose: Compose, data: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(first(compose.transforms), MapTransform)
        return compose(data)


@pytest.fixture(scope="module")
def root(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(make_bundle, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scan(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return make_scan(root, tmp_path_factory.mktemp("input"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder that knows nothing of the bundle, and leave no trace in the module path."""
    monkeypatch.chdir(tmp_path)
    # Other tests may have run bundles of the same name.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "configs/metadata.json").exists()])


def as_deploy_loads(scan: Scan) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a series as the SDK's loader gives it: (D, H, W), and metadata with the affine to RAS."""
    said = {"spacing": np.array([1.0, 1.0, 5.0]), "original_affine": AFFINE, "affine": AFFINE.copy()}
    said |= {"spatial_shape": np.asarray(scan.voxels.shape), "original_channel_dim": "no_channel", "Modality": "MR"}
    return np.swapaxes(scan.voxels, 0, 2), said


def test_what_it_sends_is_the_reconstruction_in_full_precision(root: Path, scan: Scan) -> None:
    sent = BundleOperator(root).compute(*as_deploy_loads(scan))
    assert sent.dtype == np.float32
    assert np.array_equal(sent, scan.expected)


def test_an_application_that_overrides_sending_knows_the_grid(
    root: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[MetaTensor] = []
    monkeypatch.setattr(BundleOperator, "send", lambda self, value, kind: sent.append(value))
    BundleOperator(root).compute(*as_deploy_loads(scan))
    assert np.array_equal(sent[0].affine.numpy(), scan.affine)
    assert not np.allclose(sent[0].affine.numpy(), AFFINE)


def test_a_second_scan_runs_like_the_first(root: Path, scan: Scan) -> None:
    operator = BundleOperator(root)
    one, two = (operator.compute(*as_deploy_loads(scan)) for _ in range(2))
    assert np.array_equal(one, two)


def test_two_bundles_in_one_application_find_themselves(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    roots = [make_bundle(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    for folder in roots:
        for name, key in (("metadata", "name"), ("inference", "bundle_root")):
            path = folder / "configs" / f"{name}.json"
            content = json.loads(path.read_text())
            content[key] = folder.name if key == "name" else {**content[key], "name": folder.name}
            path.write_text(json.dumps(content))
    scores = [BundleOperator(folder).inferer.score for folder in (*roots, roots[0])]
    assert [score.name for score in scores] == ["one", "two", "one"]


def test_a_bundle_that_is_nowhere_says_what_is_missing(root: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(root / "configs/inference.json"))
    assert parser.get_parsed_content("bundle_root") == "."


@pytest.mark.parametrize("cwd", ["root", "configs", "another copy"])
def test_monai_bundle_run_needs_no_root(root: Path, cwd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import ConfigWorkflow

    if cwd == "another copy":
        shutil.copytree(root / "configs", tmp_path / "configs")  # the working directory; it has no weights
    else:
        monkeypatch.chdir(root if cwd == "root" else root / "configs")
    file = Path("configs/inference.json") if cwd == "root" else root / "configs/inference.json"
    workflow = ConfigWorkflow(
        config_file=str(file), workflow_type="infer", logging_file=False, device="cpu", run=["$@score"]
    )
    workflow.initialize()
    (score,) = workflow.run()
    assert score.name == root.name
