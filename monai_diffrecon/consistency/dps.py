# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Guidance by the gradient of the residual through the network."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.option_checks import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.planes import check_plane, planes_across
from monai_diffrecon.numerics.slice_batches import SPLITS, batches, slice_norms
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, Problem, SamplerState

#: Suffix of the noise stream from which the measurement is noised.
_STREAM = "-measurement"


class DPSStep(ConsistencyStep):
    """``x <- x - zeta grad_x sum_b ||A D(x, sigma) - y||_b / ||A||``: diffusion posterior sampling, as TPDM uses it.

    The norms b are those of single slices, or of batches of slices as published, not squared (DPS: Chung et al. 2023,
    arXiv 2209.14687, algorithm 1; TPDM: arXiv 2303.08440, section 4). The gradient runs through the network, which
    costs about three times a call without it.

    Args:
        zeta: weight. With one norm a slice it is the published weight over the root of the published batch size, 6.
        relative: divide the residual by ``||A||``, so that zeta does not depend on the size of the image or the
            scale of the operator; False reproduces published weights.
        norm: one norm a ``slice``, a ``batch`` (published), or of the whole ``volume``. An operator that couples the
            slices of the guided plane has one norm in any case.
        batch_size: slices a batch.
        split: how slices are split into batches, ``near_equal`` (TPDM) or ``floor_plus_one``.
        plane: guide only at steps whose network is of this plane; None: at all steps; ``"auto"``: of the planes across
            the thick slices that were measured, where there are any.
        noised_measurement: compare with a measurement that carries noise of the step's level (TPDM's thick slices).

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        zeta: float = 1.0,
        *,
        relative: bool = True,
        norm: str = "slice",
        batch_size: int = 6,
        split: str = "near_equal",
        plane: str | None = None,
        noised_measurement: bool = False,
    ) -> None:
        self.zeta = check_number(zeta, "consistency#zeta", low=0.0)
        self.relative = check_flag(relative, "consistency#relative")
        self.norm = check_choice(norm, "consistency#norm", ("slice", "batch", "volume"))
        self.batch_size = check_integer(batch_size, "consistency#batch_size", low=1)
        self.split = check_choice(split, "consistency#split", SPLITS)
        self.plane = plane if plane in (None, "auto") else check_plane(str(plane), "consistency#plane")
        self._guided: tuple[str, ...] | None = None if self.plane in (None, "auto") else (str(plane),)
        self.noised_measurement = check_flag(noised_measurement, "consistency#noised_measurement")

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem and the noise source.

        Raises:
            ConfigError: the measurement is to be noised without a noise source.
        """
        super().bind(problem, noise)
        thick = problem.operator.thick_plane
        if self.plane == "auto":
            self._guided = None if thick is None else planes_across(thick)
        if self.noised_measurement and noise is None:
            raise ConfigError(
                "needs a noise source", where="consistency#noised_measurement", mend="bind(problem, noise)"
            )
        norm = problem.operator.norm() if self.relative else 1.0
        self._weight = norm**-0.5 if norm > 0.0 else 1.0  # nothing is measured: nothing to divide

    def draws(self, stage: str, plane: str) -> tuple[str, ...]:
        """Return the noise streams that ``guidance`` draws from after the update ``stage``."""
        return (stage + _STREAM,) if self.noised_measurement and (self._guided is None or plane in self._guided) else ()

    def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor | None:
        """Return what to subtract from the iterate (C, X, Y, Z).

        Args:
            x: the iterate; requires a gradient.
            x0: its clean estimate, a function of x.
            state: the state at this level.
        """
        if self._guided is not None and state.plane and state.plane not in self._guided:
            return None
        operator = self.problem.operator
        target = self.problem.measurement
        if self.noised_measurement:
            target = target + state.sigma * operator.norm() ** 0.5 * self._noise(x0, state)
        residual = operator(x0) - target
        axis = operator.slice_axis(state.plane or operator.slice_plane or "axial")
        if axis is None or self.norm == "volume":
            loss = torch.linalg.vector_norm(residual)
        else:
            slices = residual.movedim(axis, 0)
            groups = batches(len(slices), 1 if self.norm == "slice" else self.batch_size, self.split)
            of_slices = slice_norms(slices)
            if self.norm == "slice":
                loss = of_slices.sum()
            else:
                loss = torch.stack([torch.linalg.vector_norm(of_slices[a:b]) for a, b in groups]).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        return self.zeta * self._weight * gradient

    def _noise(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return unit noise of the measurement's shape.

        Where the measurement is a coarser grid of the volume it takes the volume's noise at the first voxel of each
        coarse one, so that slices stay independent whatever the number of them.
        """
        assert self.noise is not None
        y, shape, stream = self.problem.measurement, tuple(x0.shape), state.stage + _STREAM
        fine, coarse = self.problem.operator.geometry.spacing, self.problem.operator.measured_geometry().spacing
        ratios = (1, *(max(1, round(c / f)) for c, f in zip(coarse, fine, strict=True)))
        if y.ndim == x0.ndim and all((m - 1) * r < n for m, r, n in zip(y.shape, ratios, shape, strict=True)):
            n = self.noise.volume(shape, state.step, stream=stream, dtype=y.dtype)
            every = tuple(slice(0, (m - 1) * r + 1, r) for m, r in zip(y.shape, ratios, strict=True))
            return n[every].to(y.device)
        return self.noise.volume(tuple(y.shape), state.step, stream=stream, dtype=y.dtype).to(y.device)
