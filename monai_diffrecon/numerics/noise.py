# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Counter-style noise: a number depends on its key, never on when it was drawn."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from monai_diffrecon.protocols.noise_source import NoiseSource


def key_seed(*key: object) -> int:
    """Return a 63-bit seed for a key such as (seed, case, stream, step, slice)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class IndependentNoise(NoiseSource):
    """Independent standard normal voxels, drawn slice by slice along Z.

    Args:
        seed: seed of the run.
        case: name of the case.
    """

    def __init__(self, seed: int, case: str = "") -> None:
        self.seed, self.case = seed, case

    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return unit-variance noise (C, X, Y, Z); complex noise has unit variance in each component."""
        parts = 2 if dtype.is_complex else 1
        real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        out = torch.empty((*shape, parts), dtype=real)
        generator = torch.Generator()
        for k in range(shape[-1]):
            generator.manual_seed(key_seed(self.seed, self.case, stream, step, k))
            out[..., k, :] = torch.randn((*shape[:-1], parts), generator=generator, dtype=real)
        return torch.view_as_complex(out) if dtype.is_complex else out[..., 0]

    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1)."""
        generator = torch.Generator().manual_seed(key_seed(self.seed, self.case, stream, step))
        return float(torch.rand((), generator=generator))
