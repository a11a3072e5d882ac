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
        Both parts. Of an operator of complex volumes, the row space is that of real images.
    """

    def normal(z: Tensor) -> Tensor:
        """A^T A on real images, for which a complex operator is real-linear too."""
        acted = operator.normal(z.to(operator.volume_dtype))
        return acted.real if acted.is_complex() else acted

    measured = conjugate_gradient(
        normal, normal(x), torch.zeros_like(x), iterations=_ITERATIONS, tolerance=_TOLERANCE
    ).to(x.dtype)
    return Split(measured, x - measured)
