# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Common base of projectors with one sparse matrix for all axial slices."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from monai_diffrecon.errors import ResourceError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.numerics.sparse_matrix import SparseMatrix
from monai_diffrecon.operators._matrix_cache import cached_matrix
from monai_diffrecon.protocols import Operator, VolumeGeometry

logger = logging.getLogger(__name__)

#: A matrix and its transpose count their entries in int32.
_MOST_ENTRIES = 2**31 - 1

#: Rebuilt views are kept this small (GB): larger parts are not faster.
_PART_GB = 0.25

#: Bytes that planning takes for each ray at its peak; memory (GB) that it may take in any case.
_RAY_BYTES, _RAYS_GB = 100, 0.5


class _Symmetric(torch.autograd.Function):
    """Differentiate a symmetric linear map by itself instead of through its inner steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.apply_fn = apply
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Symmetric.apply(grads[0], ctx.apply_fn), None


class SparseProjector(Operator):
    """Base of projectors whose views are rows of one sparse matrix, shared by all axial slices.

    The matrix and its transpose are stored, so the adjoint is exact and a volume costs one product of a sparse with
    a dense matrix. If they would need more memory than the limit, the rows of a few views at a time are built at
    every use and dropped: the same numbers and the same exact adjoint, slower.

    A subclass sets what :meth:`_view_matrix` needs, then calls :meth:`_prepare`. Measurements are (views, bins, Z).

    Args:
        geometry: the volume.
        views: views.
        bins: detector bins of a view.
        memory_limit_gb: the option, for what grows with views and bins alone.
    """

    family = "ct"
    slice_plane = "axial"
    initial_kind = "fbp"
    measurement_axes = ("views", "detectors", "Z")
    #: The plugin's name, for messages.
    name: ClassVar[str]

    def __init__(self, geometry: VolumeGeometry, views: int, bins: int, memory_limit_gb: object = 4.0) -> None:
        limit = max(check_number(memory_limit_gb, "operator#memory_limit_gb", low=0.0, open_low=True), _RAYS_GB)
        needed = _RAY_BYTES * views * bins / 1e9
        if needed > limit:
            raise ResourceError(
                "too many rays",
                where=f"operator {self.name}",
                expected=f"at most {limit:g} GB for their directions",
                got=f"{views} views of {bins} bins, about {needed:.2g} GB",
                mend="use fewer views or detectors, or raise operator#memory_limit_gb",
            )
        super().__init__(geometry, (views, bins, geometry.shape[2]))
        self.matrix: SparseMatrix | None = None
        self.transposed: SparseMatrix | None = None
        self._parts: list[tuple[int, int]] = []
        self._like: Tensor
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    @abstractmethod
    def _view_matrix(self, first: int, last: int) -> csr_array:
        """Return the rows of the views from ``first`` to before ``last``: float32, int32 indices."""

    def _prepare(
        self, entries: np.ndarray, bytes_each: float, memory_limit_gb: object, key: tuple[object, ...] | None
    ) -> bool:
        """Build the matrix, or plan to rebuild it in parts; return whether it was built.

        Args:
            entries: entries of each view, estimated from above (V,).
            bytes_each: memory an entry takes at the peak of building.
            memory_limit_gb: the option.
            key: names the matrix in the cache on disk; None does not keep it.

        Raises:
            ConfigError: the limit is no number above 0.
            ResourceError: not even one view fits.
        """
        limit = check_number(memory_limit_gb, "operator#memory_limit_gb", low=0.0, open_low=True)
        gigabytes = bytes_each * entries / 1e9
        if gigabytes.sum() <= limit and entries.sum() <= _MOST_ENTRIES:
            views = len(entries)
            build = self._view_matrix
            matrix = build(0, views) if key is None else cached_matrix(key, lambda: build(0, views))
            self.matrix, self.transposed = SparseMatrix(matrix), SparseMatrix(matrix.T.tocsr())
            return True
        if gigabytes.max() > limit:
            raise ResourceError(
                "one view of the system matrix would be too large",
                where=f"operator {self.name}",
                expected=f"at most {limit:g} GB",
                got=f"about {gigabytes.max():.2g} GB",
                mend="use fewer detectors or pixels, or raise operator#memory_limit_gb",
            )
        self._parts = _parts(gigabytes, min(limit, _PART_GB))
        logger.warning(
            "operator %s: the matrix would need about %.2g GB, the limit is %g GB; views are recomputed at every use, "
            "which is slower",
            self.name,
            gigabytes.sum(),
            limit,
        )
        return False

    @property
    def volume_dtype(self) -> torch.dtype:
        """Data type the matrix computes in: float32, or float64 after ``double()``; others are converted."""
        return self._like.dtype

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None."""
        return -1 if plane == self.slice_plane else None

    def restricted(self, plane: str, first: int, end: int) -> SparseProjector:
        """Return the projector of some axial slices, which shares the matrix."""
        return self.cut(plane, first, end)

    def _rebuilt(self, build: Callable[[int, int], csr_array]) -> Iterator[tuple[int, int, csr_array]]:
        """Yield views and their matrix, part by part; one part exists at a time."""
        for first, last in self._parts:
            yield first, last, build(first, last)

    def _on_device(self, matrix: csr_array) -> SparseMatrix:
        return SparseMatrix(matrix).to(self._like)

    def _forward(self, x: Tensor) -> Tensor:
        dense = x[0].flatten(0, 1)
        if self.matrix is not None:
            return self.matrix(dense).reshape(self.measurement_shape)
        y = x.new_empty(self.measurement_shape)
        for first, last, part in self._rebuilt(self._view_matrix):
            y[first:last] = self._on_device(part)(dense).reshape(last - first, *self.measurement_shape[1:])
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.transposed is not None:
            return self.transposed(y.flatten(0, 1)).reshape(self.volume_shape)
        dense = y.to(self.volume_dtype)
        x = dense.new_zeros(self.volume_shape)[0].flatten(0, 1)
        for first, last, part in self._rebuilt(self._view_matrix):
            x += self._on_device(part.T.tocsr())(dense[first:last].flatten(0, 1))
        return x.to(y.dtype).reshape(self.volume_shape)

    def _normal(self, x: Tensor) -> Tensor:
        """Return A^T A x with each view rebuilt once."""
        dense = x[0].flatten(0, 1).to(self.volume_dtype)
        total = torch.zeros_like(dense)
        for _, _, part in self._rebuilt(self._view_matrix):
            total += self._on_device(part.T.tocsr())(self._on_device(part)(dense))
        return total.to(x.dtype).reshape(self.volume_shape)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x."""
        if self.matrix is not None:
            return super().normal(x)
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        return _Symmetric.apply(x, self._normal)


def _parts(gigabytes: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Return neighbouring views (first, last), as many at a time as fit into ``limit``, one at least."""
    parts, first, held = [], 0, 0.0
    for view, size in enumerate(gigabytes):
        if view > first and held + size > limit:
            parts.append((first, view))
            first, held = view, 0.0
        held += float(size)
    return [*parts, (first, len(gigabytes))]
