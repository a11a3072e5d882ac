# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Forward differences along one axis of a volume, and their exact adjoint."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError

BOUNDARIES = ("neumann", "periodic")


def check_boundary(boundary: str, where: str) -> str:
    """Return ``boundary`` if it is known.

    Raises:
        ConfigError: it is not.
    """
    if boundary not in BOUNDARIES:
        raise ConfigError("unknown boundary", where=where, expected=" or ".join(BOUNDARIES), got=repr(boundary))
    return boundary


def forward_difference(x: Tensor, dim: int, boundary: str = "neumann") -> Tensor:
    """Return ``(D x)[k] = x[k+1] - x[k]`` along ``dim``; same shape.

    The last entry is 0 (Neumann) or ``x[0] - x[-1]`` (periodic, as DiffusionMBIR's published code has it).
    """
    if boundary == "periodic":
        return torch.roll(x, -1, dim) - x
    n = x.shape[dim]
    d = torch.zeros_like(x)
    d.narrow(dim, 0, n - 1).copy_(x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1))
    return d


def forward_difference_adjoint(v: Tensor, dim: int, boundary: str = "neumann") -> Tensor:
    """Return ``D^T v`` for the ``D`` of :func:`forward_difference`."""
    if boundary == "periodic":
        return torch.roll(v, 1, dim) - v
    n = v.shape[dim]
    x = torch.zeros_like(v)
    inner = v.narrow(dim, 0, n - 1)
    x.narrow(dim, 0, n - 1).sub_(inner)
    x.narrow(dim, 1, n - 1).add_(inner)
    return x
