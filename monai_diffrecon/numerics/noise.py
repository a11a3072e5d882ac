# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers by key: a number depends on what it is for, never on when it was drawn."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def key_seed(*key: object) -> int:
    """Return a 63-bit seed for a key such as (seed, case, stream, step, slice)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keyed_normal(shape: tuple[int, ...], dtype: torch.dtype, *key: object) -> Tensor:
    """Return standard normal numbers of a key; complex ones have unit variance in each component."""
    return draw_normal(shape, dtype, torch.Generator().manual_seed(key_seed(*key)))


def draw_normal(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return the generator's next standard normal numbers; complex ones have unit variance in each component."""
    real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn((*shape, 2), generator=generator, dtype=real))
    return torch.randn(shape, generator=generator, dtype=real)


def keyed_uniform(*key: object) -> float:
    """Return the uniform number in [0, 1) of a key."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(key_seed(*key))))
