# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whole slices for the networks of a volume whose slabs have their turns one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.engine.memory.batch_size import DEFAULT
from monai_diffrecon.engine.store.volume_store import CHUNK, VolumeStore
from monai_diffrecon.protocols import PLANE_AXIS, PlaneDenoiser
from monai_diffrecon.slabs import Slab
from monai_diffrecon.slabs.in_turn import Answer, Question, TurnPeers


class StorePeers(TurnPeers):
    """Slabs whose turns come one after the other; volumes that they ask for lie on the disk.

    Args:
        slabs: all slabs.
        index: which of them this one is.
        answers: what was answered so far, in order; what a slab answers itself is appended.
        store: where volumes lie.
    """

    def __init__(self, slabs: Sequence[Slab], index: int, answers: list[Answer], store: VolumeStore) -> None:
        super().__init__(slabs, index, answers)
        self._known, self._store = answers, store

    def once(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return what a slab computes by itself; it is not computed again in the next turns of the same step."""
        answer = next(self._answers, None)
        if answer is not None:
            return answer()  # type: ignore[return-value]
        name, value, slab = f"own_{len(self._known)}", compute(), self.slab
        self._store.put(name, value, slab, self.slabs[0])
        self._known.append(lambda: self._store.get(name, slab))
        return value

    def denoised(self, plane: StoredPlaneDenoiser, x: Tensor, sigma: float) -> Tensor:
        """Return this slab of the denoised volume, or end this turn."""
        answer = next(self._answers, None)
        if answer is not None:
            return answer()  # type: ignore[return-value]
        number = len(self._known)
        self._store.put(f"given_{number}", x, self.slab, self.slabs[0])
        raise _Plane(plane, sigma, number, self.slabs)


class _Plane(Question):
    """The slices of a plane are to be denoised, of which each slab has written its part."""

    def __init__(self, plane: StoredPlaneDenoiser, sigma: float, number: int, slabs: Sequence[Slab]) -> None:
        super().__init__()
        self.plane, self.sigma, self.number, self.slabs = plane, sigma, number, slabs

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        name, store = f"denoised_{self.number}", self.plane.store
        self.plane.denoise(f"given_{self.number}", name, self.sigma, self.slabs[0])
        store.drop(f"given_{self.number}")
        return [lambda slab=slab: store.get(name, slab) for slab in self.slabs]  # type: ignore[misc]


class StoredPlaneDenoiser(PlaneDenoiser):
    """Denoises a slab of a volume that lies on the disk.

    Slices of the plane in which the volume is cut are denoised as they are. Slices of another plane are read from the
    disk, when all slabs have written theirs, and denoised in the batches of a volume in memory.

    Args:
        inner: denoiser of whole slices.
        store: where volumes lie.

    Attributes:
        seconds: wall time of the inner denoiser.
    """

    def __init__(self, inner: Any, store: VolumeStore) -> None:
        self.inner, self.store, self.seconds = inner, store, 0.0
        self.plane, self.sigma_min, self.sigma_max = inner.plane, inner.sigma_min, inner.sigma_max

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the inner denoiser, such as its batch size or its fallbacks."""
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def batch_size(self) -> int:
        """Slices a network call now; 0 until it is chosen."""
        return int(self.inner.batch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.inner.batch_size = size

    def for_plane(self, plane: str) -> StoredPlaneDenoiser:
        """Return a denoiser of another plane that uses the same network."""
        return StoredPlaneDenoiser(self.inner.for_plane(plane), self.store)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise this slab (C, X, Y, Z) of a volume at noise level ``sigma``; same shape and type out."""
        now = slabs.peers()
        assert isinstance(now, StorePeers)
        if now.slab.dim == 1 + PLANE_AXIS[self.plane]:
            return now.once(lambda: self._timed(x, sigma))
        return now.denoised(self, x, sigma)

    def denoise(self, given: str, name: str, sigma: float, first: Slab) -> None:
        """Denoise an array slice by slice into another.

        Args:
            given: name of the array.
            name: name of the new one.
            sigma: noise level.
            first: the first slab of the volume.
        """
        dim = 1 + PLANE_AXIS[self.plane]
        count, batch = self.store.shape(given)[dim], self.batch_size or DEFAULT
        size = batch * max(CHUNK // batch, 1)  # whole batches, and nearly whole chunks
        for start in range(0, max(count - 1, 1), size):  # a slice by itself joins those before, as in their batches
            layer = Slab(dim, start, start + size if start + size < count - 1 else count, count)
            done = self._timed(self.store.get(given, layer), sigma)
            self.store.put(name, done, layer, first)

    def _timed(self, x: Tensor, sigma: float) -> Tensor:
        started = time.perf_counter()
        with torch.no_grad():
            done: Tensor = self.inner(x, sigma)
        self.seconds += time.perf_counter() - started
        return done
