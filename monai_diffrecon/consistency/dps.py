# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Guidance by the gradient of the residual through the network."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.planes import SPLITS, batches, check_plane, planes_across, slice_norms
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, Problem, SamplerState


class DPSStep(ConsistencyStep):
    """``x <- x - zeta grad_x sum_b ||A D(x, sigma) - y||_b / ||A||``: diffusion posterior sampling, as TPDM uses it.

    The norms b are those of single slices, or of batches of slices as published, not squared (DPS: Chung et al. 2023,
    arXiv 2209.14687, algorithm 1; TPDM: arXiv 2303.08440, section 4). The gradient runs through the network, which
    costs about three times as much as a plain call.

    Args:
        zeta: weight. With one norm per slice, the published weight divided by the root of the published batch size, 6.
        relative: divide the residual by ``||A||``, so that zeta does not depend on the size of the image or the
            scale of the operator; False reproduces published weights.
        norm: one norm per ``slice``, per ``batch`` (published), or for the whole ``volume``. An operator that couples
            the slices of the guided plane always has a single norm.
        batch_size: slices per batch.
        split: how slices are split into batches, ``near_equal`` (TPDM) or ``floor_plus_one``.
        plane: guide only at steps whose network is of this plane; None: at all steps; ``"auto"``: of the planes across
            the thick slices that were measured, where there are any.

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
    ) -> None:
        self.zeta = check_number(zeta, "consistency#zeta", low=0.0)
        self.relative = check_flag(relative, "consistency#relative")
        self.norm = check_choice(norm, "consistency#norm", ("slice", "batch", "volume"))
        self.batch_size = check_integer(batch_size, "consistency#batch_size", low=1)
        self.split = check_choice(split, "consistency#split", SPLITS)
        self.plane = plane if plane in (None, "auto") else check_plane(str(plane), "consistency#plane")
        self._guided: tuple[str, ...] | None = None if self.plane in (None, "auto") else (str(plane),)

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem and the noise source."""
        super().bind(problem, noise)
        thick = problem.operator.thick_plane
        if self.plane == "auto":
            self._guided = None if thick is None else planes_across(thick)
        norm = problem.operator.norm() if self.relative else 1.0
        self._weight = norm**-0.5 if norm > 0.0 else 1.0  # nothing is measured: nothing to divide

    def guides(self, plane: str) -> bool:
        """Say whether steps whose network is of a plane are guided."""
        return self._guided is None or plane in self._guided

    def target(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return what the prediction of a clean estimate is compared with."""
        return self.problem.measurement

    def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor | None:
        """Return what to subtract from the iterate (C, X, Y, Z).

        Args:
            x: the iterate; requires a gradient.
            x0: its clean estimate, a function of x.
            state: the state at this level.
        """
        if state.plane and not self.guides(state.plane):
            return None
        operator = self.problem.operator
        residual = operator(x0) - self.target(x0, state)
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
