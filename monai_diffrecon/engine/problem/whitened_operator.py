# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An operator whose measurement is weighted, so that least squares become weighted least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Operator, VolumeGeometry


class WhitenedOperator(Operator):
    """``A' = W^(1/2) A``: with ``y' = W^(1/2) y`` every entry has the same noise, and the residual is weighted.

    What a consistency step does with A' and y' it does to ``1/2 (A x - y)^T W (A x - y)``. Weights are scaled to a
    mean of 1 over the entries above 0; an entry of weight 0 is not measured.

    Args:
        operator: A.
        weights: inverse variances in any scale, real, of the shape of the measurement, 0 or more.

    Raises:
        InputError: weights of another shape or type, negative, not finite, or all 0.
    """

    def __init__(self, operator: Operator, weights: Tensor) -> None:
        super().__init__(
            operator.geometry,
            operator.measurement_shape,
            complex_measurement=operator.complex_measurement,
            complex_volume=operator.complex_volume,
        )
        given = torch.as_tensor(weights).as_subclass(Tensor)
        if tuple(given.shape) != operator.measurement_shape or given.is_complex():
            raise InputError(
                "not weights of the measurement",
                where="weights",
                expected=f"real numbers of shape {operator.measurement_shape}",
                got=f"{str(given.dtype).removeprefix('torch.')} of shape {tuple(given.shape)}",
            )
        w = given.to(torch.float64)
        if not bool(torch.isfinite(w).all()) or bool((w < 0).any()) or not bool((w > 0).any()):
            raise InputError("no weights", where="weights", expected="finite numbers of 0 or more, not all of them 0")
        self.operator = operator
        #: What a weight of 1 became: the noise of y' is that of an entry of weight 1, over its root.
        self.mean_weight = float(w[w > 0].mean())
        self.root: Tensor
        self.register_buffer("root", (w / self.mean_weight).sqrt().to(torch.float32), persistent=False)
        self.family, self.slice_plane = operator.family, operator.slice_plane  # type: ignore[misc]
        self.initial_kind, self.thick_plane = operator.initial_kind, operator.thick_plane
        self.slabs_add_up = operator.slabs_add_up

    @property
    def volume_dtype(self) -> torch.dtype:
        """Data type of volumes: that of the operator."""
        return self.operator.volume_dtype

    def noise_std(self, noise_std: float) -> float:
        """Return the noise of each entry of y' for that of an entry of weight 1 of y."""
        return noise_std / self.mean_weight**0.5

    def whiten(self, y: Tensor) -> Tensor:
        """Return ``W^(1/2) y``."""
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        return self._weighted(y)

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement that counts the slices of ``plane``, or None."""
        return self.operator.slice_axis(plane)

    def restricted(self, plane: str, first: int, end: int) -> WhitenedOperator:
        """Return the operator of some slices of a plane that are apart."""
        part, axis = self.cut(plane, first, end), self.slice_axis(plane)
        part.operator = self.operator.restricted(plane, first, end)
        part.root = self.root if axis is None else self.root.narrow(axis, first, end - first)
        return part

    def measured_geometry(self) -> VolumeGeometry:
        """Return the geometry of a measurement that is an image."""
        return self.operator.measured_geometry()

    def initial(self, y: Tensor) -> Tensor:
        """Return the operator's estimate from the unweighted measurement, with 0 for entries not measured."""
        root = self.root.to(y.real.dtype)
        return self.operator.initial(torch.where(root > 0, y / root.clamp_min(1e-30), torch.zeros_like(y)))

    def _weighted(self, y: Tensor) -> Tensor:
        return y * self.root.to(y.real.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        return self._weighted(self.operator(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(self._weighted(y))
