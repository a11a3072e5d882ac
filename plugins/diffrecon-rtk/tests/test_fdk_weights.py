# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""FDK of a uniform cylinder from its projections in closed form: no rings, whatever part of the fan is measured."""

import numpy as np
import pytest
import torch

from diffrecon_rtk.cone_beam_ct import ConeBeamCT
from diffrecon_rtk.trajectory import ConeView, Detector, Trajectory, sides_at_axis
from monai_diffrecon import registry
from monai_diffrecon.protocols import VolumeGeometry

GEOMETRY = VolumeGeometry((48, 48, 4), (2.6, 2.6, 2.6))
SCAN = {"source_distance": 1000.0, "detector_distance": 1500.0, "detector_spacing": [1.9, 4.0]}
FULL, HALF = {"detectors": [110, 8]}, {"detectors": [62, 8]}
RADIUS = 50.0


def made(options: dict) -> ConeBeamCT:
    return registry.create("operators", "cone_beam_ct", geometry=GEOMETRY, **SCAN, **options)


def measured(operator: ConeBeamCT, centre: tuple[float, float], radius: float) -> torch.Tensor:
    """Return the lengths of rays within a cylinder without ends about a line along Z."""
    detector, views = operator.detector, np.array(operator.trajectory.views)
    u, v = (np.linspace(*detector.edges(axis), detector.pixels[axis]) for axis in (0, 1))
    near, far, angle = views[:, 0, None], views[:, 1, None], np.deg2rad(views[:, 2, None])
    # The centre from the source, along u and towards the detector; rays are (u, far) there.
    along_u = centre[0] * np.cos(angle) + centre[1] * np.sin(angle)
    onward = near - centre[0] * np.sin(angle) + centre[1] * np.cos(angle)
    u = u + views[:, 3, None]
    away = np.abs(along_u * far - onward * u) / np.hypot(u, far)
    flat = 2.0 * np.sqrt(np.maximum(radius**2 - away**2, 0.0)) / np.hypot(u, far)
    lengths = flat[..., None] * np.sqrt((u**2 + far**2)[..., None] + v**2)
    return torch.from_numpy(lengths).float()


def rings(volume: torch.Tensor) -> np.ndarray:
    """Return the means of rings of 4 mm about the axis, less 1."""
    x = (np.arange(48) - 23.5) * 2.6
    away = np.hypot(x[:, None], x)
    middle = volume[0, :, :, 1:3].mean(-1).numpy()
    inner = [(away >= low) & (away < low + 4.0) for low in np.arange(0.0, RADIUS - 5.0, 4.0)]
    return np.array([middle[ring].mean() for ring in inner]) - 1.0


@pytest.mark.parametrize(
    ("options", "weighting"),
    [
        pytest.param({"views": 180, **FULL}, "full", id="full fan"),
        pytest.param({"views": 180, **HALF, "detector_offset": [45.0, 0.0]}, "displaced", id="half fan"),
        pytest.param({"views": 180, **HALF, "detector_offset": [-45.0, 0.0]}, "displaced", id="other half"),
        pytest.param({"views": 90, **HALF, "detector_offset": [45.0, 0.0]}, "displaced", id="half fan, 90 views"),
        pytest.param(
            {"views": 180, **HALF, "deviations": {"projection_offset_x": 45.0}, "truncation": 0.3},
            "displaced",
            id="half fan, shifted and continued",
        ),
        pytest.param({"views": 100, "arc": 200.0, **FULL}, "short", id="short scan"),
        pytest.param({"views": 150, "arc": 300.0, **FULL}, "short", id="long short scan"),
    ],
)
def test_no_ring_of_bias(options: dict, weighting: str) -> None:
    operator = made(options)
    assert operator.fdk_weighting == weighting
    volume = operator.initial(measured(operator, (0.0, 0.0), RADIUS))
    assert np.abs(rings(volume)).max() < 0.02
    # Off the axis, left and right are not exchanged and not different.
    x = (np.arange(48) - 23.5) * 2.6
    ball = operator.initial(measured(operator, (26.0, -15.6), 14.0))[0, :, :, 1].numpy()
    away = np.hypot(x[:, None] - 26.0, x + 15.6)
    left, right = (ball[(away < 9.0) & ((x < 26.0) == side)[:, None]].mean() for side in (True, False))
    assert (left, right) == (pytest.approx(1.0, abs=0.02), pytest.approx(1.0, abs=0.02))
    assert np.abs(ball[(away > 22.0) & (np.hypot(x[:, None], x) < 50.0)]).max() < 0.1


def test_weights_of_the_half_fan_are_needed() -> None:
    operator = made({"views": 180, **HALF, "detector_offset": [45.0, 0.0]})
    y = measured(operator, (0.0, 0.0), RADIUS)
    operator.fdk_weighting = "full"
    assert np.abs(rings(operator.initial(y))).max() > 0.2


def test_an_object_that_is_wider_than_the_detector() -> None:
    """Continued projections have no bright rim where the detector ends."""
    rims = []
    for part in (0.0, 0.3):
        operator = made({"views": 180, "detectors": [50, 8], "truncation": part})
        rims.append(rings(operator.initial(measured(operator, (0.0, 0.0), RADIUS))).max())
    assert rims[0] > 1.0
    assert rims[1] < 0.4 * rims[0]


def test_what_both_sides_see() -> None:
    """The foot of the axis is where RTK's matrix has it: u = -offset - source offset (SDD / SID - 1)."""
    scan = Trajectory((ConeView(1000.0, 1500.0, 0.0, 30.0, source_offset_x=8.0),))
    left, right = sides_at_axis(scan, Detector((101, 5), (1.0, 1.0)))
    foot = -30.0 - 8.0 * 0.5
    assert (left, right) == pytest.approx(((-50.0 - foot) / 1.5, (50.0 - foot) / 1.5))
