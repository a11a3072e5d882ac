# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The notice that the networks see nothing of the axis that is to be resolved."""

from __future__ import annotations

from collections.abc import Sequence

from monai_diffrecon.protocols import PLANE_AXIS, Operator

#: Slices thicker than so many voxels of the volume are thick.
_THICK = 1.2


def plane_notice(operator: Operator, planes: Sequence[str]) -> str | None:
    """Return the notice, or None when a plane contains the axis along which slices are thick, or none are.

    Args:
        operator: what was measured.
        planes: planes of the networks in use.
    """
    if operator.thick_plane is None or any(plane != operator.thick_plane for plane in planes):
        return None
    axis = PLANE_AXIS[operator.thick_plane]
    if operator.measured_geometry().spacing[axis] <= _THICK * operator.geometry.spacing[axis]:
        return None
    return (
        f"only {planes[0]} slices are denoised, of which none contains the axis of the thick slices: expect less than "
        "interpolation gives (docs/results/demo.md); use a bundle of another plane beside this one"
    )
