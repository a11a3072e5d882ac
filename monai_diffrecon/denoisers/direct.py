# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks that return the clean slice."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from monai_diffrecon.denoisers._output import checked
from monai_diffrecon.errors.options import check_sigma_range
from monai_diffrecon.protocols import Denoiser
from monai_diffrecon.protocols.denoiser import levels_like


class DirectDenoiser(Denoiser):
    """A network ``(x, sigma) -> E[x0 | x]``, or ``(x, sigma, position)``, that needs no conversion.

    Args:
        network: called with slices (B, C, H, W) and noise levels (B,).
        sigma_min: smallest noise level it was trained for, in network units.
        sigma_max: largest noise level it was trained for, in network units.

    Raises:
        ConfigError: an option out of its range.
    """

    takes_position: ClassVar[bool] = True

    def __init__(self, network: nn.Module, *, sigma_min: float = 0.003, sigma_max: float = 1.0) -> None:
        low, high = check_sigma_range(sigma_min, sigma_max, "denoiser")
        super().__init__(network, sigma_min=low, sigma_max=high)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise slices ``x`` (B, C, H, W) at noise levels ``sigma`` (B, 1, 1, 1)."""
        return checked(self.network(x, sigma.reshape(-1)), x, "denoiser direct")

    def forward(self, x: Tensor, sigma: Tensor | float, position: Tensor | None = None) -> Tensor:
        """Denoise slices (B, C, H, W) whose pixels are at ``position`` (B, 3, H, W), for a network that takes it."""
        if position is None:
            return super().forward(x, sigma)
        levels = levels_like(x, sigma).reshape(-1)
        return checked(self.network(x, levels, position=position), x, "denoiser direct")
