# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator's own estimate of a posed case, for comparison by eye."""

from __future__ import annotations

from torch import Tensor

from monai_diffrecon.engine.problem.posed_case import PosedCase


def classical_estimate(case: PosedCase) -> Tensor | None:
    """Return filtered back-projection, zero filling or interpolation (1, X, Y, Z), or None if nothing was measured.

    In the unit of the volume; of a complex volume, the magnitude.
    """
    posed = case.posed
    y = posed.problem.measurement
    if not y.numel():
        return None
    x = posed.intensity.to_physical(posed.problem.operator.initial(y))
    return (x.abs() if x.is_complex() else x).float()
