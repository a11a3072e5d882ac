# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Fan-beam CT: laws, geometry, options."""

import copy
import math

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.operators.fan_ct import FanCT
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ..raising import raises

FAN = {"source_distance": 14.0, "detector_distance": 25.0}
OPTIONS = {
    "flat": {"views": 5},
    "curved": {"views": 5, "detector": "curved", "detector_offset": 0.4},
    "short": {"views": 7, "arc": 260.0, "filter": "hann"},
    "offset": {"views": 6, "detectors": 14, "detector_spacing": 2.1, "detector_offset": 6.0},
    "limited": {"angles": [3.0, 20.0, 51.0], "detectors": 9, "detector_spacing": 2.1, "detector": "curved"},
}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> FanCT:
        return FanCT(VolumeGeometry((8, 7, 3), (1.0, 1.2, 2.0)), **FAN, **OPTIONS[request.param])

    def of_slice(self, operator: Operator, index: int) -> Operator:
        fan = operator.fan
        return FanCT(
            VolumeGeometry((8, 7, 1), operator.geometry.spacing),
            **FAN,
            detector="curved" if fan.curved else "flat",
            angles=list(operator.degrees),
            detectors=fan.detectors,
            detector_spacing=fan.detector_spacing,
            detector_offset=fan.detector_offset,
        )


@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 7, 1), (31, 17, 2), (2, 64, 1)])
@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_odd_sizes(shape: tuple[int, int, int], detector: str) -> None:
    """Adjoint in double precision, and finite estimates, for prime sizes, thin images and one slice."""
    operator = FanCT(VolumeGeometry(shape), source_distance=50.0, detector_distance=90.0, detector=detector, views=11)
    wide = copy.deepcopy(operator).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(operator.volume_shape, generator=generator, dtype=torch.float64)
    y = torch.randn(operator.measurement_shape, generator=generator, dtype=torch.float64)
    left, right = float((wide(x) * y).sum()), float((x * wide.adjoint(y)).sum())
    assert abs(left - right) <= 1e-10 * float(wide(x).norm() * y.norm())
    assert bool(torch.isfinite(operator.initial(y.float())).all())


def test_slices_one_by_one() -> None:
    whole = FanCT(VolumeGeometry((9, 8, 4)), **FAN, views=6)
    alone = FanCT(VolumeGeometry((9, 8, 1)), **FAN, views=6)
    x = torch.randn(whole.volume_shape, generator=torch.Generator().manual_seed(0))
    y = whole(x)
    for z in range(4):
        torch.testing.assert_close(alone(x[..., z : z + 1]), y[..., z : z + 1])
        torch.testing.assert_close(alone.initial(y[..., z : z + 1]), whole.initial(y)[..., z : z + 1])


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_a_far_source_is_parallel_ct(detector: str) -> None:
    """With the detector's bins as far apart at the axis: forward and filtered back-projection."""
    geometry = VolumeGeometry((20, 18, 2), (1.0, 1.1, 1.0))
    shared = {"views": 40, "arc": 360.0, "first_angle": 1.0, "detectors": 31}
    parallel = ParallelCT(geometry, detector_spacing=1.0, **shared)
    far = FanCT(geometry, 1e6, 2e6, detector, detector_spacing=2.0, **shared)
    x = torch.rand(parallel.volume_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(far(x), parallel(x), atol=2e-3, rtol=0)
    y = torch.from_numpy(np.exp(-(np.arange(-15, 16) ** 2) / 20.0)).float()[None, :, None].expand(40, 31, 2)
    assert float((far.initial(y) - parallel.initial(y)).abs().max()) < 0.03 * float(parallel.initial(y).max())


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_a_point_is_seen_where_it_lies(detector: str) -> None:
    """From the source's place, written down by hand, through the point to the detector."""
    for degrees in (0.0, 30.0, 90.0, 200.0, 315.0):
        operator = FanCT(
            VolumeGeometry((17, 15, 1)),
            40.0,
            70.0,
            detector,
            angles=[degrees],
            detector_spacing=0.2,
            detector_offset=1.0,
        )
        x = torch.zeros(operator.volume_shape)
        x[0, 12, 4, 0] = 1.0
        px, py, b = 4.0, -3.0, math.radians(degrees)
        across, along = px * math.cos(b) + py * math.sin(b), 40.0 + py * math.cos(b) - px * math.sin(b)
        expected = 70.0 * (math.atan2(across, along) if detector == "curved" else across / along)
        view = operator(x)[0, :, 0].double().numpy()
        bins = (np.arange(len(view)) - (len(view) - 1) / 2) * 0.2 + 1.0
        assert (view @ bins) / view.sum() == pytest.approx(expected, abs=0.05)


def test_detector_that_covers_the_slice() -> None:
    """The default detector sees all corners, with bins one pixel apart at the axis; the fan is of the slice."""
    for detector in ("flat", "curved"):
        operator = FanCT(VolumeGeometry((30, 40, 1)), 100.0, 150.0, detector, views=4)
        assert operator.fan.detector_spacing == pytest.approx(1.5)
        assert operator.fan_angle == pytest.approx(2 * math.degrees(math.asin(25.0 / 100.0)))
        assert operator.fan.fan_angles()[-1] >= math.asin(25.0 / 100.0)
    assert FanCT(VolumeGeometry((30, 40, 1)), 100.0, 150.0, views=4, detectors=11).fan_angle < 6.0


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({}, "operator#views", None),
        ({"views": 5, "source_distance": 5.0}, "operator#source_distance", "5 mm"),
        ({"views": 5, "source_distance": -5.0}, "operator#source_distance", "-5.0"),
        (
            {"views": 5, "detector_distance": 11.0},
            "operator#detector_distance",
            "11 mm",
        ),
        ({"views": 5, "detector": "round"}, "operator#detector", "'round'"),
        ({"views": 5, "arc": 400.0}, "operator#arc", "400.0"),
        ({"views": 5, "detectors": 0}, "operator#detectors", "0"),
        ({"views": 5, "detector_spacing": 0.0}, "operator#detector_spacing", "0.0"),
        ({"views": 5, "detector_offset": float("nan")}, "operator#detector_offset", "nan"),
        ({"views": 5, "filter": "cosine"}, "operator#filter", "'cosine'"),
        (
            {"views": 5, "detector": "curved", "detectors": 100},
            "operator#detectors",
            "99 degrees",
        ),
        ({"views": 5, "memory_limit_gb": 0}, "operator#memory_limit_gb", "0"),
        ({"views": 60, "arc": 2 * math.pi}, "operator#arc", "6.28319"),
        ({"angles": [0.1 * i for i in range(60)]}, "operator#angles", "angles from 0 to 5.9"),
        ({"views": 5, "angles_unit": "rad"}, "operator#angles_unit", "'rad'"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    given = FAN | {"detector_spacing": 25.0 * math.radians(2.0)} | options
    with raises(ConfigError, where=where, got=got) as caught:
        FanCT(VolumeGeometry((8, 7, 3)), **given)
    assert "\n" not in str(caught.value)


def test_radians_on_purpose() -> None:
    geometry = VolumeGeometry((8, 7, 3))
    assert FanCT(geometry, **FAN, views=4, arc=math.pi, angles_unit="radians").degrees == (0.0, 45.0, 90.0, 135.0)


def test_too_large_a_view_is_refused_before_it_is_built() -> None:
    with raises(ResourceError, where="operator fan_ct", got="about 0.011 GB", expected="at most 0.001 GB"):
        FanCT(VolumeGeometry((512, 512, 8)), 570.0, 1040.0, views=720, memory_limit_gb=0.001)
