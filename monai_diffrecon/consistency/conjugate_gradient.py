# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency of the clean estimate by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.consistency._proximity import check_gamma, proximity_weight
from monai_diffrecon.consistency._region import check_region, on_grid
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.axis_filter import along_axis, gaussian_matrix, reach_of
from monai_diffrecon.numerics.conjugate_gradient import (
    by_discrepancy,
    conjugate_gradient,
    conjugate_gradient_from_zero,
)
from monai_diffrecon.numerics.planes import check_plane
from monai_diffrecon.protocols import PLANE_AXIS, ConsistencyStep, NoiseSource, Problem, SamplerState


class ConjugateGradientStep(ConsistencyStep):
    """``argmin_x 1/2 ||A x - y||^2 + gamma/2 ||x - x0||^2``, by a few iterations from x0 (DDS, arXiv 2303.05754).

    With few iterations, x stays near x0 in the null space of the operator, even with gamma = 0.

    The correction ``x - x0`` is a combination of the operator's rows. For thick slices these are boxes, whose edges
    show as seams. With a ``correlation`` L the norm of the correction is that of an error that is smooth along one
    axis, ``gamma/2 ||L^-1 (x - x0)||^2``: ``x = x0 + L u``, and u by conjugate gradients on ``A L``.

    Args:
        iterations: most iterations, 1 or more.
        tolerance: stop when the residual has fallen to this fraction of the first.
        gamma: weight of the clean estimate relative to ``||A^T A||``; ``"auto"``: noise variance over ``sigma^2`` of
            the step, 0 for noiseless data (the variance times ``noise_weight``); ``"discrepancy"``: the weight at
            which the residual is as large as the noise (Morozov), 0 for noiseless data.
        correlation: length (mm; standard deviation of a Gaussian) over which the error of x0 is correlated, 0 for none.
        correlation_plane: plane whose slice axis the correlation follows; None: the plane of the measured thick slices,
            otherwise axial.
        noise_weight: factor of the noise variance for ``"auto"``; DiffPIR's lambda (arXiv 2305.08995, equation 13).
        region: where the data weigh more, ``{"voxels": mask (X, Y, Z), "affine": 4 x 4}``
            (:func:`~monai_diffrecon.load_region`); voxels that are not 0 belong to it.
        region_weight: gamma is divided by it in the region: x0 counts as so many times less certain there, by variance.

    Raises:
        ConfigError: an option out of its range.
    """

    reads_iterate = False
    in_slabs = True

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
    ) -> None:
        self.iterations = check_integer(iterations, "consistency#iterations", low=1)
        self.tolerance = check_number(tolerance, "consistency#tolerance", low=0.0, high=1.0)
        self.gamma = check_gamma(gamma, ("auto", "discrepancy"))
        self.correlation = check_number(correlation, "consistency#correlation", low=0.0)
        where = "consistency#correlation_plane"
        self.correlation_plane = None if correlation_plane is None else check_plane(correlation_plane, where)
        self.noise_weight = check_number(noise_weight, "consistency#noise_weight", low=0.0, open_low=True)
        self.region = check_region(region)
        self.region_weight = check_number(region_weight, "consistency#region_weight", low=0.0, open_low=True)

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem, and back-project its measurement once for all steps."""
        super().bind(problem, noise)
        backprojection = problem.operator.adjoint(problem.measurement)
        self._magnitude = slabs.norm(backprojection)
        # Of thick slices it is made anew in each step, which takes next to no time, and is not kept.
        self._backprojection = None if problem.operator.family == "image" else backprojection
        self._filter, self._reach = None, 0
        self._axis = 1 + PLANE_AXIS[self.correlation_plane or problem.operator.thick_plane or "axial"]
        if self.correlation > 0.0:
            mend = "set consistency#correlation to 0, or reconstruct the volume as a whole"
            slabs.refuse_across(self._axis, "the correlation", "consistency#correlation_plane", mend)
            geometry, axis = problem.operator.geometry, self._axis - 1
            self._filter = gaussian_matrix(geometry.shape[axis], self.correlation / geometry.spacing[axis])
            self._reach = reach_of(self._filter)
        self._doubt: Tensor | None = None
        if self.region is not None:
            inside = on_grid(*self.region, problem.operator.geometry).to(problem.measurement.device)
            self._doubt = torch.where(inside, self.region_weight**0.5, 1.0)
        self._noise_norm = measured_entries(problem) ** 0.5 * problem.noise_std if self.gamma == "discrepancy" else 0.0

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return the clean estimate (C, X, Y, Z) made consistent with the measurement."""
        if self.gamma == "discrepancy":
            return self._as_far_as_the_noise(x0)
        gamma = proximity_weight(self.gamma, self.problem, state.sigma)
        if self.gamma == "auto":
            gamma *= self.noise_weight
        return x0 if math.isinf(gamma) else self._solve(gamma, x0)

    def _solve(self, gamma: float, x0: Tensor) -> Tensor:
        return self._corrected(x0, gamma, self.iterations)[0]

    def _corrected(
        self, x0: Tensor, gamma: float, iterations: int, spread: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``x0 + L S u``, and u, whose ``gamma/2 ||u||^2`` is weighed against the data.

        Args:
            x0: the clean estimate.
            gamma: weight.
            iterations: most iterations.
            spread: S, how much larger the error of x0 is at each voxel than ``gamma`` says, beside the region; None: 1.
            start: of u; None: 0.
        """
        operator, doubt = self.problem.operator, self._doubt
        spread = doubt if spread is None else spread if doubt is None else spread * doubt

        def to_volume(u: Tensor) -> Tensor:
            return self._smooth(u if spread is None else spread * u)

        def from_volume(x: Tensor) -> Tensor:
            return self._smooth(x) if spread is None else spread * self._smooth(x)

        def hessian(u: Tensor) -> Tensor:
            h = from_volume(operator.normal(to_volume(u)))
            return h + gamma * u if gamma else h

        rhs = from_volume(self._back_projected() - operator.normal(x0))
        tolerance, magnitude = self.tolerance, self._magnitude
        if start is None:
            u = conjugate_gradient_from_zero(
                hessian, rhs, iterations=iterations, tolerance=tolerance, magnitude=magnitude
            )
        else:
            u = conjugate_gradient(hessian, rhs, start, iterations=iterations, tolerance=tolerance, magnitude=magnitude)
        return x0 + to_volume(u), u

    def _back_projected(self) -> Tensor:
        kept = self._backprojection
        return self.problem.operator.adjoint(self.problem.measurement) if kept is None else kept

    def _smooth(self, x: Tensor) -> Tensor:
        return x if self._filter is None else along_axis(self._filter, x, self._axis, self._reach)

    def _as_far_as_the_noise(self, x0: Tensor) -> Tensor:
        if self._noise_norm == 0.0:
            return self._solve(0.0, x0)
        operator, y = self.problem.operator, self.problem.measurement
        norm = operator.norm()
        x, _ = by_discrepancy(
            self._solve,
            lambda x: operator.residual_norm(x, y),
            x0,
            target=self._noise_norm,
            low=1e-6 * norm,
            high=1e6 * norm,
        )
        return x


def measured_entries(problem: Problem) -> int:
    """Return how many real numbers were measured: entries that a random volume reaches, two for a complex one."""
    operator, y = problem.operator, problem.measurement
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(operator.volume_shape, generator=generator).to(operator.volume_dtype)
    here = float((operator(probe.to(y.device)) != 0).sum())
    reached = round(here if operator.slabs_add_up else slabs.total(here))
    return 2 * reached if y.is_complex() else reached
