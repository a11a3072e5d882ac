# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Counts the tensors of at least a volume's size that are alive at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LivingVolumes(TorchDispatchMode):
    """While active, counts what operations allocate, in volumes: storages of at least ``size`` bytes.

    What was there before is left out: the measurement, the tables of the operator, the weights. So is what a single
    operation needs inside and gives back.

    Args:
        size: bytes of a volume.

    Attributes:
        peak: most volumes that were alive at a time since it was last set to 0.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.peak = size, 0.0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.size and storage._cdata not in given | self._alive.keys():
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()) / self.size)
        return out


def volume_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.empty(shape, dtype=dtype, device="meta").nbytes
