# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A prior with a closed-form posterior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monai_diffrecon.protocols import PlaneDenoiser, SamplerState


@dataclass
class GaussianPrior(PlaneDenoiser):
    """Independent voxels ``N(mean, std^2)``, in every parameterization a network may have.

    Attributes:
        mean: mean of a voxel.
        std: standard deviation of a voxel.
        plane: plane it claims to denoise; the voxels do not care.
        sigma_min: smallest noise level it claims to know.
        sigma_max: largest noise level it claims to know.
        calls: times it was called as a plane denoiser.
    """

    mean: float = 0.5
    std: float = 0.25
    plane: str = "axial"
    sigma_min: float = 1e-4
    sigma_max: float = 100.0
    calls: int = 0

    def estimate(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[x0 | x] for ``x = x0 + sigma n``."""
        return (sigma**2 * self.mean + self.std**2 * x) / (sigma**2 + self.std**2)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the gradient of log p(x; sigma)."""
        return (self.mean - x) / (sigma**2 + self.std**2)

    def epsilon(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[n | x]."""
        return (x - self.estimate(x, sigma)) / sigma

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z), as a plane denoiser."""
        self.calls += 1
        return self.estimate(x, sigma)

    def denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        """Denoise a volume (C, X, Y, Z), as the engine hands a prior to a sampler."""
        return self(x, sigma)
