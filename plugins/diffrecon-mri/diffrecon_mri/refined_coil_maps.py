# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Data consistency that fits the coil maps anew to each estimate of the image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, Operator, Problem, SamplerState


class RefinedCoilMaps(ConsistencyStep):
    """Another consistency step, with coil maps that are fitted anew to what it returns, slice by slice.

    Few calibration lines give poor maps, but all measured lines see them (JSENSE: Ying and Sheng 2007, doi
    10.1002/mrm.21245, there with polynomials, and an image without a prior). For a slice x and the measurement y_c of
    coil c, the map is ``S_c = B u_c`` with cosines B that need not be periodic, and ``u_c`` is the minimum of
    ``||E (x S_c) - y_c||^2 + smoothness mean|x|^2 sum_k |k|^2 |u_ck|^2``, E being the encoding of a single coil. All
    maps are then divided by their root sum of squares, so that the image keeps its scale. What the coils have in common
    in phase cannot be told from the image's own, and may move from one to the other.

    Args:
        step: the consistency step; one that corrects the clean estimate and nothing else.
        order: cosines along X and Y, 2 or more: a map turns about ``order / 2`` times across the field of view.
        smoothness: weight of the frequencies.
        iterations: conjugate gradients of each fit, which starts from the one before.

    Raises:
        ConfigError: an option out of its range, or a step that does more.
    """

    API_VERSION: ClassVar[int] = 1
    plugin_options: ClassVar[dict[str, str]] = {"step": "consistency"}
    reads_iterate = False

    def __init__(self, step: ConsistencyStep, *, order: int = 8, smoothness: float = 4e-4, iterations: int = 6) -> None:
        others = ("on_iterate", "guidance", "on_result")
        more = [hook for hook in others if getattr(type(step), hook, None) is not getattr(ConsistencyStep, hook)]
        if not isinstance(step, ConsistencyStep) or more:
            raise ConfigError(
                "not a step on the clean estimate",
                where="consistency#step",
                expected="one such as conjugate_gradient or admm",
                got=", ".join([type(step).__name__, *more]),
            )
        self.step = step
        self.order = check_integer(order, "consistency#order", low=2)
        self.smoothness = check_number(smoothness, "consistency#smoothness", low=0.0, open_low=True)
        self.iterations = check_integer(iterations, "consistency#iterations", low=1)

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem, with the maps to start from.

        Raises:
            ConfigError: not a complex volume that several coils measure slice by slice, or a weighted measurement.
        """
        super().bind(problem, noise)
        self._given, operator = problem, problem.operator
        maps, plane = getattr(operator, "coil_maps", None), operator.slice_plane
        if maps is None or plane != "axial" or not operator.complex_volume:
            raise ConfigError(
                "no coil maps to refine",
                where=f"consistency {type(self).__name__}",
                expected="axial slices of a complex volume, measured by several coils, all entries weighted alike",
                mend="take the step itself",
            )
        self.step.bind(problem, noise)
        self._encoding = _with_maps(operator, None)
        self._images = torch.cat([self._encoding.adjoint(y) for y in problem.measurement.split(1)])
        self._cosines = [_cosines(n, self.order).to(maps) for n in operator.geometry.shape[:2]]
        kx, ky = (torch.arange(basis.shape[1], device=maps.device) for basis in self._cosines)
        self._roughness = (kx[:, None].square() + ky.square())[None, :, :, None] * self.smoothness

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return the clean estimate (1, X, Y, Z) made consistent; the maps' cosines go to ``state.memory``."""
        before, operator = state.memory.get("coil_maps"), self._given.operator
        if before is None:
            cosines = self._cosines_of(operator.get_buffer("coil_maps"))
        else:
            cosines = before["cosines"]
            operator = _with_maps(operator, self._maps(cosines))
        self._problem = replace(self._given, operator=operator)
        self.step.bind(self._problem, self.noise)
        x = self.step.on_estimate(x0, state)
        state.memory["coil_maps"] = {"cosines": self._fitted(x, cosines)}
        return x

    def _fitted(self, x: Tensor, start: Tensor) -> Tensor:
        """Return the coefficients (coils, order, order, Z) of the maps that explain the measurement of x."""
        penalty = self._roughness * x.abs().square().mean()

        def hessian(u: Tensor) -> Tensor:
            seen = [self._encoding.normal(x * part) for part in self._expanded(u).split(1)]
            return self._cosines_of(x.conj() * torch.cat(seen)) + penalty * u

        return conjugate_gradient(
            hessian, self._cosines_of(x.conj() * self._images), start, iterations=self.iterations, tolerance=1e-3
        )

    def _maps(self, u: Tensor) -> Tensor:
        maps = self._expanded(u)
        return maps / maps.abs().square().sum(0).sqrt().clamp_min(1e-12)

    def _expanded(self, u: Tensor) -> Tensor:
        return torch.einsum("xa,yb,cabz->cxyz", *self._cosines, u)

    def _cosines_of(self, images: Tensor) -> Tensor:
        return torch.einsum("xa,yb,cxyz->cabz", *self._cosines, images)


def _with_maps(operator: Operator, maps: Tensor | None) -> Operator:
    """Return a copy of an operator of axial slices with other coil maps; None is a single coil of sensitivity 1."""
    other = operator.restricted("axial", 0, operator.geometry.shape[2])
    other.register_buffer("coil_maps", maps)
    if maps is None:
        other.measurement_shape = (1, *operator.measurement_shape[1:])
    return other


def _cosines(n: int, order: int) -> Tensor:
    """Return the first orthonormal cosines (n, at most order) of the discrete cosine transform (DCT-II)."""
    k = torch.arange(min(order, n), dtype=torch.float64)
    waves = torch.cos(math.pi * k * (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n)
    return (waves / waves.norm(dim=0)).float()
