# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How far the source of a CT scan is from the axis of rotation and from the detector."""

from __future__ import annotations

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.option_checks import check_number


def scan_distances(source_distance: object, detector_distance: object, radius: float) -> tuple[float, float]:
    """Return the distances in mm from the source to the axis of rotation and to the detector.

    Args:
        source_distance: the first of them.
        detector_distance: the second.
        radius: that of the volume about the axis (mm).

    Raises:
        ConfigError: the source is in the volume, or the detector is in front of the axis.
    """
    to_axis = check_number(source_distance, "operator#source_distance", low=0.0, open_low=True)
    if to_axis <= radius:
        raise ConfigError(
            "the source would pass through the volume",
            where="operator#source_distance",
            expected=f"above {radius:.6g} mm, half the axial slice's diagonal",
            got=f"{to_axis:.6g} mm",
        )
    to_detector = check_number(detector_distance, "operator#detector_distance", low=0.0, open_low=True)
    if to_detector < to_axis:
        raise ConfigError(
            "the detector would be in front of the axis of rotation",
            where="operator#detector_distance",
            expected=f"source to detector, {to_axis:.6g} mm (source_distance) or more",
            got=f"{to_detector:.6g} mm",
        )
    return to_axis, to_detector
