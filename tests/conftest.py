# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests, and what several of them need."""

from __future__ import annotations

import os

# Before torch is imported: tests are small, and more threads only contend.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Child processes of a test read it too.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A slow machine must not fill the user's cache with the matrices of tests.
os.environ.setdefault("DIFFRECON_CACHE_DIR", "off")

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from .faults.processes import Server, index_monai_once

BUNDLES = Path(__file__).parents[1] / "bundles"

#: Options of a network that costs nothing.
TINY_NETWORK = {"channels": [4, 8], "units": 1, "bottleneck_units": 1}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _one_index_of_monai() -> None:
    if "monai.bundle" in sys.modules:
        index_monai_once()


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """Write a bundle with a tiny random network: the committed configs, other sizes, weights and hash."""
    from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
    from monai_diffrecon.numerics.hashing import sha256_file

    def make(root: Path, plane: str = "axial", seed: int = 0, **block: Any) -> Path:
        shutil.copytree(BUNDLES / "brain_mr_t1_axial" / "configs", root / "configs")
        inference = json.loads((root / "configs/inference.json").read_text())
        inference["network_def"] |= TINY_NETWORK
        (root / "configs/inference.json").write_text(json.dumps(inference))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            weights = BiasFreeUNet(**TINY_NETWORK).state_dict()
        weights["tail.conv.weight"] *= 0.3  # an untrained network that changes a slice a little
        (root / "models").mkdir()
        torch.save({k: v.to(torch.float16) for k, v in weights.items()}, root / "models/model.pt")
        metadata = json.loads((root / "configs/metadata.json").read_text())
        metadata["version"] = "0.1.0"
        del metadata["diffrecon"]["successor"]
        metadata["diffrecon"] |= {"plane": plane, "window": None, **block}
        if block.get("intensity", {}).get("map") == "window":
            metadata["network_data_format"]["inputs"]["image"]["modality"] = "CT"
        metadata["diffrecon"]["weights"] |= {"sha256": sha256_file(root / "models/model.pt")}
        (root / "configs/metadata.json").write_text(json.dumps(metadata))
        return root

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Put an empty MLflow store into a folder: a copy, since making one costs seconds."""
    from monai_diffrecon.tracking.mlflow_client import open_client

    template = tmp_path_factory.mktemp("mlflow")
    open_client(template, None).search_experiments()

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template / "mlflow.db", folder / "mlflow.db")
        return folder

    return put


@pytest.fixture(scope="session")
def fork_server() -> Iterator[Server]:
    """Return a process that has imported everything and forks others."""
    with Server.started() as server:
        yield server


@pytest.fixture
def python_m(fork_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Do what ``python -m MODULE WORDS`` does, in a fork: ``python_m(module, *words, cwd=None, env=None)``."""
    return partial(fork_server.python_m, tmp_path_factory.mktemp("said"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution of one module: ``install(dist, kind, {name: "Class"}, source)``."""
    from monai_diffrecon import registry

    modules: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def run(
        dist: str,
        kind: str,
        points: dict[str, str],
        source: str,
        *,
        folder: str = "{}-2.1.dist-info",
        root: Path = tmp_path,
    ) -> None:
        module = f"plug_{dist}".replace("-", "_").lower()
        modules.append(module)
        (root / f"{module}.py").write_text(dedent(source))
        info = root / folder.format(dist.replace("-", "_"))
        info.mkdir()
        lines = [f"{name} = {module}:{cls}" for name, cls in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[monai_diffrecon.{kind}]", *lines]) + "\n")
        registry.refresh()

    registry.refresh()
    yield run
    for module in modules:
        sys.modules.pop(module, None)
    registry.refresh()
