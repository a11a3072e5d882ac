# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.networks import ByNoiseLevel


class Plain(nn.Module):
    multiple = 6

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x + 10 * sigma.view(-1, 1, 1, 1)


class Placed(nn.Module):
    multiple, position = 4, True

    def forward(self, x: Tensor, sigma: Tensor, position: Tensor | None = None) -> Tensor:
        return x + 100 if position is None else x + position[:, :1]


def test_each_slice_goes_to_the_network_of_its_level() -> None:
    network = ByNoiseLevel(Placed(), Plain(), 0.2)
    x, where = torch.zeros(3, 1, 2, 2), torch.full((3, 3, 2, 2), 7.0)
    assert network(x, torch.tensor([0.1, 0.2, 3.0]), where)[:, 0, 0, 0].tolist() == [1.0, 7.0, 7.0]
    assert network(x, torch.tensor([0.1, 0.2, 3.0]))[:, 0, 0, 0].tolist() == [1.0, 100.0, 100.0]
    assert network(x, 0.1, where)[:, 0, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_it_asks_for_what_either_needs() -> None:
    network = ByNoiseLevel(Plain(), Placed(), 0.2)
    assert (network.multiple, network.position) == (12, True)
    assert not ByNoiseLevel(Plain(), Plain(), 0.2).position
    with pytest.raises(ConfigError):
        ByNoiseLevel(Plain(), Plain(), -1.0)
