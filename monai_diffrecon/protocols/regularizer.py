# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a regularizer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from monai_diffrecon.protocols.geometry import VolumeGeometry
from monai_diffrecon.protocols.plugin import Plugin


class Regularizer(Plugin, ABC):
    """A convex penalty ``threshold * g(K x)`` with a linear transform K and a proximal map of g.

    ``threshold`` is scale-free: the shrinkage of one ADMM iteration in intensity units (network units), that
    is lambda / rho of the papers.
    """

    threshold: float

    def bind(self, geometry: VolumeGeometry) -> None:
        """Learn the geometry (shape, spacing in mm) before the first step."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Return K x for a volume x (C, X, Y, Z)."""

    @abstractmethod
    def adjoint(self, v: Tensor) -> Tensor:
        """Return K^T v as a volume (C, X, Y, Z)."""

    @abstractmethod
    def prox(self, v: Tensor, step: float) -> Tensor:
        """Return ``argmin_u g(u) * step + 1/2 ||u - v||^2``, elementwise or groupwise."""

    def penalty(self, x: Tensor) -> float:
        """Return g(K x); the l1 norm unless overridden."""
        return float(self.transform(x).abs().sum())
