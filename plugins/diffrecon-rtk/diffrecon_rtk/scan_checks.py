# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where source and detector may be."""

from __future__ import annotations

import numpy as np

from diffrecon_rtk.rtk_filters import source_positions
from diffrecon_rtk.scan_options import radius_of
from diffrecon_rtk.trajectory import Detector, Trajectory
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import VolumeGeometry


def check_source(scan: Trajectory, geometry: VolumeGeometry) -> None:
    """Refuse a source that enters the cylinder about the volume.

    Raises:
        ConfigError: it does.
    """
    positions = source_positions(scan)
    radius, half = radius_of(geometry), geometry.shape[2] * geometry.spacing[2] / 2
    away = np.hypot(positions[:, 0], positions[:, 1])
    inside = (away <= radius) & (np.abs(positions[:, 2]) <= half)
    if inside.any():
        raise ConfigError(
            "the source is inside the volume",
            where=f"operator cone_beam_ct, view {int(np.argmax(inside))}",
            expected=f"more than {radius:.6g} mm from the axis",
            got=f"{float(away[inside][0]):.6g} mm",
            mend="check source_distance (mm, from the isocentre) and the voxel size",
        )


def check_detector(scan: Trajectory, detector: Detector, geometry: VolumeGeometry) -> None:
    """Refuse a detector that is not behind the volume: rays end at it.

    Raises:
        ConfigError: it is not.
    """
    u = np.linspace(*detector.edges(0), detector.pixels[0])
    views, bend = np.asarray(scan.views), scan.detector_radius
    across = bend * np.sin(u / bend) if bend else u
    sag = bend * (1.0 - np.cos(u / bend)) if bend else 0.0 * u
    beyond = views[:, 1, None] - views[:, 0, None] - sag
    away = np.hypot(across + views[:, 3, None], beyond).min(1)
    radius = radius_of(geometry)
    inside = (away <= radius) | (beyond.max(1) <= 0.0)
    if inside.any():
        view = int(np.argmax(inside))
        raise ConfigError(
            "the detector is not behind the volume",
            where=f"operator cone_beam_ct, view {view}",
            expected=f"a detector_distance, from the source, above {views[view, 0] + radius:.6g} mm",
            got=f"{views[view, 1]:.6g} mm",
        )
