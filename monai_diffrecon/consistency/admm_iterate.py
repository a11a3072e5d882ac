# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DiffusionMBIR's data consistency: ADMM on the noisy iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from monai_diffrecon import slabs
from monai_diffrecon.consistency._regularizers import checked_regularizers, update_duals, with_pull
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_flag, check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, Problem, Regularizer, SamplerState


class ADMMIterateStep(ConsistencyStep):
    """One ADMM iteration with one conjugate-gradient step on the noisy iterate (DiffusionMBIR, arXiv 2211.10655).

    ``x`` moves from the iterate towards the solution of ``(B A + rho K^T K) x = B y + rho K^T (z - w)``, then
    ``z = prox(K x + w)`` and ``w += K x - z`` (algorithm 1). z and w start at 0 and persist over all steps: the
    sampler's steps are ADMM's iterations. B is the adjoint, or the published back-projection.

    The method needs thousands of small steps, because z depends on the noisier previous iterate. For few steps
    use ``admm``, which acts on the clean estimate.

    Args:
        regularizers: the penalties; ``z_tv`` in the paper. The threshold of each is the paper's lambda / rho.
        rho: relative to ``||B A||``, above 0; the paper's 10 for CT of 256 pixels and 8 views is 0.026.
        absolute_rho: rho is not relative (reproduction).
        back_projection: ``adjoint``, or ``published``: the operator's ``back_projection``.
        iterations: ADMM iterations a step, 1 or more.
        cg_iterations: conjugate-gradient steps for each x, 1 or more.
        final_sirt: after the last step, add ``B (y - A x) / (B A 1)`` once (published for CT).

    Raises:
        ConfigError: an option out of its range, or a value that is not a regularizer.
    """

    plugin_options: ClassVar[dict[str, str]] = {"regularizers": "regularizers"}
    in_slabs = True

    def __init__(
        self,
        regularizers: Sequence[Regularizer] | Regularizer | None = (),
        *,
        rho: float = 0.026,
        absolute_rho: bool = False,
        back_projection: str = "adjoint",
        iterations: int = 1,
        cg_iterations: int = 1,
        final_sirt: bool = False,
    ) -> None:
        self.regularizers = checked_regularizers(regularizers)
        self.rho = check_number(rho, "consistency#rho", low=0.0, open_low=True)
        self.absolute_rho = check_flag(absolute_rho, "consistency#absolute_rho")
        self.back_projection = check_choice(back_projection, "consistency#back_projection", ("adjoint", "published"))
        self.iterations = check_integer(iterations, "consistency#iterations", low=1)
        self.cg_iterations = check_integer(cg_iterations, "consistency#cg_iterations", low=1)
        self.final_sirt = check_flag(final_sirt, "consistency#final_sirt")

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem, back-project its measurement once, and tell the regularizers the geometry.

        Raises:
            ConfigError: the operator has no published back-projection, or a final SIRT step of a complex volume.
        """
        super().bind(problem, noise)
        operator = problem.operator
        back = operator.adjoint if self.back_projection == "adjoint" else getattr(operator, "back_projection", None)
        if back is None:
            raise ConfigError(
                "the operator has no published back-projection",
                where="consistency#back_projection",
                expected="adjoint",
                got="published",
                mend='use the operator "rotation_ct" of diffrecon-published, or back_projection "adjoint"',
            )
        if self.final_sirt and operator.complex_volume:
            raise ConfigError(
                "SIRT's weights are undefined for a complex volume",
                where="consistency#final_sirt",
                expected="false",
                got="true",
            )
        self._back: Callable[[Tensor], Tensor] = back
        for regularizer in self.regularizers:
            regularizer.bind(operator.geometry)
        self._backprojection = self._back(problem.measurement)
        self._rho = self.rho if self.absolute_rho else self.rho * operator.norm() * self._scale()

    def on_iterate(self, x: Tensor, state: SamplerState) -> Tensor:
        """Return the iterate (C, X, Y, Z) after ADMM; z and w go to ``state.memory``."""
        memory = dict(state.memory.get(self.memory_key, {}))
        for _ in range(self.iterations):
            rhs = with_pull(self._backprojection, self.regularizers, memory, self._rho)
            x = conjugate_gradient(self._hessian, rhs, x, iterations=self.cg_iterations, tolerance=0.0)
            update_duals(x, self.regularizers, memory)
        if memory:
            state.memory[self.memory_key] = memory
        return x

    def on_result(self, x: Tensor, state: SamplerState) -> Tensor:
        """Return the result after the final SIRT step, if there is one."""
        if not self.final_sirt:
            return x
        operator = self.problem.operator
        weight = self._back(operator(torch.ones_like(x)))
        seen = weight.abs() > 1e-12 * slabs.largest(float(weight.abs().max()))
        correction = self._back(self.problem.measurement - operator(x))
        return torch.where(seen, x + correction / torch.where(seen, weight, torch.ones_like(weight)), x)

    def _hessian(self, x: Tensor) -> Tensor:
        operator = self.problem.operator
        h = operator.normal(x) if self.back_projection == "adjoint" else self._back(operator(x))
        for regularizer in self.regularizers:
            h = h + self._rho * regularizer.adjoint(regularizer.transform(x))
        return h

    def _scale(self) -> float:
        """Return how much smaller B is than the adjoint."""
        if self.back_projection == "adjoint":
            return 1.0
        y = self.problem.operator(torch.ones(self.problem.operator.volume_shape).to(self._backprojection))
        adjoint = self.problem.operator.adjoint(y)
        return slabs.norm(self._back(y)) / slabs.norm(adjoint)
