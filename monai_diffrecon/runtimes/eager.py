# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The network as PyTorch executes it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from monai_diffrecon.protocols import Runtime


class TorchRuntime(Runtime):
    """PyTorch itself: every device, gradients included; lower precision by autocast."""

    differentiable: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16", "float16")

    def load(self, network: nn.Module, *, precision: str) -> nn.Module:
        """Return the network."""
        return network
