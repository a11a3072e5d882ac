# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Score networks of the variance-exploding diffusion."""

from __future__ import annotations

from torch import Tensor, nn

from monai_diffrecon.denoisers._output import checked
from monai_diffrecon.errors.options import check_sigma_range
from monai_diffrecon.protocols import Denoiser


class VEScoreDenoiser(Denoiser):
    """``D = x + sigma^2 s(x, sigma)``: Tweedie's formula for a score network (NCSN++; Song et al. 2021).

    Args:
        network: called with noisy slices (B, C, H, W) and noise levels (B,); returns the score, that is, it has
            divided by sigma itself (arXiv 2011.13456, appendix C, with ``scale_by_sigma``).
        sigma_min: smallest noise level it was trained for, in network units.
        sigma_max: largest noise level it was trained for, in network units.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(self, network: nn.Module, *, sigma_min: float = 0.01, sigma_max: float = 378.0) -> None:
        low, high = check_sigma_range(sigma_min, sigma_max, "denoiser")
        super().__init__(network, sigma_min=low, sigma_max=high)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise slices ``x`` (B, C, H, W) at noise levels ``sigma`` (B, 1, 1, 1)."""
        score = checked(self.network(x, sigma.reshape(-1)), x, "denoiser ve_score")
        return x + sigma**2 * score
