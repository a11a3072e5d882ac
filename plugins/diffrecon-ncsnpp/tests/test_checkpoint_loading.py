# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""load_checkpoint: what is read, and that nothing else in a file is run."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.serialization import get_safe_globals, safe_globals

from diffrecon_ncsnpp.ncsnpp_checkpoint import NCSNppImporter
from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.errors import InputError, IntegrityError

ALLOWED = NCSNppImporter.allowed_globals


class Payload:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def save(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_and_numpy_scalars(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.ones(3), "lr": np.float64(0.25)}, zipped=zipped)
    content = load_checkpoint(path, ALLOWED)
    assert torch.equal(content["w"], torch.ones(3))
    assert content["lr"] == 0.25
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(path)
    assert caught.value.where == "checkpoint a.pth"
    assert "core.multiarray.scalar," in caught.value.what


def test_numpy_scalars_by_the_name_of_numpy_1(tmp_path: Path) -> None:
    new, old = save(tmp_path / "new.pth", {"lr": np.float64(0.25)}), tmp_path / "old.pth"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in old.read_bytes()
    assert load_checkpoint(old, ALLOWED)["lr"] == 0.25


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    bad = save(tmp_path / "bad.pth", {"w": torch.ones(1), "x": Payload(os.mkdir, str(marker))}, zipped=zipped)
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(bad, ALLOWED)
    assert caught.value.where == "checkpoint bad.pth"
    assert ".mkdir," in caught.value.what
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.load(bad, weights_only=False)  # the payload works, so its absence above means something
    assert marker.exists()


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1",), "eval"),
        (getattr, ({}, "keys"), "getattr"),
        (Path, ("a",), "pathlib"),
        (torch.load, ("a",), "torch.serialization.load"),
        (np.frombuffer, (b"12345678",), "numpy.frombuffer"),
    ],
)
def test_other_calls_are_refused_by_name(tmp_path: Path, function: Any, arguments: Any, name: str) -> None:
    path = save(tmp_path / "bad.pth", {"x": Payload(function, *arguments)})
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(path, ALLOWED)
    assert caught.value.where == "checkpoint bad.pth"
    assert f" {name}" in caught.value.what


def test_a_bare_pickle_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"x": Payload(os.system, "true")}, protocol=2))
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(path, ALLOWED)
    assert caught.value.where == "checkpoint bare.pth"
    assert ".system," in caught.value.what


def test_what_others_have_allowed_does_not_count_and_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"x": Payload(pow, 2, 3)})
    with safe_globals([pow]):
        with pytest.raises(IntegrityError) as caught:
            load_checkpoint(path, ALLOWED)
        assert caught.value.where == "checkpoint a.pth"
        assert " pow," in caught.value.what
        assert pow in get_safe_globals()
    assert not set(get_safe_globals()) & set(ALLOWED)


@pytest.mark.parametrize("keep", [0, 1, 100, -100])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated(tmp_path: Path, keep: int, zipped: bool) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.ones(1000)}, zipped=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert (caught.value.where, caught.value.expected) == ("checkpoint a.pth", "a complete file of torch.save")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>quota exceeded</html>", b"\x89PNG\r\n\x1a\n", b"hello"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert (caught.value.where, caught.value.expected) == ("checkpoint a.pth", "a complete file of torch.save")


def test_other_inputs(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "none.pth")
    assert caught.value.where == "checkpoint none.pth"
    with pytest.raises(InputError) as caught:
        load_checkpoint(save(tmp_path / "list.pth", [torch.ones(1)]))
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "checkpoint list.pth",
        "a dict of weights",
        "an object of type list",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "empty")
    assert (caught.value.where, caught.value.got) == ("checkpoint empty", "nothing")


@pytest.mark.parametrize("pipeline", [False, True])
def test_folder(tmp_path: Path, pipeline: bool) -> None:
    model = tmp_path / "unet" if pipeline else tmp_path
    scheduler = tmp_path / "scheduler" if pipeline else tmp_path
    for folder in (model, scheduler):
        folder.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({"in_channels": 1}))
    save(model / "diffusion_pytorch_model.bin", {"w": torch.ones(2)})
    assert load_checkpoint(tmp_path)["scheduler_config"] is None
    (scheduler / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "linear"}))
    content = load_checkpoint(tmp_path)
    by_weights = load_checkpoint(model / "diffusion_pytorch_model.bin")
    assert by_weights["config"] == content["config"] == {"in_channels": 1}
    assert by_weights["scheduler_config"] == content["scheduler_config"]
    assert content["scheduler_config"] == {"beta_schedule": "linear"}
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    for text, what in (("{", "not JSON"), ("[]", "not a JSON object")):
        (model / "config.json").write_text(text)
        with pytest.raises(InputError) as caught:
            load_checkpoint(tmp_path)
        assert caught.value.where == f"checkpoint {model.name}, config.json"
        assert caught.value.what.startswith(what)


def test_safetensors(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    library.save_file({"w": torch.arange(3.0)}, path)
    assert torch.equal(load_checkpoint(path)["w"], torch.arange(3.0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert (caught.value.where, caught.value.expected) == ("checkpoint a.safetensors", "a complete file of torch.save")
