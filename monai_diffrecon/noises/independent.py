# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Independent noise in every slice."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.numerics.noise import keyed_uniform, white_noise
from monai_diffrecon.protocols import NoiseSource
from monai_diffrecon.slabs import Slab


class IndependentNoise(NoiseSource):
    """Independent standard normal voxels, drawn slice by slice along Z.

    Args:
        seed: seed of the run.
        case: name of the case.
    """

    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return unit-variance noise (C, X, Y, Z); complex noise has unit variance in each component."""
        return white_noise(shape, dtype, self.seed, self.case, stream, step)

    def slab(
        self,
        shape: tuple[int, ...],
        step: int,
        slab: Slab,
        *,
        stream: str = "sampler",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return a slab of unit-variance noise."""
        return white_noise(shape, dtype, self.seed, self.case, stream, step, slab=slab)

    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1)."""
        return keyed_uniform(self.seed, self.case, stream, step)
