# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How wrong a classical reconstruction is, without the truth."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def bootstrap_error(
    reconstruct: Callable[[Tensor], Tensor],
    simulate: Callable[[Tensor], Tensor],
    estimate: Tensor,
    *,
    background: float = 0.05,
) -> float:
    """Return the error (root mean square of each real component) of a reconstruction, by a parametric bootstrap.

    The estimate is taken for the truth, measured, and reconstructed again: what that loses is about what the first
    reconstruction lost (Efron and Tibshirani 1993, section 6.5). It is too small by what is already missing from the
    estimate, which is why callers multiply it by a factor. Background, which any method gets right, would dilute it.

    Args:
        reconstruct: measurement -> volume (C, X, Y, Z).
        simulate: volume -> measurement, with noise like that of the real one.
        estimate: the reconstruction of the real measurement.
        background: voxels with a smaller magnitude, in intensity units, do not count, unless there are no others.
    """
    again = reconstruct(simulate(estimate))
    squares = (again - estimate).abs().square()
    foreground = estimate.abs() > background
    if bool(foreground.any()):
        squares = squares[foreground]
    return float(squares.mean().sqrt()) / (2.0**0.5 if again.is_complex() else 1.0)
