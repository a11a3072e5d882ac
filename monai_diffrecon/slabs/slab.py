# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the code of a slab asks of the other slabs; without slabs every question answers itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Slab:
    """Neighbouring slices of a volume (C, X, Y, Z).

    Attributes:
        dim: dimension along which the volume is cut: 1, 2 or 3.
        first: first slice.
        end: slice after the last.
        count: slices of the whole volume.
    """

    dim: int
    first: int
    end: int
    count: int

    def __len__(self) -> int:
        return self.end - self.first

    def of(self, x: Tensor, dim: int | None = None) -> Tensor:
        """Return this slab's part of a tensor that has ``count`` entries along ``dim``; a view."""
        return x.narrow(self.dim if dim is None else dim, self.first, len(self))


def cut(dim: int, count: int, parts: int) -> tuple[Slab, ...]:
    """Return slabs of nearly equal size.

    Args:
        dim: dimension along which the volume is cut.
        count: its slices.
        parts: slabs, at most as many as slices.
    """
    edges = [count * part // parts for part in range(parts + 1)]
    return tuple(Slab(dim, first, end, count) for first, end in pairwise(edges))


class Peers(ABC):
    """The slabs of a volume, as one of them sees them. All of them must ask the same questions in the same order.

    Args:
        slabs: all slabs, in order.
        index: which of them this one is.
    """

    #: Linear systems that leave the slabs apart are solved together, as those of the whole volume; otherwise each slab
    #: solves its own, which needs no questions and differs within the tolerance of the solver.
    solves_together: ClassVar[bool] = True

    def __init__(self, slabs: Sequence[Slab], index: int) -> None:
        self.slabs, self.index = tuple(slabs), index

    @property
    def slab(self) -> Slab:
        """This slab."""
        return self.slabs[self.index]

    @abstractmethod
    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the slabs, entry by entry."""

    @abstractmethod
    def largest(self, value: Tensor) -> Tensor:
        """Return the maximum over the slabs, entry by entry."""

    @abstractmethod
    def swap(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give each slab a tensor, and return what each has for this one.

        Args:
            pieces: for each slab, in order, this one included; may be empty tensors.
            shapes: of what each slab has for this one.
        """


_PEERS: ContextVar[Peers | None] = ContextVar("peers", default=None)


@contextmanager
def within(peers: Peers | None) -> Iterator[None]:
    """Context in which volumes are those of a slab; None for whole volumes."""
    token = _PEERS.set(peers)
    try:
        yield
    finally:
        _PEERS.reset(token)


def peers() -> Peers | None:
    """Return the slabs of the volume, or None where volumes are whole."""
    return _PEERS.get()


def first_slice(dim: int) -> int:
    """Return the index in the whole volume of the first slice along ``dim``."""
    now = _PEERS.get()
    return now.slab.first if now is not None and now.slab.dim == dim else 0


def total(value: Number) -> Number:
    """Return a sum over the whole volume, or over its measurement, from that over this slab."""
    now = _PEERS.get()
    return value if now is None else _asked(now.total, value)


def largest(value: Number) -> Number:
    """Return a maximum over the whole volume, or over its measurement, from that over this slab."""
    now = _PEERS.get()
    return value if now is None else _asked(now.largest, value)


def norm(x: Tensor) -> float:
    """Return the Euclidean norm of a volume or measurement of which ``x`` is this slab's part."""
    return total(squared_norm(x)) ** 0.5


def squared_norm(x: Tensor) -> float:
    """Return the squared norm of ``x`` itself, summed in double precision, so that slabs hardly change sums of it."""
    return float(torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64)) ** 2


def mean(x: Tensor) -> float:
    """Return the mean of a volume or measurement of which ``x`` is this slab's part."""
    return total(float(x.sum())) / total(float(x.numel())) if _PEERS.get() else float(x.mean())


def norm_of_solve(x: Tensor) -> float:
    """Return the norm of a volume or measurement for the solution of a system (:attr:`Peers.solves_together`)."""
    now = _PEERS.get()
    return norm(x) if now is None or now.solves_together else squared_norm(x) ** 0.5


def total_of_solve(value: float) -> float:
    """Return an inner product of volumes for the solution of a linear system (:attr:`Peers.solves_together`)."""
    now = _PEERS.get()
    return value if now is None or not now.solves_together else _asked(now.total, value)


def sum_of_measurements(y: Tensor) -> Tensor:
    """Return the measurement of the whole volume from that of this slab (``Operator.slabs_add_up``).

    Raises:
        ConfigError: each slab solves its linear systems by itself.
    """
    now = _PEERS.get()
    if now is not None and not now.solves_together:
        raise ConfigError(
            "the operator mixes the slices of every plane",
            where="operator",
            expected="an operator that leaves the slices of a plane apart",
            mend="reconstruct the volume as a whole, or its slabs in as many processes",
        )
    return total(y)


def with_neighbours(function: Callable[[Tensor], Tensor], x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Return this slab's part of ``function`` of the volume, of which a slice needs a few neighbours only.

    Args:
        function: returns a tensor of the same shape along ``dim``.
        x: this slab of a tensor cut along the slab's dimension.
        dim: dimension along which the function looks beyond a slice.
        before: slices that it needs before a slice.
        after: slices that it needs after a slice. At the ends of the volume there are fewer.
    """
    now = _PEERS.get()
    if now is None or now.slab.dim != dim or len(now.slabs) == 1:
        return function(x)
    mine, count = now.slab, now.slab.count

    def wanted(slab: Slab) -> tuple[int, int]:
        return max(slab.first - before, 0), min(slab.end + after, count)

    def overlap(has: Slab, wants: Slab) -> tuple[int, int]:
        low, high = wanted(wants)
        first = min(max(has.first, low), has.end)
        return first, max(min(has.end, high), first)

    pieces, shapes = [], []
    for other in now.slabs:
        first, end = (0, 0) if other is mine else overlap(mine, other)
        pieces.append(x.narrow(dim, max(first - mine.first, 0), end - first))
        first, end = (0, 0) if other is mine else overlap(other, mine)
        shapes.append((*x.shape[:dim], end - first, *x.shape[dim + 1 :]))
    received = now.swap(pieces, shapes)
    received[now.index] = x
    return function(torch.cat(received, dim=dim)).narrow(dim, mine.first - wanted(mine)[0], len(mine)).contiguous()


def cut_along(dim: int) -> bool:
    """Say whether volumes are cut along ``dim``."""
    now = _PEERS.get()
    return now is not None and now.slab.dim == dim


def gathered(x: Tensor) -> Tensor:
    """Return the whole tensor at the first slab, and ``x`` itself at the others."""
    now = _PEERS.get()
    if now is None or len(now.slabs) == 1:
        return x
    dim, first = now.slab.dim, now.index == 0
    nothing = x.narrow(dim, 0, 0)
    sizes = [len(slab) if first and slab is not now.slab else 0 for slab in now.slabs]
    shapes = [(*x.shape[:dim], size, *x.shape[dim + 1 :]) for size in sizes]
    pieces = [x if index == 0 and not first else nothing for index in range(len(now.slabs))]
    received = now.swap(pieces, shapes)
    return torch.cat([x, *received[1:]], dim=dim) if first else x


def refuse_across(dim: int, what: str, where: str, mend: str) -> None:
    """Refuse what cannot be computed slab by slab if the volume is cut along ``dim``.

    Raises:
        ConfigError: it is.
    """
    if cut_along(dim):
        raise ConfigError(f"{what} reaches across the slabs of the volume", where=where, mend=mend)


def _asked(question: Callable[[Tensor], Tensor], value: Number) -> Number:
    if isinstance(value, Tensor):
        return question(value)
    return float(question(torch.tensor(float(value), dtype=torch.float64)))
