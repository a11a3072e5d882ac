# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Operator without a measurement, for unconditional samples."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.protocols import Operator, VolumeGeometry


class Unconditional(Operator):
    """No measurement at all, for unconditional samples; an empty one of shape (0,).

    Args:
        geometry: the volume to sample.
    """

    family = "none"

    def __init__(self, geometry: VolumeGeometry) -> None:
        super().__init__(geometry, (0,))

    def _forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(0)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(self.volume_shape)

    def initial(self, y: Tensor) -> Tensor:
        """Return zeros (C, X, Y, Z)."""
        return self.adjoint(y)
