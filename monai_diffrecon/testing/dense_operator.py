# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An operator small enough to solve exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.protocols import Operator, VolumeGeometry


class DenseOperator(Operator):
    """A matrix, to compare iterations with direct solves. Its measurement is a vector (M,).

    Args:
        geometry: geometry of the volume with N voxels.
        matrix: (M, N); real for real volumes, complex for complex ones.
    """

    def __init__(self, geometry: VolumeGeometry, matrix: Tensor) -> None:
        is_complex = matrix.is_complex()
        super().__init__(geometry, (matrix.shape[0],), complex_measurement=is_complex, complex_volume=is_complex)
        self.matrix = matrix

    @property
    def volume_dtype(self) -> torch.dtype:
        """Data type of volumes: that of the matrix."""
        return self.matrix.dtype

    def initial(self, y: Tensor) -> Tensor:
        """Return the back-projection, scaled to the size of a reconstruction."""
        return self._adjoint(y) / self.norm()

    def _forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x.reshape(-1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.matrix.mH @ y).reshape(self.volume_shape)
