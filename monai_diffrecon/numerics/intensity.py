# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Maps between physical and network units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.statistics.order_statistics import percentiles
from monai_diffrecon.numerics.statistics.outliers import replace_outliers

#: Voxels above this part of the largest magnitude are foreground.
FOREGROUND = 0.01
#: What outliers are replaced for (:func:`replace_outliers`), and the least change of the scale that they are blamed
#: for: single bright vessels of a clean scan change it less.
_STEP, _BLAME = 0.5, 0.03
#: A lowest value that is this small, relative to the bright ones, is 0; tissue of an image without air may begin there.
_ZERO, _TISSUE = 0.03, 0.3
#: Air is a tenth of the voxels within this part of the range above the lowest, or half of these stand at its lower end.
_BACKGROUND, _SHARE, _SPIKE = 0.05, 0.1, 0.01
#: Without air, 0 is expected so many ranges below the lowest tissue.
_BELOW = 0.25


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
    def percentile(
        cls, volume: Tensor, q: float = 99.5, offset: float = 0.0, *, overwrite: bool = False
    ) -> IntensityMap:
        """Map ``offset`` to 0 and the ``q``-th percentile of the foreground's magnitudes above it to 1.

        Up to 0.1 % of outliers, saturated voxels for instance, do not change the map by more than they would change the
        image's brightness; without them it is exactly the percentile.

        Args:
            volume: (1, X, Y, Z), real or complex, any unit; foreground is what exceeds 1 % of its maximum.
            q: percentile, above 0 and at most 100, interpolated linearly.
            offset: value of no signal.
            overwrite: the volume is not needed any more, to save memory.

        Raises:
            ConfigError: no such percentile.
            InputError: no foreground, or voxels that are not finite.
        """
        if not 0 < q <= 100:
            raise ConfigError("no such percentile", where="intensity#q", expected="above 0, at most 100", got=q)
        given = volume.detach().as_subclass(Tensor)
        difference = given.sub_(offset) if overwrite else given - offset
        magnitude = difference.abs() if difference.is_complex() else difference.abs_()
        del difference
        largest = float(magnitude.max()) if magnitude.numel() else 0.0
        if not np.isfinite(largest):  # as is that of NaN
            raise InputError("voxels that are not finite", where="intensity")
        if largest == 0.0:
            raise InputError(
                "no foreground to scale by",
                where="intensity",
                expected="voxels other than zero",
                mend="check that the measurement is not empty",
            )
        scale = _foreground_percentile(magnitude, q)
        clean = replace_outliers(magnitude, 2, _STEP, in_place=True)[0] if magnitude.ndim == 4 else magnitude
        robust = _foreground_percentile(clean, q)
        return cls(scale=robust if scale > (1 + _BLAME) * robust > 0.0 else scale, offset=offset)

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


def image_offset(image: Tensor) -> float:
    """Return the value of an image of magnitudes that stands for no signal; 0 for images as scanners make them.

    Images that were shifted or normalized (``a x + b``) have another one: the lowest value of their background, or
    somewhat less than the lowest tissue of an image without one.

    Args:
        image: (1, X, Y, Z), real, without outliers.
    """
    array = image.detach().as_subclass(Tensor).cpu().numpy()
    array = image.detach().as_subclass(Tensor).cpu().numpy()
    low, high = (float(v) for v in np.percentile(array, (0.1, 99.5)))
    if high > 0.0 and abs(low) <= _ZERO * high:
        return 0.0
    dark, darkest = (float((array <= low + part * (high - low)).mean()) for part in (_BACKGROUND, _SPIKE))
    if dark >= _SHARE or darkest >= max(0.5 * dark, 0.2 * _SHARE):
        return low
    return 0.0 if 0.0 < low <= _TISSUE * high else low - _BELOW * (high - low)


def looks_like_hounsfield(image: Tensor) -> bool:
    """Say whether the values of an image are those of CT: air near -1000, and more than half of the rest near 0.

    Args:
        image: any shape, real.
    """
    air = ((image > -1100.0) & (image < -900.0)).float().mean()
    array = image.detach().as_subclass(Tensor).cpu().numpy()
    rest = torch.from_numpy(array[array > -700.0])  # with torch the choice would take eight images of indices
    return bool(air > 0.02) and bool(rest.numel()) and bool((rest.abs() < 150.0).float().mean() > 0.5)


def _foreground_percentile(magnitude: Tensor, q: float) -> float:
    return next(iter(percentiles(magnitude, [q], above=float(FOREGROUND * magnitude.max()))), 0.0)
