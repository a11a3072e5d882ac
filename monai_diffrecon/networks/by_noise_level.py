# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Two networks, each for its noise levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from monai_diffrecon.errors.options import check_number


class ByNoiseLevel(nn.Module):
    """One denoising network for large noise levels, another one below (Balaji et al. 2022, arXiv 2211.01324).

    What a head is as a whole is decided at large noise levels, by a network that sees whole slices; what is left at
    small ones is local, where a local network is better.

    Args:
        coarse: network for noise levels from ``below`` on.
        fine: network for smaller ones.
        below: noise level, network units.
    """

    def __init__(self, coarse: nn.Module, fine: nn.Module, below: float) -> None:
        super().__init__()
        self.coarse, self.fine = coarse, fine
        self.below = check_number(below, "network_def#below", low=0.0)
        self.multiple = math.lcm(*(int(getattr(network, "multiple", 1)) for network in (coarse, fine)))
        self.position = any(getattr(network, "position", False) for network in (coarse, fine))

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, position: Tensor | None = None) -> Tensor:
        """Return the denoised slices.

        Args:
            x: noisy slices (B, C, H, W).
            sigma: noise level, one number or one a slice; ``below`` when None.
            position: of each pixel (B, 3, H, W), for a network that takes it.

        Returns:
            E[x0 | x], (B, C, H, W), in the precision of ``x``.
        """
        sigma = self.below if sigma is None else sigma
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(len(x))
        out = torch.empty_like(x)
        for network, chosen in ((self.coarse, levels >= self.below), (self.fine, levels < self.below)):
            if bool(chosen.any()):
                told = getattr(network, "position", False) and position is not None
                where = {"position": position[chosen]} if told and position is not None else {}
                out[chosen] = network(x[chosen], levels[chosen], **where).to(out.dtype)
        return out
