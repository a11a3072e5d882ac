# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whole slices for the networks of a volume that is cut into slabs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.protocols import PLANE_AXIS, PlaneDenoiser
from monai_diffrecon.slabs import Peers, cut


class SlabPlaneDenoiser(PlaneDenoiser):
    """Denoises a slab of a volume.

    Slices of the plane in which the volume is cut are this slab's own. Of another plane each slab has a part of every
    slice: slabs swap parts, so that each denoises some whole slices, and swap them back.

    Args:
        inner: denoiser of whole slices.
        peers: the slabs, in processes.
    """

    def __init__(self, inner: BatchedPlaneDenoiser, peers: Peers) -> None:
        self.inner, self.peers = inner, peers
        self.plane, self.sigma_min, self.sigma_max = inner.plane, inner.sigma_min, inner.sigma_max

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the inner denoiser, such as its batch size or its fallbacks."""
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def for_plane(self, plane: str) -> SlabPlaneDenoiser:
        """Return a denoiser of another plane that uses the same network."""
        return SlabPlaneDenoiser(self.inner.for_plane(plane), self.peers)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise this slab (C, X, Y, Z) of a volume at noise level ``sigma``; same shape and type out."""
        slab, dim = self.peers.slab, 1 + PLANE_AXIS[self.plane]
        if slab.dim == dim:
            self.inner.first_slice, self.inner.total_slices = slab.first, sum(len(other) for other in self.peers.slabs)
            return self.inner(x, sigma)
        slabs, me = self.peers.slabs, self.peers.index
        rows = cut(dim, x.shape[dim], len(slabs))
        self.inner.first_slice, self.inner.total_slices = rows[me].first, x.shape[dim]
        shapes = [_resized(x, {slab.dim: len(other), dim: len(rows[me])}) for other in slabs]
        whole = torch.cat(self.peers.swap([row.of(x) for row in rows], shapes), dim=slab.dim)
        done = self.inner(whole, sigma) if len(rows[me]) else whole
        shapes = [_resized(x, {dim: len(row)}) for row in rows]
        return torch.cat(self.peers.swap([other.of(done) for other in slabs], shapes), dim=dim)


def _resized(x: Tensor, sizes: dict[int, int]) -> tuple[int, ...]:
    return tuple(sizes.get(dim, size) for dim, size in enumerate(x.shape))
