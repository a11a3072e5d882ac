# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What to do about voxels of another size than a network's."""

from __future__ import annotations

from monai_diffrecon.protocols import Operator

_OR = "or raise inferer#spacing_tolerance"


def spacing_mend(operator: Operator, plane: str, spacing: tuple[float, float], tolerance: float) -> str:
    """Return what to do about a measurement that brought its operator, and so cannot be resampled as an image.

    Args:
        operator: the measurement's operator.
        plane: the network's.
        spacing: the network's, within its plane, mm.
        tolerance: largest relative difference.
    """
    if not operator.complex_measurement:
        return f"use a network of voxels of this size, {_OR}"
    apart = operator.geometry.spacing[2]
    if plane != "axial" and operator.slice_axis("axial") is not None and abs(apart / spacing[1] - 1.0) > tolerance:
        return f"the slices are {apart:.3g} mm apart: use axial networks alone, without an auxiliary bundle, {_OR}"
    option = f"{{'name': 'fastmri', 'spacing': {float(spacing[0])!r}}}"
    return f'have k-space cropped or padded to it: --reader "{option}", or ismrmrd or twix for such files, {_OR}'
