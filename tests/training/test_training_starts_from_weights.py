# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A training that starts from the weights of a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_diffrecon.errors import InputError
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.training.resumable_checkpoint import ResumableCheckpoint

SHAPE = {"channels": [4, 8], "units": 1, "bottleneck_units": 1}


def started(folder: Path, pretrained: Path | None) -> tuple[nn.Module, nn.Module]:
    """Return a network and its average after one epoch of an engine that changes nothing."""
    network, average = BiasFreeUNet(**SHAPE), BiasFreeUNet(**SHAPE)
    objects = {"network": network, "ema": average, "optimizer": torch.optim.SGD(network.parameters(), lr=0.1)}
    handler = ResumableCheckpoint(
        str(folder / "checkpoint.pt"),
        objects,
        str(folder / "model.pt"),
        average,
        pretrained=None if pretrained is None else str(pretrained),
    )
    engine = Engine(lambda _engine, _batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    return network, average


def test_network_and_average_start_from_half_precision_weights(tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in BiasFreeUNet(**SHAPE).state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    for network in started(tmp_path, tmp_path / "weights.pt"):
        for name, value in network.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, weights[name].float())


def test_a_checkpoint_goes_before_the_weights_to_start_from(tmp_path: Path) -> None:
    first, _ = started(tmp_path, None)
    torch.save(BiasFreeUNet(**SHAPE).state_dict(), tmp_path / "weights.pt")
    second, _ = started(tmp_path, tmp_path / "weights.pt")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_no_file_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        started(tmp_path, tmp_path / "gone.pt")
    assert (caught.value.where, caught.value.got) == ("train#handlers: pretrained", "gone.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(BiasFreeUNet(**(SHAPE | {"channels": [4, 6]})).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError) as caught:
        started(tmp_path, tmp_path / "weights.pt")
    assert (caught.value.where, caught.value.expected) == ("train#handlers: pretrained", "weights of the same network")
    torch.save({"another": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(InputError) as caught:
        started(tmp_path, tmp_path / "weights.pt")
    assert (caught.value.where, caught.value.expected) == ("train#handlers: pretrained", "weights of the same network")
