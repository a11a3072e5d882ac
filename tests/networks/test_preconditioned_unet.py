# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_diffrecon.denoisers.edm import EDMDenoiser
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.networks.preconditioned_unet import PreconditionedUNet

from ..raising import raises


def small(**options: object) -> PreconditionedUNet:
    sizes = {"channels": (8, 16), "attention_levels": (False, True), "norm_groups": 4, "head_channels": 8}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = PreconditionedUNet(**{**sizes, "unshuffle": 2, **options}).eval()
        for parameter in net.unet.out.parameters():  # MONAI starts the last convolution at 0
            parameter.normal_(std=0.1)
    return net


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_preconditioning_is_that_of_edm() -> None:
    net, x, sigma = small(unshuffle=1), rand(3, 1, 8, 8), torch.tensor([0.05, 0.4, 9.0])
    inner = EDMDenoiser(lambda h, c_noise: net.unet(h, 1000.0 * c_noise), sigma_data=0.3)  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(net(x, sigma), inner(x, sigma.reshape(-1, 1, 1, 1)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_limits_of_the_noise_level() -> None:
    net, x = small(), rand(2, 1, 16, 16)
    torch.testing.assert_close(net(x, 1e-4), x, atol=1e-3, rtol=0)
    assert float(net(1e4 * x, 1e4).abs().max()) < 10  # nothing of the noise is left


@torch.no_grad()
def test_a_slice_does_not_depend_on_its_batch_and_may_have_any_size() -> None:
    net, x = small(), rand(3, 1, 13, 18)
    levels = torch.tensor([0.1, 0.5, 2.0])
    together = net(x, levels)
    assert together.shape == x.shape
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], net(x[i : i + 1], float(levels[i])), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_called_with_one_tensor_it_takes_the_default_level() -> None:
    net, x = small(default_sigma=0.2), rand(1, 1, 16, 16)
    assert torch.equal(net(x), net(x, 0.2))
    assert not torch.equal(net(x), net(x, 0.1))


@pytest.mark.parametrize(
    "options", [{"attention_levels": (True,)}, {"unshuffle": 0}, {"sigma_data": 0.0}, {"res_blocks": 0}]
)
def test_sizes_must_fit(options: dict[str, object]) -> None:
    with raises(ConfigError, where="network_def", expected="one attention flag per level, positive numbers"):
        small(**options)


@torch.no_grad()
def test_a_network_that_is_told_where_it_is() -> None:
    net, x, where = small(position=True), rand(2, 1, 13, 18), rand(2, 3, 13, 18)
    here, there = net(x, 0.5, where), net(x, 0.5, where + 0.3)
    assert here.shape == x.shape
    assert float((here - there).abs().max()) > 1e-3
    torch.testing.assert_close(net(x, 0.5), net(x, 0.5, torch.zeros_like(where)))
