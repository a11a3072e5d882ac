# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency whose result the measurement contradicts nowhere by more than its noise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.axis_filter import gaussian_mean
from monai_diffrecon.protocols import SamplerState

logger = logging.getLogger(__name__)

#: Full width at half maximum of a Gaussian, in standard deviations.
_FWHM = 2.3548
#: Measurements of pure noise from which its back-projection is estimated, and over how many mm (FWHM) it is averaged.
_DRAWS, _AVERAGED = 4, 40.0
#: Most rounds in which x0 is trusted less, and how many times its error may grow.
_ROUNDS, _MOST = 12, 100.0
#: Part of the bound that each round aims at, since a round closes a part of the distance only.
_AIM = 0.75


class ConservativeStep(ConjugateGradientStep):
    """``conjugate_gradient``, and a result that the measurement contradicts nowhere by more than ``bound`` deviations.

    The last step of a sampler ends with a network, whose error is not white: it lacks lesions. After it, the volume x0
    is corrected to ``argmin_x ||A x - y||^2 / (2 s^2) + sum_r (x - x0)^2 / (2 t(r)^2)`` with the noise s of the
    measurement and the error t of x0, at first ``error`` everywhere. Then the residual is back-projected and averaged
    over a lesion, ``z(r) = (G A^T (y - A x))(r) / std((G A^T n)(r))`` with noise n. Where ``|z| > bound``, x0 is wrong
    by more than t, which grows there in proportion to ``|z|``, until ``|z| <= bound`` everywhere: a multiresolution
    criterion of one scale (Frick, Marnitz and Munk 2012, doi 10.1214/12-EJS671).

    For any least-squares estimate c, ``A^T (A x - y) = A^T A (x - c)``: it is the change from the classical estimate,
    as far as the measurement determines it, that is bounded. Noiseless data are fitted.

    Args:
        iterations: as of ``conjugate_gradient``, for the steps of the sampler.
        tolerance: as there.
        gamma: as there.
        correlation: as there.
        correlation_plane: as there.
        noise_weight: as there.
        region: as there; the result is corrected with its weight too.
        region_weight: as there.
        bound: largest ``|z|``, in standard deviations of the noise, above 0.
        size: diameter of the smallest lesion to be kept (mm), full width at half maximum of G; 0 for single voxels.
        error: standard deviation of the error of x0 where nothing contradicts it, in network units, above 0.
        final_iterations: most iterations of each correction of the result.

    Raises:
        ConfigError: an option out of its range.
    """

    in_slabs = True
    reads_iterate = False

    def __init__(
        self,
        iterations: int = 5,
        *,
        tolerance: float = 1e-3,
        gamma: float | str = "auto",
        noise_weight: float = 1.0,
        correlation: float = 0.0,
        correlation_plane: str | None = None,
        region: Mapping[str, Any] | None = None,
        region_weight: float = 10.0,
        bound: float = 0.8,
        size: float = 3.0,
        error: float = 0.002,
        final_iterations: int = 12,
    ) -> None:
        super().__init__(
            iterations,
            tolerance=tolerance,
            gamma=gamma,
            noise_weight=noise_weight,
            correlation=correlation,
            correlation_plane=correlation_plane,
            region=region,
            region_weight=region_weight,
        )
        self.bound = check_number(bound, "consistency#bound", low=0.0, open_low=True)
        self.size = check_number(size, "consistency#size", low=0.0)
        self.error = check_number(error, "consistency#error", low=0.0, open_low=True)
        self.final_iterations = check_integer(final_iterations, "consistency#final_iterations", low=1)

    def on_result(self, x: Tensor, state: SamplerState) -> Tensor:
        """Return the result (C, X, Y, Z), corrected where the measurement contradicts it."""
        noise_std = self.problem.noise_std
        if noise_std == 0.0:
            return self._corrected(x, 0.0, self.final_iterations)[0]
        deviation = noise_std * self._noise_of_backprojection()
        gamma, spread = (noise_std / self.error) ** 2, torch.ones_like(deviation)
        corrected, u = self._corrected(x, gamma, self.final_iterations, spread)
        for remaining in reversed(range(_ROUNDS + 1)):
            z = self._backprojected_residual(corrected).abs().div_(deviation)
            largest = slabs.largest(float(z.max()))
            if largest <= self.bound:
                break
            if not remaining:
                logger.warning(
                    f"the measurement contradicts the result by up to {largest:.2g} standard deviations of its noise, "
                    f"more than the bound of {self.bound:g}"
                )
                break
            before, spread = spread, (spread * z.div_(_AIM * self.bound).clamp_(min=1.0)).clamp_(max=_MOST)
            corrected, u = self._corrected(x, gamma, self.final_iterations, spread, u * (before / spread))
        return corrected

    def _backprojected_residual(self, x: Tensor) -> Tensor:
        return self._averaged(self._back_projected() - self.problem.operator.normal(x), self.size)

    def _noise_of_backprojection(self) -> Tensor:
        """Return the standard deviation of ``G A^T n``, (C, X, Y, Z), for noise n of unit variance."""
        operator, y = self.problem.operator, self.problem.measurement
        total: Tensor | None = None
        for index in range(_DRAWS):
            n = self._unit_noise(index, y).to(y)
            square = self._averaged(operator.adjoint(n), self.size).abs().square()
            total = square if total is None else total + square
        assert total is not None
        variance = self._averaged(total / _DRAWS, _AVERAGED)
        # Voxels that nothing measures have no residual either.
        return variance.sqrt().clamp_(min=1e-30)

    def _unit_noise(self, index: int, y: Tensor) -> Tensor:
        shape = tuple(y.shape)
        if self.noise is not None:
            return self.noise.measurement(shape, index, stream="bound", dtype=y.dtype)
        generator = torch.Generator().manual_seed(index)
        parts = torch.randn((2, *shape) if y.is_complex() else shape, generator=generator, dtype=y.real.dtype)
        return torch.complex(parts[0], parts[1]) if y.is_complex() else parts

    def _averaged(self, x: Tensor, width: float) -> Tensor:
        if width == 0.0:
            return x
        for axis, spacing in enumerate(self.problem.operator.geometry.spacing):
            x = _mean_along(x, width / _FWHM / spacing, axis + 1)
        return x


def _mean_along(x: Tensor, width: float, axis: int) -> Tensor:
    if not x.is_complex():
        return gaussian_mean(x, width, axis)
    return torch.complex(gaussian_mean(x.real, width, axis), gaussian_mean(x.imag, width, axis))
