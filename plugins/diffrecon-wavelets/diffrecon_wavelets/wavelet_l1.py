# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Sparsity in an orthogonal wavelet basis."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diffrecon_wavelets.orthogonal_wavelets import (
    approximation_box,
    forward,
    inverse,
    orthogonal_wavelet,
    padded_shape,
)
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.numerics.finite_differences import soft_threshold
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS, Regularizer, VolumeGeometry


class WaveletL1(Regularizer):
    """The l1 norm of the wavelet coefficients: few coefficients describe a natural image.

    ``K = W P``: P pads the volume with zeros to a multiple of ``2 ** level``, W is an orthogonal wavelet
    transform. So ``K^T K = I`` for a volume of any size, and the adjoint is exact. (Donoho and Johnstone 1994,
    doi 10.1093/biomet/81.3.425; as a prior of compressed-sensing MRI, Lustig et al. 2007, doi 10.1002/mrm.21391.)
    Computed on the CPU by PyWavelets; no gradients run through it.

    Args:
        threshold: shrinkage of one ADMM iteration, in intensity units (network units), 0 or more.
        wavelet: an orthogonal wavelet of PyWavelets: ``haar``, ``db2``, ``sym4``, ``coif1``, ...
        level: number of decompositions, 1 or more.
        plane: transform each slice of this plane in two dimensions; None transforms all three axes.
        keep_approximation: leave the coarsest approximation, which is not sparse, out of the penalty.

    Raises:
        ConfigError: an option out of its range.
    """

    API_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        threshold: float = 0.01,
        *,
        wavelet: str = "db2",
        level: int = 2,
        plane: str | None = None,
        keep_approximation: bool = True,
    ) -> None:
        if not threshold >= 0.0:
            raise ConfigError("wrong threshold", where="wavelet_l1#threshold", expected="0 or more", got=threshold)
        if isinstance(level, bool) or not isinstance(level, int) or level < 1:
            raise ConfigError("wrong level", where="wavelet_l1#level", expected="an integer from 1", got=repr(level))
        skipped = None if plane is None else PLANE_AXIS[check_plane(plane, "wavelet_l1#plane")]
        self.threshold = float(threshold)
        self.wavelet = orthogonal_wavelet(wavelet, "wavelet_l1#wavelet")
        self.level = level
        self.keep_approximation = check_flag(keep_approximation, "wavelet_l1#keep_approximation")
        # Axis 0 is the channel.
        self._axes = tuple(axis + 1 for axis in range(3) if axis != skipped)
        self._shape: tuple[int, int, int] | None = None

    def bind(self, geometry: VolumeGeometry) -> None:
        """Learn the shape of the volume."""
        self._shape = geometry.shape

    def transform(self, x: Tensor) -> Tensor:
        """Return the coefficients W P x, (C, X', Y', Z') with each size rounded up to ``2 ** level``."""
        shape = self._bound_shape()
        _check_shape(x, shape, "volume")
        padded = x.new_zeros((x.shape[0], *self._padded(shape)))
        padded[:, : shape[0], : shape[1], : shape[2]] = x
        coefficients = forward(padded.detach().cpu().numpy(), self.wavelet, self._axes, self.level)
        return torch.from_numpy(coefficients).to(x.device)

    def adjoint(self, v: Tensor) -> Tensor:
        """Return ``P^T W^T v``, a volume (C, X, Y, Z)."""
        shape = self._bound_shape()
        _check_shape(v, self._padded(shape), "coefficients")
        padded = inverse(v.detach().cpu().numpy(), self.wavelet, self._axes, self.level)
        return torch.from_numpy(padded[:, : shape[0], : shape[1], : shape[2]].copy()).to(v.device)

    def prox(self, v: Tensor, step: float) -> Tensor:
        """Shrink the coefficients (C, X', Y', Z') by ``step``; the approximation stays if so asked."""
        shrunk = soft_threshold(v, step)
        if self.keep_approximation:
            box = approximation_box(v.shape, self._axes, self.level)
            shrunk[box] = v[box]
        return shrunk

    def penalty(self, x: Tensor) -> float:
        """Return the l1 norm of the penalized coefficients of a volume (C, X, Y, Z)."""
        coefficients = self.transform(x)
        if self.keep_approximation:
            coefficients[approximation_box(coefficients.shape, self._axes, self.level)] = 0
        return float(coefficients.abs().sum())

    def _bound_shape(self) -> tuple[int, int, int]:
        if self._shape is None:
            raise ConfigError("used before bind(geometry)", where="wavelet_l1")
        return self._shape

    def _padded(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return padded_shape((1, *shape), self._axes, self.level)[1:]


def _check_shape(x: Tensor, shape: tuple[int, ...], what: str) -> None:
    if tuple(x.shape[1:]) != tuple(shape):
        raise InputError(f"{what} has the wrong shape", where="wavelet_l1", expected=("C", *shape), got=tuple(x.shape))
