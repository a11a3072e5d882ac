# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The network as PyTorch executes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.protocols import Runtime


class TorchRuntime(Runtime):
    """PyTorch itself: every device, gradients included; lower precision by autocast.

    Args:
        compile: compile the network with ``torch.compile`` for each shape of its input, on a GPU with CUDA graphs. It
            takes about a minute a shape and needs a C++ compiler, or Triton on a GPU; guided steps are refused.

    Raises:
        ConfigError: the option is not true or false.
    """

    devices: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16", "float16")

    def __init__(self, compile: bool = False) -> None:
        self.compile = check_flag(compile, "runtime#compile")
        self.differentiable = not self.compile  # type: ignore[misc]

    def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
        """Return the network, compiled if that is asked for."""
        return _compiled(network) if self.compile else network


def _compiled(network: nn.Module) -> Callable[..., Tensor]:
    compiled = torch.compile(network, dynamic=False, mode="reduce-overhead")

    def call(*inputs: Tensor, **named: Tensor) -> Tensor:
        try:
            result: Tensor = compiled(*inputs, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(
                "the network cannot be compiled on this computer",
                where="runtime#compile",
                got=f"{type(error).__name__}: {str(error).splitlines()[0][:150]}",
                mend="set compile to false",
            ) from error
        return result.clone()  # the next call of a CUDA graph overwrites it

    return call
