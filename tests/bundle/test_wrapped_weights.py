# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weights as training scripts save them, wherever weights are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.importing.find_importer import read_checkpoint
from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.bundle.wrapped_weights import without_prefixes
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.training.resumable_checkpoint import ResumableCheckpoint

from ..raising import raises

State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{k}": v for k, v in state.items()}


def compiled_inside(state: State) -> Any:
    """As of a network one of whose modules is compiled."""
    first = next(iter(state)).partition(".")[0]
    return {k.replace(f"{first}.", f"{first}._orig_mod.", 1) if k.startswith(first) else k: v for k, v in state.items()}


OPTIMIZER = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled parallel": prefixed("_orig_mod.module."),
    "parallel compiled": prefixed("module._orig_mod."),
    "twice parallel": prefixed("module.module."),
    "compiled inside": compiled_inside,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": OPTIMIZER, "epoch": 3, "loss": torch.ones(())},
    "model_state_dict": lambda s: {"model_state_dict": prefixed("module.")(s), "optimizer_state_dict": OPTIMIZER},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": prefixed("module._orig_mod.")(s)}}, "args": {"a": 1}},
    "averaged alone": lambda s: {"ema_state_dict": s, "epoch": 3},
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(7), **prefixed("module.")(s)},
}
AMBIGUOUS: dict[str, Callable[[State], Any]] = {
    "averaged": lambda s: {"model": s, "model_ema": s},
    "two": lambda s: {"generator": s, "discriminator": s},
    "ours": lambda s: {"network": s, "average": {"ema": s}, "optimizer": OPTIMIZER},
}


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "axial")


def rewrite(bundle: Path, wrap: Callable[[State], Any]) -> State:
    """Wrap the weights of a bundle; return them as they were."""
    path, metadata = bundle / "models/model.pt", bundle / "configs/metadata.json"
    state = torch.load(path, weights_only=True)
    torch.save(wrap(state), path)
    said = json.loads(metadata.read_text())
    said["diffrecon"]["weights"]["sha256"] = sha256_file(path)
    metadata.write_text(json.dumps(said))
    return state


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_weights_of_a_bundle(bundle: Path, wrap: Callable[[State], Any]) -> None:
    state = rewrite(bundle, wrap)
    loaded = load_score_network(bundle).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], v.float()) for k, v in state.items())


@pytest.mark.parametrize("wrap", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_several_state_dicts_are_refused_by_their_names(bundle: Path, wrap: Callable[[State], Any]) -> None:
    state = rewrite(bundle, wrap)
    with raises(InputError, where="bundle axial, models/model.pt", expected="one") as caught:
        load_score_network(bundle)
    assert all(name in str(caught.value.got) for name in list(wrap(state))[:2])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_weights_that_a_training_starts_from(tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    source, network = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)) for _ in range(2))
    torch.save(wrap(dict(source.state_dict())), tmp_path / "weights.pt")
    checkpoint = ResumableCheckpoint(
        str(tmp_path / "none.pt"),
        {"network": network},
        str(tmp_path / "export.pt"),
        network,
        pretrained=str(tmp_path / "weights.pt"),
    )
    checkpoint.restore(SimpleNamespace(logger=logging.getLogger(__name__)))
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", ["auto", "guided_diffusion"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_checkpoints_to_import(tmp_path: Path, wrap: Callable[[State], Any], name: str) -> None:
    state = {"time_embed.0.weight": torch.ones(4, 4), "input_blocks.0.0.weight": torch.ones(4, 1, 3, 3)}
    torch.save(wrap(state), tmp_path / "model.pt")
    found, importer, content = read_checkpoint(tmp_path / "model.pt", name)
    assert found == "guided_diffusion"
    assert importer.recognises(content)
    assert {k.removeprefix("module.") for k in content} == state.keys()


def test_a_network_with_a_part_called_module_keeps_it() -> None:
    network = nn.ModuleDict({"module": nn.Linear(2, 2)})
    state = network.state_dict()
    assert without_prefixes(state, network.state_dict().keys()).keys() == state.keys()
    assert without_prefixes({f"module.{k}": v for k, v in state.items()}, state.keys()).keys() == state.keys()
    clash = {"_orig_mod.a": torch.ones(1), "a": torch.zeros(1)}
    assert without_prefixes(clash) == clash
