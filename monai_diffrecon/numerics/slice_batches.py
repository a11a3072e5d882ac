# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How the published codes split slices into batches, and norms over a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: floor_plus_one: DiffusionMBIR's floor(K / size) + 1 equal chunks; near_equal: TPDM's ceil(K / size) chunks.
SPLITS = ("near_equal", "floor_plus_one")


def batches(count: int, size: int, split: str = "near_equal") -> tuple[tuple[int, int], ...]:
    """Return (first, stop) of every batch of ``count`` slices.

    Args:
        count: number of slices.
        size: nominal slices a batch; 0 for all in one.
        split: one of :data:`SPLITS`.
    """
    if size <= 0 or count == 0:
        return ((0, count),)
    indices = torch.arange(count)
    if split == "floor_plus_one":
        parts = indices.chunk(count // size + 1)
    else:
        parts = indices.tensor_split(math.ceil(count / size))
    return tuple((int(p[0]), int(p[-1]) + 1) for p in parts if len(p))


def slice_norms(slices: Tensor) -> Tensor:
    """Return the Euclidean norm of each slice (N, ...), as (N,)."""
    return torch.linalg.vector_norm(slices.reshape(len(slices), -1), dim=1)


def batch_means(values: Tensor, groups: tuple[tuple[int, int], ...]) -> Tensor:
    """Return values (N,) replaced by the mean of their batch."""
    return torch.cat([values[a:b].mean().expand(b - a) for a, b in groups])
