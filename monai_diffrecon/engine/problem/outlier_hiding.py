# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measured voxels that a network must not see."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.engine.problem.network_units import measures_image
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.outliers import replace_outliers
from monai_diffrecon.protocols import Operator

#: In ranges of the image. Vessels and bone are single bright voxels too, but few, and not so far above their
#: neighbours; scans with no more than that are left alone.
_STEP, _FAR, _FREQUENT = 1.0, 3.5, 2e-4


def hide_outliers(operator: Operator, y: Tensor) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Take saturated and dead voxels out of a measured image.

    A network that sees one of them spreads it over its neighbours. What is taken out is added to the reconstruction:
    the volume of least norm that measures it, so that the result agrees with all that was measured.

    Args:
        operator: what was measured.
        y: the measurement.

    Returns:
        The measurement without outliers; what to add to the volume (C, X, Y, Z), or None; and notices.
    """
    if not measures_image(operator) or y.is_complex() or y.ndim != 4 or not y.numel():
        return y, None, ()
    spacing = operator.measured_geometry().spacing
    clean, found = replace_outliers(y, spacing.index(max(spacing)), _STEP)
    count, excess = int(found.sum()), y - clean
    inner = clean.flatten().kthvalue(max(round(0.995 * y.numel()), 1)).values
    span = inner - clean.flatten().kthvalue(max(round(0.005 * y.numel()), 1)).values
    if not count or (count < _FREQUENT * y.numel() and bool(excess.abs().max() <= _FAR * span)):
        return y, None, ()
    with torch.no_grad():
        start = torch.zeros_like(y)
        weights = conjugate_gradient(lambda z: operator(operator.adjoint(z)), excess, start, iterations=50)
        volume = operator.adjoint(weights)
    notice = (
        f"{count} of {y.numel()} measured voxels differ from their neighbours by more than the range of the image; "
        "the networks do not see them, and the result keeps them"
    )
    return clean, volume, (notice,)
