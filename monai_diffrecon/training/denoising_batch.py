# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noisy inputs and clean targets for a denoising network."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.noise import key_seed


class DenoisingBatch(PrepareBatch):
    """Adds noise of a random level to each patch: ``x = x0 + sigma n``, sigma log-uniform or log-normal.

    Log-uniform levels balance the loss over the noise levels together with :class:`DenoisingLoss`. Log-normal ones
    (Karras et al. 2022, arXiv 2206.00364, section 5) spend the training where a sampler from noise decides.

    Args:
        sigma_min: smallest noise level, network units.
        sigma_max: largest noise level, network units.
        log_mean: mean of ln(sigma) when log-normal; such levels are clipped to the range above.
        log_std: standard deviation of ln(sigma) when log-normal; None for log-uniform.
        seed: seed; the noise of a batch depends on it and on the number of batches since, nothing else.
    """

    def __init__(
        self,
        sigma_min: float = 0.003,
        sigma_max: float = 2.0,
        seed: int = 0,
        log_mean: float = -1.2,
        log_std: float | None = None,
    ) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ConfigError(
                "noise levels must increase",
                where="train#prepare_batch",
                expected="0 < sigma_min < sigma_max",
                got=f"{sigma_min}, {sigma_max}",
            )
        self.sigma_min, self.sigma_max, self.seed = sigma_min, sigma_max, seed
        self.log_mean, self.log_std = log_mean, log_std
        self.iteration = 0

    def attach(self, engine: Any) -> None:
        """Follow the engine's iteration count, so that a resumed training draws what it would have drawn."""
        from ignite.engine import Events

        @engine.on(Events.ITERATION_STARTED)
        def _follow(engine: Any) -> None:
            self.iteration = engine.state.iteration

    def __call__(
        self,
        batchdata: Tensor,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
        """Return (noisy (B, 1, H, W), {"clean", "sigma"}, (), {"sigma": (B,)}); with positions also ``position``."""
        batch = batchdata.to(device=device, non_blocking=non_blocking, **kwargs)
        clean, position = batch[:, :1], batch[:, 1:]
        generator = torch.Generator().manual_seed(key_seed(self.seed, "training", self.iteration))
        sigma = self._levels(clean.shape[0], generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy = clean + sigma.view(-1, 1, 1, 1) * noise
        more = {"position": position} if position.shape[1] else {}
        return noisy, {"clean": clean, "sigma": sigma}, (), {"sigma": sigma, **more}

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        if self.log_std is None:
            t = torch.rand(count, generator=generator)
            return self.sigma_min * (self.sigma_max / self.sigma_min) ** t
        t = torch.randn(count, generator=generator)
        return (self.log_mean + self.log_std * t).exp().clamp(self.sigma_min, self.sigma_max)
