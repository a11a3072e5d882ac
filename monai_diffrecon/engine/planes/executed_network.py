# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The network of a plane in the hands of a runtime."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_diffrecon import registry
from monai_diffrecon.engine.plugin_objects import Spec, plugin_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Runtime

#: The names of the runtime that runs used before there were others.
_PLAIN = ("torch", "monai-diffrecon:torch")


class ExecutedNetwork(nn.Module):
    """A network with another function in place of its own; its weights stay where the engine looks for them.

    Args:
        network: the network.
        call: the function.
    """

    def __init__(self, network: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network
        self.multiple = int(getattr(network, "multiple", 1))
        self.position = bool(getattr(network, "position", False))
        self.call = call

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Call the function."""
        return self.call(*inputs, **named)


def build_runtime(spec: Spec) -> Runtime:
    """Build the runtime."""
    runtime = registry.build("runtimes", plugin_of(spec), where="runtime")
    assert isinstance(runtime, Runtime)
    return runtime


def is_plain(spec: Spec) -> bool:
    """Say whether a runtime is PyTorch as it always was, which identities and records leave unsaid."""
    return dict(spec) in [{"name": name} for name in _PLAIN]


def check_gradients(runtime: Runtime) -> None:
    """Refuse a runtime without gradients for what differentiates through the network: guidance, adaptation.

    Raises:
        ConfigError: it computes none.
    """
    if not runtime.differentiable:
        raise ConfigError(
            f"{type(runtime).__name__} computes no gradients, which this consistency step or adaptation needs",
            where="runtime",
            mend='take the runtime "torch", or neither guidance nor adaptation',
        )


def executed(
    runtime: Runtime, network: nn.Module, *, precision: str, device: torch.device | str | None = None
) -> nn.Module:
    """Return a network that a runtime executes.

    Args:
        runtime: the runtime.
        network: the network.
        precision: of its matrix products.
        device: where it gets its slices; None for the device of its weights.

    Raises:
        ConfigError: not a precision or a device of this runtime, or what it needs is not installed.
    """
    if precision not in runtime.precisions:
        raise ConfigError(
            f"{type(runtime).__name__} does not know this precision",
            where="inferer#precision",
            expected=" or ".join(runtime.precisions),
            got=precision,
        )
    of_weights = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    type_ = (of_weights if device is None else torch.device(device)).type
    if runtime.devices and type_ not in runtime.devices:
        raise ConfigError(
            f"{type(runtime).__name__} does not run there",
            where="inferer#device",
            expected=" or ".join(runtime.devices),
            got=type_,
            mend='set the device, or take the runtime "torch"',
        )
    call = runtime.load(network, precision=precision)
    return network if call is network else ExecutedNetwork(network, call)
