# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Hiding outlier voxels from a network."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.engine.problem.network_units import measures_image
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.statistics.order_statistics import ranked
from monai_diffrecon.numerics.statistics.outliers import replace_outliers
from monai_diffrecon.protocols import Operator

#: In ranges of the image. Vessels and bone are single bright voxels too, but few and not so far above their
#: neighbours; such scans are left unchanged.
_STEP, _FAR, _FREQUENT = 1.0, 3.5, 2e-4


def hide_outliers(operator: Operator, y: Tensor) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Take saturated and dead voxels out of a measured image.

    A network would spread them over their neighbours. The removed part is added back to the reconstruction as the
    minimum-norm volume that measures it, so that the result agrees with the whole measurement.

    Args:
        operator: the forward operator.
        y: the measurement.

    Returns:
        The measurement without outliers; what to add to the volume (C, X, Y, Z), or None; and notices.
    """
    if not measures_image(operator) or y.is_complex() or y.ndim != 4 or not y.numel():
        return y, None, ()
    spacing = operator.measured_geometry().spacing
    clean, found = replace_outliers(y, spacing.index(max(spacing)), _STEP)
    count, excess = int(found.sum()), y - clean
    low, high = (clean.new_tensor(v) for v in ranked(clean, [max(round(q * y.numel()), 1) - 1 for q in (0.005, 0.995)]))
    span = high - low
    if not count or (count < _FREQUENT * y.numel() and bool(excess.abs().max() <= _FAR * span)):
        return y, None, ()
    with torch.no_grad():
        start = torch.zeros_like(y)
        weights = conjugate_gradient(lambda z: operator(operator.adjoint(z)), excess, start, iterations=50)
        volume = operator.adjoint(weights)
    notice = (
        f"{count} of {y.numel()} measured voxels differ from their neighbours by more than the range of the image; "
        "they are hidden from the networks and restored in the result"
    )
    return clean, volume, (notice,)
