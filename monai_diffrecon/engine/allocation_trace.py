# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How much memory a computation would take: its tensors get shapes, but no numbers."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.weak import WeakIdKeyDictionary

#: What is made of real numbers only and has fewer than these is computed: ladders of noise levels, tables.
_SMALL = 4096

#: Larger blocks (bytes) glibc takes from the system and gives back at once; smaller ones come from its heap.
_MAPPED = 32 * 2**20


class AllocationTrace(TorchDispatchMode):
    """While it is entered, tensors are made without memory, and the bytes that they would take are counted.

    What existed before counts as there already. Where a program asks for a number that depends on a volume, such as a
    norm, it is told 1; whether all are finite, true; whether any is not, or two volumes are equal, false. So loops run
    to their bound.

    Args:
        heap_factor: a heap of blocks of many sizes is larger than they are: by this factor, and it does not shrink.
        network_device: device whose memory is meant within :meth:`call`. It is not touched: everything is tried on the
            CPU, whatever holds the weights.

    Attributes:
        live: bytes of each device's tensors now, ``cpu`` or ``network_device``.
        peak: the largest that ``live`` was.
        call_peak: the largest that was added within :meth:`call`.
        resident: the largest that the process's memory grew, with the heap's waste; of the CPU.
    """

    def __init__(self, heap_factor: float = 1.0, network_device: str = "cpu") -> None:
        super().__init__()
        self.network_device = network_device
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.heap_factor = heap_factor
        self.live: dict[str, int] = defaultdict(int)
        self.peak: dict[str, int] = defaultdict(int)
        self.call_peak = 0
        self.resident = 0.0
        self._small = self._heap = 0
        self._known: Any = WeakIdKeyDictionary()
        self._any: Any = WeakIdKeyDictionary()
        self._moved: Any = WeakIdKeyDictionary()
        self._before_call: int | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count what is added within as that of a call of a network."""
        self._before_call = self.live[self.network_device]
        try:
            yield
        finally:
            self._before_call = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, without numbers unless there are few."""
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        if all(t.numel() < _SMALL and t.device.type == "cpu" and not isinstance(t, FakeTensor) for t in inputs):
            with self.fake:
                shapes = _attempt(func, args, kwargs)
            if shapes is None or all(t.numel() < _SMALL for t in _tensors(shapes)):
                return func(*args, **kwargs)
        args, kwargs = tree_map(self._as_fake, (args, kwargs))
        try:
            with self.fake:
                out = func(*args, **kwargs)
        except DataDependentOutputException:
            return self._answer(func, inputs)
        if func.overloadpacket is torch.ops.aten.any:
            self._any[out] = True
        for tensor in _tensors(out):
            self._count(tensor)
        return out

    def _as_fake(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        fake: Tensor
        if value.device.type == "cpu":
            fake = self.fake.from_tensor(value, static_shapes=True)
        elif value in self._moved:
            return self._moved[value]
        else:
            with self.fake:
                fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype)
            self._moved[value] = fake
        self._known.setdefault(fake.untyped_storage(), True)
        return fake

    def _answer(self, func: Any, inputs: list[Tensor]) -> bool | int | float | complex:
        kind = inputs[0].dtype
        if func.overloadpacket is torch.ops.aten.equal:
            return False
        if kind == torch.bool:
            return inputs[0] not in self._any
        return complex(1.0) if kind.is_complex else 1.0 if kind.is_floating_point else 1

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        device, size = "cpu" if self._before_call is None else self.network_device, storage.nbytes()
        weakref.finalize(storage, self._change, device, -size)
        self._change(device, size)
        if self._before_call is not None:
            self.call_peak = max(self.call_peak, self.live[device] - self._before_call)

    def _change(self, device: str, size: int) -> None:
        self.live[device] += size
        self.peak[device] = max(self.peak[device], self.live[device])
        if device == "cpu":
            self._small += size if abs(size) < _MAPPED else 0
            self._heap = max(self._heap, self._small)
            mapped = self.live[device] - self._small
            self.resident = max(self.resident, self._heap * self.heap_factor + mapped)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]


def _attempt(func: Any, args: Any, kwargs: Any) -> Any:
    """Return results of the right shapes, or None when these depend on numbers."""
    try:
        return func(*args, **kwargs)
    except DataDependentOutputException:
        return None
