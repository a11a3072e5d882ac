# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weights of bundles: formats, and what is no state dict. Attacks are in ``inspection/test_untrusted_bundles.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.bundle.weights import read_weights
from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError
from monai_diffrecon.numerics.hashing import sha256_file

from ..raising import raises


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "axial")


def name_weights(bundle: Path, file: str) -> None:
    """Let the metadata name this file, with its hash."""
    path = bundle / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    digest = sha256_file(bundle / file) if (bundle / file).is_file() else "0" * 64
    metadata["diffrecon"]["weights"] |= {"file": file, "sha256": digest}
    path.write_text(json.dumps(metadata))


def error_of(bundle: Path, content: Any = None) -> DiffReconError:
    if content is not None:
        torch.save(content, bundle / "models/model.pt")
        name_weights(bundle, "models/model.pt")
    with pytest.raises(DiffReconError) as caught:
        load_score_network(bundle)
    assert "\n" not in str(caught.value)
    return caught.value


def test_safetensors_give_the_same_network(bundle: Path) -> None:
    plain = load_score_network(bundle)
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    save_file(weights, bundle / "models/model.safetensors")
    (bundle / "models/model.pt").unlink()
    name_weights(bundle, "models/model.safetensors")
    safe = load_score_network(bundle)
    assert safe.sha256 == sha256_file(bundle / "models/model.safetensors") != plain.sha256
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, safe.network.state_dict()[name])


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_was_cut_before_it_was_hashed(bundle: Path, suffix: str) -> None:
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    path = bundle / f"models/model.{suffix}"
    if suffix == "safetensors":
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-100])
    name_weights(bundle, f"models/model.{suffix}")
    with raises(InputError, where=f"bundle axial, models/model.{suffix}"):
        raise error_of(bundle)


@pytest.mark.parametrize(
    ("content", "where", "got"),
    [
        ([torch.ones(1)], "models/model.pt", "an object of type list"),
        (torch.ones(1), "models/model.pt", "an object of type Tensor"),
        ("text", "models/model.pt", "an object of type str"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, "network_def", ...),
        ({"a": 3}, "models/model.pt", "'a' of type int"),
        ({1: torch.ones(1)}, "models/model.pt", "1 of type Tensor"),
        ({"a": torch.ones(1)}, "network_def", ...),
    ],
    ids=["list", "tensor", "text", "training", "number", "key", "names"],
)
def test_what_is_no_state_dict_is_told_in_one_line(bundle: Path, content: Any, where: str, got: Any) -> None:
    with raises(InputError, where=f"bundle axial, {where}", got=got) as caught:
        raise error_of(bundle, content)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bundle: Path, value: float) -> None:
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    weights["tail.conv.weight"].view(-1)[-1] = value
    with raises(IntegrityError, where="bundle axial, models/model.pt") as caught:
        raise error_of(bundle, weights)
    assert "'tail.conv.weight'" in caught.value.what


@pytest.mark.parametrize(
    "name", ["../model.pt", "/etc/passwd", "C:\\model.pt", "models\\..\\..\\model.pt", "\\model.pt"]
)
def test_weights_outside_of_the_bundle_are_refused(bundle: Path, name: str) -> None:
    name_weights(bundle, name)
    assert "weights outside the bundle" in str(error_of(bundle))


def test_what_was_hashed_is_what_is_loaded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file is put in place as soon as the bytes have been read."""
    path = bundle / "models/model.pt"
    weights = torch.load(path, weights_only=True)
    entry = json.loads((bundle / "configs/metadata.json").read_text())["diffrecon"]["weights"]
    reads = []
    read_bytes = Path.read_bytes

    def exchange(self: Path) -> bytes:
        data = read_bytes(self)
        reads.append(self.name)
        torch.save({name: torch.zeros_like(value) for name, value in weights.items()}, self)
        return data

    monkeypatch.setattr(Path, "read_bytes", exchange)
    loaded, digest = read_weights(bundle, entry, "bundle axial")
    assert reads == ["model.pt"]
    assert digest == entry["sha256"] != sha256_file(path)
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
