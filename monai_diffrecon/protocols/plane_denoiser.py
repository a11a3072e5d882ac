# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a denoiser that covers all slices of a volume in one plane."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

from torch import Tensor


class PlaneDenoiser(ABC):
    """Denoises every slice of a volume in one anatomical plane; it handles batching and windows itself.

    Attributes:
        plane: ``sagittal``, ``coronal`` or ``axial``.
        sigma_min: smallest noise level of the network.
        sigma_max: largest noise level of the network.
    """

    plane: str
    sigma_min: float
    sigma_max: float

    def for_plane(self, plane: str) -> PlaneDenoiser:
        """Return a denoiser of another plane that uses the same network."""
        other = copy.copy(self)
        other.plane = plane
        return other

    @abstractmethod
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z) at one noise level; same shape out."""
