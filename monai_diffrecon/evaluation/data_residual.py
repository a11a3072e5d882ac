# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How well a reconstruction explains its measurement."""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

from monai_diffrecon.engine.network_units import unit_map
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.io.measurement import affine_of
from monai_diffrecon.numerics.padding import without_padding


def data_residual(done: Reconstruction, case: PosedCase) -> float:
    """Return ``||A x - y|| / ||y||`` of the volume as it was handed out, weighted as the measurement says.

    Args:
        done: the reconstruction.
        case: what it was made from.

    Returns:
        NaN when nothing was measured.
    """
    measured, operator = case.said, case.posed.operator
    if not measured.data.numel():
        return math.nan
    x = without_padding(done.volume.as_subclass(Tensor), affine_of(done.geometry), measured.padding)
    x = x.to(operator.volume_dtype)
    y = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
    y = y * cmath.exp(-1j * done.report.phase) if y.is_complex() else y
    difference = operator(unit_map(operator, done.report.unit).to_network(x)) - y
    root = 1.0 if measured.weights is None else measured.weights.sqrt()
    norm = float(torch.linalg.vector_norm(root * y))
    return float(torch.linalg.vector_norm(root * difference)) / norm if norm > 0 else math.nan
