# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A GPU that computes nothing: tensors of the device ``meta`` under a mode that knows the rules of CUDA.

Fake tensors of ``cuda:0`` would do too, but a build of PyTorch without CUDA refuses to index or convert them. On
``meta`` everything that a GPU can do passes, and everything that the processor waits for comes to the mode below:

- an operation with tensors on two devices is refused, unless one of them is a number (0-dimensional) or an index;
- a number that is read from the device is a synchronisation; it is answered with 1 (True, but for "is any?"), so that
  loops run to their bound; whole tensors are read as ones, integers as zeros;
- a tensor that is made on the host and copied to the device is an upload.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

GPU = torch.device("meta")

_PACKAGES = ("/monai_diffrecon/", "/diffrecon_")
#: Functions whose reads and uploads are counted apart: conjugate gradients, and what searches with them.
_SOLVERS = ("conjugate_gradient", "_descend", "by_discrepancy")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class MetaGPU(TorchDispatchMode):
    """Counts what a step costs beside computing.

    Attributes:
        syncs: place in the source -> numbers and tensors read, outside of conjugate gradients.
        uploads: place in the source -> tensors copied to the device, outside of conjugate gradients.
        in_solvers: reads and uploads of conjugate gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.in_solvers = 0
        self._any: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def clear(self) -> None:
        self.syncs.clear()
        self.uploads.clear()
        self.in_solvers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        name = func.overloadpacket._qualified_op_name
        on_gpu = [t for t in tensors if t.device == GPU]
        if not on_gpu:
            done = func(*args, **kwargs)
            if name == "aten::_to_copy" and done.device == GPU:
                self._count(self.uploads)
            return done
        if name == "aten::copy_":
            return self._copied(args[0], args[1])
        if name == "aten::_to_copy" and torch.device(kwargs.get("device") or GPU) != GPU:
            self._count(self.syncs)
            x = args[0]
            filled = torch.zeros_like if not (x.is_floating_point() or x.is_complex()) else torch.ones_like
            return filled(x, device="cpu", dtype=kwargs.get("dtype") or x.dtype)
        if name not in _INDEXED and any(t.ndim and t.device != GPU for t in tensors):
            raise RuntimeError(f"{name}: tensors on the GPU and on the host")
        if name == "aten::_local_scalar_dense":
            self._count(self.syncs)
            x = args[0]
            if x.dtype == torch.bool:
                return x not in self._any
            return complex(1.0) if x.is_complex() else 1.0 if x.is_floating_point() else 1
        if name == "aten::equal":
            self._count(self.syncs)
            return False
        if name in ("aten::nonzero", "aten::masked_select"):
            self._count(self.syncs)
            x = args[0]
            if name == "aten::nonzero":
                return torch.empty((1, x.ndim), dtype=torch.int64, device=GPU)
            return torch.empty(1, dtype=x.dtype, device=GPU)
        if name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self._count(self.syncs)
            return torch.empty(1, dtype=args[0].dtype, device=GPU)
        done = func(*args, **kwargs)
        if name == "aten::any" and isinstance(done, Tensor):
            self._any[done] = True
        return done

    def _copied(self, to: Tensor, source: Tensor) -> Tensor:
        if to.device != source.device and source.ndim:
            self._count(self.uploads if to.device == GPU else self.syncs)
            return to if to.device == GPU else to.fill_(1)
        return to

    def made(self, make: Any) -> Any:
        """Return ``torch.tensor`` or ``torch.as_tensor`` that counts what it uploads: the mode does not see it."""

        def counted(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
            if device is not None and torch.device(device) == GPU and not isinstance(data, Tensor):
                self._count(self.uploads)
            return make(data, *args, device=device, **options)

        return counted

    def _count(self, counter: Counter[str]) -> None:
        frame, place = sys._getframe(2), ""
        while frame is not None:
            code = frame.f_code
            if any(package in code.co_filename for package in _PACKAGES):
                if code.co_name in _SOLVERS:
                    self.in_solvers += 1
                    return
                place = place or f"{code.co_filename.rpartition('/')[2]}:{code.co_name}"
            frame = frame.f_back  # type: ignore[assignment]
        counter[place or "test"] += 1


@contextmanager
def meta_gpu() -> Iterator[MetaGPU]:
    """Run under a :class:`MetaGPU`."""
    gpu = MetaGPU()
    with patch("torch.tensor", gpu.made(torch.tensor)), patch("torch.as_tensor", gpu.made(torch.as_tensor)), gpu:
        yield gpu
