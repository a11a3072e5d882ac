# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Denoising loss balanced over the noise levels."""

from __future__ import annotations

from torch import Tensor, nn


class DenoisingLoss(nn.Module):
    """Mean over the batch of ``||D(x, sigma) - x0||^2 / sigma^exponent``, per pixel.

    The error of a good denoiser grows about as ``sigma^1.2`` over the levels that matter, so this exponent
    gives each of them the same weight (compare the weight lambda(sigma) of Karras et al. 2022, section 5).

    Args:
        exponent: power of the noise level in the denominator.
        sigma_data: standard deviation of the training data in network units; when given, the weight is that of
            Karras et al. (table 1), ``1 / sigma^2 + 1 / sigma_data^2``, and ``exponent`` is not used.
    """

    def __init__(self, exponent: float = 1.2, sigma_data: float | None = None) -> None:
        super().__init__()
        self.exponent, self.sigma_data = exponent, sigma_data

    def forward(self, pred: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Return the loss of the denoised patches ``pred`` (B, C, H, W)."""
        error = (pred.float() - target["clean"]).square().mean(dim=(1, 2, 3))
        sigma = target["sigma"]
        weight = sigma**-self.exponent if self.sigma_data is None else sigma**-2 + self.sigma_data**-2
        return (error * weight).mean()
