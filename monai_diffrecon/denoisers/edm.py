# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks with the preconditioning of EDM."""

from __future__ import annotations

from torch import Tensor, nn

from monai_diffrecon.denoisers._output import checked
from monai_diffrecon.errors.options import check_number, check_sigma_range
from monai_diffrecon.protocols import Denoiser


class EDMDenoiser(Denoiser):
    """``D = c_skip x + c_out F(c_in x, c_noise)`` (Karras et al. 2022, arXiv 2206.00364, equation 7 and table 1).

    Args:
        network: F, called with scaled slices (B, C, H, W) and ``c_noise = ln(sigma) / 4`` (B,).
        sigma_min: smallest noise level it was trained for, in network units.
        sigma_max: largest noise level it was trained for, in network units.
        sigma_data: standard deviation of the training data, in network units.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self, network: nn.Module, *, sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5
    ) -> None:
        low, high = check_sigma_range(sigma_min, sigma_max, "denoiser")
        super().__init__(network, sigma_min=low, sigma_max=high)
        self.sigma_data = check_number(sigma_data, "denoiser#sigma_data", low=0.0, open_low=True)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise slices ``x`` (B, C, H, W) at noise levels ``sigma`` (B, 1, 1, 1)."""
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_noise = sigma.log() / 4
        output = self.network(x / variance.sqrt(), c_noise.reshape(-1))
        return c_skip * x + c_out * checked(output, x, "denoiser edm")
