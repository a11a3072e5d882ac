# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every runtime of networks must obey."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from monai_diffrecon.protocols import Runtime

#: Batch, height and width of slices: one slice, odd sizes, a shape again, other batches of the same size.
_SHAPES = ((1, 16, 16), (3, 17, 23), (1, 17, 23), (8, 20, 33), (5, 20, 33), (3, 17, 23), (2, 5, 9))

#: Largest relative root mean square error in lower precision.
_COARSE = 0.05


def check_runtime(runtime: Runtime, network: nn.Module | None = None, *, tolerance: float = 1e-4) -> None:
    """Check the laws, on a CPU.

    In float32 the result is the network's, for slices of any size and number, with one level a slice by position or by
    name; in lower precision it is close. The network, the input, earlier results, the number of threads and the global
    generator are left as they are. Gradients are the network's, or there are none.

    Args:
        runtime: the runtime.
        network: takes slices (B, 1, H, W) and ``timesteps`` (B,); None takes one with what denoisers have.
        tolerance: largest error in float32, relative to the largest value.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    network = _Network() if network is None else network
    network.eval()
    weights, said = copy.deepcopy(network.state_dict()), dict(_state(network))
    before = torch.random.get_rng_state(), torch.get_num_threads()
    assert "float32" in runtime.precisions, "float32 is not among its precisions"
    for precision in runtime.precisions:
        _check_results(runtime, network, precision, tolerance)
    _check_threads(runtime, network, tolerance)
    _check_gradients(runtime, network, tolerance)
    assert torch.get_num_threads() == before[1], "the number of threads is changed"
    assert torch.equal(torch.random.get_rng_state(), before[0]), "the global generator is used"
    assert dict(_state(network)) == said, "the network's mode or its parameters' flags are changed"
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[name]), f"the network's {name} is changed"


def _check_results(runtime: Runtime, network: nn.Module, precision: str, tolerance: float) -> None:
    call, kept = runtime.load(network, precision=precision), []
    for seed, shape in enumerate(_SHAPES):
        x, levels = _slices(shape, seed)
        given = x.clone(), levels.clone()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            done = call(x, levels) if seed % 2 else call(x, timesteps=levels)
        wanted = _wanted(network, x, levels)
        assert torch.equal(x, given[0]), "the slices are changed in place"
        assert torch.equal(levels, given[1]), "the levels are changed in place"
        assert done.shape == wanted.shape, f"slices {tuple(x.shape)} become {tuple(done.shape)}"
        if precision == "float32":
            error = float((done - wanted).abs().max() / wanted.abs().max())
            assert error <= tolerance, f"slices {tuple(x.shape)} differ from the network's by {error:.2g}"
        else:
            error = float((done.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
            assert error <= _COARSE, f"slices {tuple(x.shape)} in {precision} differ from the network's by {error:.2g}"
        kept.append((done, done.clone()))
    for done, copied in kept:
        assert torch.equal(done, copied), "a later call changes an earlier result"


def _check_threads(runtime: Runtime, network: nn.Module, tolerance: float) -> None:
    call, threads = runtime.load(network, precision="float32"), torch.get_num_threads()
    x, levels = _slices(_SHAPES[1], 0)
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            with torch.no_grad():
                done, wanted = call(x, levels), _wanted(network, x, levels)
            assert torch.get_num_threads() == number, "the number of threads is changed"
            error = float((done - wanted).abs().max() / wanted.abs().max())
            assert error <= tolerance, f"with {number} threads it differs from the network by {error:.2g}"
    finally:
        torch.set_num_threads(threads)


def _check_gradients(runtime: Runtime, network: nn.Module, tolerance: float) -> None:
    x, levels = _slices(_SHAPES[1], 0)
    x.requires_grad_()
    done = runtime.load(network, precision="float32")(x, levels)
    assert done.requires_grad == runtime.differentiable, f"differentiable is {runtime.differentiable}, and it is not so"
    if runtime.differentiable:
        (found,) = torch.autograd.grad(done.square().sum(), x)
        (wanted,) = torch.autograd.grad(network(x, levels).square().sum(), x)
        error = float((found - wanted).abs().max() / wanted.abs().max())
        assert error <= tolerance, f"the gradient differs from the network's by {error:.2g}"


def _wanted(network: nn.Module, x: Tensor, levels: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(x, levels)
    return result


def _slices(shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((shape[0], 1, *shape[1:]), generator=generator)
    return x, 0.01 + torch.rand(shape[0], generator=generator)


def _state(network: nn.Module) -> list[tuple[str, bool]]:
    modes = [(f"mode {name}", module.training) for name, module in network.named_modules()]
    return modes + [(name, weight.requires_grad) for name, weight in network.named_parameters()]


class _Network(nn.Module):
    """Two convolutions, a norm, a coarser grid and back, and an amplitude for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return slices (B, 1, H, W)."""
        features = torch.nn.functional.silu(self.norm(self.head(x)))
        coarse = torch.nn.functional.avg_pool2d(features, 2, ceil_mode=True)
        features = features + torch.nn.functional.interpolate(coarse, size=x.shape[-2:])
        result: Tensor = self.tail(features) * timesteps.reshape(-1, 1, 1, 1)
        return result
