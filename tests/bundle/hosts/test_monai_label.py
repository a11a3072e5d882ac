# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A bundle does what the ``BundleInferTask`` of MONAI Label 0.8.5 asks of it, call by call, in its order."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigItem, ConfigParser
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.presets.overlays import METHODS

from ...raising import raises
from .scan import Scan, make_family, make_scan

BUNDLES = Path(__file__).parents[3] / "bundles"


class InferTask:
    """The calls of the task: made once for a server, called for each request."""

    def __init__(self, path: Path) -> None:
        self.config = ConfigParser()
        self.config.read_config(str(path / "configs/inference.json"))
        self.config.config.update({"bundle_root": str(path)})
        self.config.config["use_click"] = False
        self.network = self.config.get_parsed_content("network_def", instantiate=True)
        self.weights = path / "models/model.pt"
        said = json.loads((path / "configs/metadata.json").read_text())["network_data_format"]
        self.image, self.pred = next(iter(said["inputs"])), next(iter(said["outputs"]))
        definitions = said["outputs"][self.pred].get("channel_def", {})
        self.labels = {v.lower(): int(k) for k, v in definitions.items() if v.lower() != "background"}
        self.shown = self.config.get_parsed_content("displayable_configs", instantiate=True)

    def __call__(self, **request: Any) -> dict[str, Any]:
        data = {**copy.deepcopy(self.shown), "device": "cpu", **request}
        data["image_path"] = data["image"]
        self.config["displayable_configs"].update({name: data[name] for name in self.shown})
        self.config.parse()
        for step in self._steps("preprocessing", data):
            data = step(data)
        inferer, network = self._content("inferer", data), copy.deepcopy(self.network)
        checkpoint = torch.load(self.weights, map_location="cpu")
        network.load_state_dict(checkpoint.get("model", checkpoint), strict=False)
        network.eval()
        assert torch.is_tensor(data[self.image])
        with torch.no_grad():
            outputs = inferer(data[self.image][None].to(torch.device("cpu")), network)
        data[self.pred] = outputs[0]
        for step in [*self._steps("postprocessing", data), self._restored]:
            data = step(data)
        return data

    def _content(self, name: str, data: dict[str, Any]) -> Any:
        self.config.config.update({"device": data["device"]})
        if self.config.ref_resolver.items.get("device"):
            self.config.ref_resolver.items["device"] = ConfigItem(config=data["device"], id="device")
        return self.config.get_parsed_content(name, instantiate=True) if self.config.get(name) else None

    def _steps(self, name: str, data: dict[str, Any]) -> list[Any]:
        steps = self._content(name, data)
        return list(steps.transforms) if isinstance(steps, Compose) else steps or []

    def _restored(self, data: dict[str, Any]) -> dict[str, Any]:
        meta, result = data[self.image].meta, data[self.pred]
        size = result.shape[1:]
        assert tuple(meta.get("spatial_shape", size)[-len(size) :]) == tuple(size), "would be resized"
        return {**data, self.pred: result[0], f"{self.pred}_meta_dict": {"affine": meta.get("original_affine")}}


@pytest.fixture(scope="module")
def root(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(make_bundle, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scan(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return make_scan(root, tmp_path_factory.mktemp("datastore"))


def test_what_it_writes_is_the_reconstruction_where_it_lies(root: Path, scan: Scan) -> None:
    done = InferTask(root)(image=str(scan.path))
    voxels, affine = done["pred"].array, done["pred_meta_dict"]["affine"]
    assert voxels.dtype == np.float32
    assert voxels.shape == (16, 24, 20)  # 1 mm, from 4 slices of 5 mm
    assert np.array_equal(voxels, scan.expected[0])
    # As the writer computes with it: numpy refuses to multiply by a tensor.
    assert np.array_equal(np.diag([-1, -1, 1, 1]) @ affine, np.diag([-1, -1, 1, 1]) @ scan.affine)
    assert not np.allclose(affine, done["image"].affine)


def test_both_planes_are_used(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    task(image=str(scan.path))
    inferer = task.config.get_parsed_content("inferer")
    assert inferer.specs["prior"]["name"] == "perpendicular"
    assert [score.plane for score in inferer.recipe.scores] == ["axial", "coronal"]


def test_the_network_of_the_server_is_the_one_that_runs(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    with torch.no_grad():
        task.network.tail.conv.weight.zero_()
    task.weights = scan.path.with_name("zeros.pt")
    torch.save(task.network.state_dict(), task.weights)
    assert not np.array_equal(task(image=str(scan.path))["pred"].array, scan.expected[0])


@pytest.mark.slow
def test_the_panel_chooses_steps_method_and_task(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    more = task(image=str(scan.path), steps=3)["pred"].array
    assert not np.array_equal(more, scan.expected[0])
    assert task.config.get_parsed_content("inferer").specs["sampler"]["steps"] == 3
    task(image=str(scan.path), method="cubic")
    assert task.config.get_parsed_content("inferer").specs["sampler"] == {"name": "cubic"}
    task(image=str(scan.path), task="sparse_view_ct", method="fbp")
    assert task.config.get_parsed_content("inferer").specs["operator"]["name"] == "parallel_ct"
    # The next request is not bound by the choices of the last.
    assert np.array_equal(task(image=str(scan.path))["pred"].array, scan.expected[0])


def test_samples_are_drawn_by_a_method_that_draws(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    task(image=str(scan.path), method="posterior", steps=2, samples=2)
    assert task.config.get_parsed_content("inferer").num_samples == 2


def test_a_choice_that_is_none_is_refused(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    for name, value in (("steps", -1), ("method", "no_method")):
        with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
            task(image=str(scan.path), **{name: value})
        assert any(isinstance(cause, ConfigError) for cause in chain_of(caught.value))


def test_choices_are_refused_by_name() -> None:
    from monai_diffrecon import chosen_options

    options = {"sampler": {"name": "pnp_hqs"}, "num_samples": 1}
    with raises(ConfigError, where="displayable_configs#step", expected="task, method, steps, samples"):
        chosen_options(options, {"step": 3}, ".")
    assert chosen_options(options, None, ".") == options


def test_the_server_is_told_of_no_labels(root: Path) -> None:
    assert InferTask(root).labels == {}


def test_a_batch_is_taken_apart_with_its_grid(root: Path, scan: Scan) -> None:
    task = InferTask(root)
    image = task(image=str(scan.path))["image"]
    batch = task.config.get_parsed_content("inferer")(image[None], task.config.get_parsed_content("network"))
    (entry,) = decollate_batch(batch)
    (same,) = [row["pred"] for row in decollate_batch({"pred": batch})]
    for volume in (entry, same, batch[0], next(iter(batch))):
        assert isinstance(volume, MetaTensor)
        assert np.array_equal(volume.numpy(), scan.expected)
        assert np.array_equal(volume.affine.numpy(), scan.affine)


@pytest.mark.parametrize("name", sorted(p.name for p in BUNDLES.iterdir()))
def test_every_bundle_that_reads_a_scan_offers_its_tasks_and_all_methods(name: str) -> None:
    config = ConfigParser.load_config_file(BUNDLES / name / "configs/inference.json")
    metadata = json.loads((BUNDLES / name / "configs/metadata.json").read_text())
    assert config["bundle_root"] == {"_target_": "monai_diffrecon.own_root", "name": metadata["name"]}
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {}
    if config["preprocessing"] is None:
        assert "displayable_configs" not in config
        return
    tasks = sorted((BUNDLES / name / "configs/tasks").glob("*.json"))
    measured = [path.stem for path in tasks if "dataset" not in json.loads(path.read_text())]
    shown = config["displayable_configs"]
    assert shown == {
        "task": ["default", *measured],
        "method": ["default", *sorted(path.stem for path in METHODS.glob("*.json"))],
        "steps": 0,
        "samples": 0,
    }
