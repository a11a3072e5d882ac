# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Maps between physical and network units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError

#: Voxels above this part of the largest magnitude are foreground.
FOREGROUND = 0.01


@dataclass(frozen=True)
class IntensityMap:
    """The affine map ``physical = scale * network + offset``.

    Affine, so that a linear operator commutes with it up to the image of a constant.

    Attributes:
        scale: physical units of one network unit, above 0.
        offset: physical value of network zero.
    """

    scale: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.offset) and self.scale > 0):
            raise ConfigError(
                "not an intensity map",
                where="intensity",
                expected="a finite scale above 0 and a finite offset",
                got=f"scale {self.scale:g}, offset {self.offset:g}",
            )

    @classmethod
    def window(cls, low: float, high: float) -> IntensityMap:
        """Map ``low`` to 0 and ``high`` to 1, Hounsfield units for instance; values outside stay outside."""
        if not low < high:
            raise ConfigError("an empty window", where="intensity", expected="low < high", got=f"{low:g}, {high:g}")
        return cls(scale=float(high) - float(low), offset=float(low))

    @classmethod
    def percentile(cls, volume: Tensor, q: float = 99.5) -> IntensityMap:
        """Map 0 to 0 and the ``q``-th percentile of the foreground's magnitudes to 1.

        Args:
            volume: (C, X, Y, Z), real or complex, any unit; foreground is what exceeds 1 % of its maximum.
            q: percentile, above 0 and at most 100, interpolated linearly.

        Raises:
            ConfigError: no such percentile.
            InputError: no foreground, or voxels that are not finite.
        """
        if not 0 < q <= 100:
            raise ConfigError("no such percentile", where="intensity#q", expected="above 0, at most 100", got=q)
        magnitude = volume.detach().as_subclass(Tensor).abs()
        largest = float(magnitude.max()) if magnitude.numel() else 0.0
        if not np.isfinite(largest) or not bool(torch.isfinite(magnitude).all()):
            raise InputError("voxels that are not finite", where="intensity")
        if largest == 0.0:
            raise InputError(
                "no foreground to scale by",
                where="intensity",
                expected="voxels other than zero",
                mend="check that the measurement is not empty",
            )
        # torch.quantile takes no more than 2^24 elements.
        foreground = magnitude[magnitude > FOREGROUND * largest].double().cpu().numpy()
        return cls(scale=float(np.percentile(foreground, q)))

    def then(self, outer: IntensityMap) -> IntensityMap:
        """Return the map that applies this one and then ``outer``: network to one unit to another."""
        return IntensityMap(scale=self.scale * outer.scale, offset=outer.scale * self.offset + outer.offset)

    def inverse(self) -> IntensityMap:
        """Return the map from physical to network units."""
        return IntensityMap(scale=1.0 / self.scale, offset=-self.offset / self.scale)

    def to_network(self, x: Tensor) -> Tensor:
        """Return physical values in network units."""
        return (x - self.offset) / self.scale

    def to_physical(self, x: Tensor) -> Tensor:
        """Return network values in physical units."""
        return x * self.scale + self.offset
