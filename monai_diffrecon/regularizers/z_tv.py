# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Total variation across the slices of one plane."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.numerics.finite_differences import (
    check_boundary,
    forward_difference,
    forward_difference_adjoint,
    soft_threshold,
    spacing_weights,
)
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS, Regularizer, VolumeGeometry


class ZTV(Regularizer):
    """The l1 norm of the differences between neighbouring slices (DiffusionMBIR, arXiv 2211.10655, equation 9).

    ``K = w D`` with the forward difference D and ``w = min(spacing) / spacing[axis]``, so that a slope in mm costs
    the same whatever the slice thickness.

    Args:
        threshold: shrinkage of one ADMM iteration, in intensity units (network units), 0 or more.
        plane: differences run along the axis on which the slices of this plane are stacked.
        boundary: ``neumann``, or ``periodic`` as in the reference implementation (it couples the first slice and
            the last).

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True

    def __init__(self, threshold: float = 0.004, *, plane: str = "axial", boundary: str = "neumann") -> None:
        self.threshold = check_number(threshold, "z_tv#threshold", low=0.0)
        self.plane = check_plane(plane, "z_tv#plane")
        self.boundary = check_boundary(boundary, "z_tv#boundary")
        self._weight: float | None = None

    def bind(self, geometry: VolumeGeometry) -> None:
        """Learn the voxel size."""
        self._weight = spacing_weights(geometry.spacing)[PLANE_AXIS[self.plane]]

    def transform(self, x: Tensor) -> Tensor:
        """Return the weighted differences of a volume (C, X, Y, Z), in its shape."""
        weight = self._bound_weight()
        return forward_difference(x, self._dim, self.boundary).mul_(weight)

    def adjoint(self, v: Tensor) -> Tensor:
        """Return K^T v as a volume (C, X, Y, Z)."""
        weight = self._bound_weight()
        return forward_difference_adjoint(v, self._dim, self.boundary).mul_(weight)

    def prox(self, v: Tensor, step: float) -> Tensor:
        """Shrink the differences (C, X, Y, Z) by ``step``."""
        return soft_threshold(v, step)

    @property
    def _dim(self) -> int:
        return PLANE_AXIS[self.plane] + 1  # dimension 0 is the channel

    def _bound_weight(self) -> float:
        if self._weight is None:
            raise ConfigError("used before bind(geometry)", where="z_tv")
        return self._weight
