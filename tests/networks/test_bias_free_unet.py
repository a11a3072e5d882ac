# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet

from ..raising import raises


@pytest.fixture(scope="module")
def network() -> BiasFreeUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BiasFreeUNet(channels=(4, 8, 12), units=2, bottleneck_units=1).double().eval().requires_grad_(False)


def slices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("factor", [1e-4, 0.3, 1500.0])
def test_it_scales_with_its_input(network: BiasFreeUNet, factor: float) -> None:
    x = slices(2, 1, 16, 24)
    expected = factor * network(x, 0.1)
    torch.testing.assert_close(network(factor * x, factor * 0.1), expected, rtol=1e-9, atol=1e-12 * factor)
    assert not torch.allclose(network(factor * x, 0.1), expected)  # the level belongs to it, unless factor is 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (8, 8), (9, 17), (16, 3)])
def test_any_size_of_slice(network: BiasFreeUNet, shape: tuple[int, int]) -> None:
    x = slices(1, 1, *shape)
    assert network(x, 0.1).shape == x.shape


def test_padding_is_the_edge_repeated(network: BiasFreeUNet) -> None:
    x = slices(1, 1, 13, 18)
    padded = torch.nn.functional.pad(x, (0, 6, 0, 3), mode="replicate")
    torch.testing.assert_close(network(x, 0.1), network(padded, 0.1)[..., :13, :18])


def test_one_tensor_means_the_default_level(network: BiasFreeUNet) -> None:
    x = slices(2, 1, 8, 8)
    assert torch.equal(network(x), network(x, network.default_sigma))
    assert not torch.allclose(network(x), network(x, 10 * network.default_sigma))


def test_a_batch_is_its_slices(network: BiasFreeUNet) -> None:
    x, levels = slices(3, 1, 8, 16), torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    together = network(x, levels)
    for i, level in enumerate(levels.tolist()):
        torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], level))


def test_no_parameter_is_a_bias_and_all_of_them_learn() -> None:
    network = BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1)
    network(slices(2, 1, 8, 8).float(), 0.1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.ndim == 4, name
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_output_is_in_the_precision_of_the_input_under_autocast() -> None:
    network = BiasFreeUNet(channels=(4,), units=1, bottleneck_units=1)
    x = slices(1, 1, 8, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = network(x, 0.1)
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, network(x, 0.1), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("options", [{"channels": ()}, {"channels": (4, 0)}, {"units": 0}, {"unshuffle": 0}])
def test_sizes_must_be_positive(options: dict[str, object]) -> None:
    with raises(ConfigError, where="network_def", got=...):
        BiasFreeUNet(**options)  # type: ignore[arg-type]
