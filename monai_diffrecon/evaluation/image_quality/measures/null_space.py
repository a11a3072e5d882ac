# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The part of an error that the measurement determines, and the part that it leaves open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.protocols import Operator

#: Conjugate gradients stop at this part of the first residual: singular values below count as not measured.
_TOLERANCE, _ITERATIONS = 1e-4, 300


@dataclass(frozen=True)
class Split:
    """An image as the sum of two.

    Attributes:
        measured: (1, X, Y, Z), in the row space of the operator: a wrong answer to what was asked.
        null: (1, X, Y, Z), in its null space: what nothing was asked about, and the method chose.
    """

    measured: Tensor
    null: Tensor

    @property
    def null_energy(self) -> float:
        """Share of the squared error that lies in the null space; NaN without an error."""
        one, zero = (float(torch.linalg.vector_norm(part)) ** 2 for part in (self.null, self.measured))
        return one / (one + zero) if one + zero > 0 else float("nan")


def split_by_operator(x: Tensor, operator: Operator) -> Split:
    """Return ``A^+ A x`` and the rest (Barrett and Myers, Foundations of Image Science, 2004, ch. 1.7).

    ``A^+ A x`` is the limit of conjugate gradients for ``A^T A z = A^T A x`` from zero, which never leave the row
    space. Directions that are measured very weakly converge last and count as null space.

    Args:
        x: (1, X, Y, Z), real: an error, or a lesion.
        operator: the forward operator A.

    Returns:
        Both parts, of the real part where the operator's volumes are complex.
    """
    acted = x.to(operator.volume_dtype)
    rhs = operator.normal(acted)
    measured = conjugate_gradient(
        operator.normal, rhs, torch.zeros_like(acted), iterations=_ITERATIONS, tolerance=_TOLERANCE
    )
    plain = measured.real if measured.is_complex() else measured
    return Split(plain.to(x.dtype), x - plain.to(x.dtype))
