# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Rays of any direction, the fan's geometry, redundancy weights and what is padded."""

import math

import numpy as np
import pytest

from monai_diffrecon.numerics.ct.fan_geometry import FanGeometry, fan_ray_weights, parker_weights
from monai_diffrecon.numerics.ct.joseph import Rays, ray_entries, ray_matrix
from monai_diffrecon.numerics.ct.parallel_geometry import (
    bin_positions,
    measured_arc,
    missing_bins,
    parallel_rays,
    redundancy_weights,
)


def fan(count: int = 7, curved: bool = False, **options: float) -> FanGeometry:
    angles = tuple(np.linspace(0, 2 * np.pi, count, endpoint=False))
    given = {"source_distance": 30.0, "detector_distance": 50.0, "detectors": 23, "detector_spacing": 1.7} | options
    return FanGeometry(angles, curved=curved, **given)


@pytest.mark.parametrize("curved", [False, True])
def test_rays_of_a_fan_join_source_and_bin(curved: bool) -> None:
    """Source and bin, placed by hand, both lie on the ray."""
    geometry = fan(curved=curved, detector_offset=2.0)
    rays = geometry.rays()
    for v, b in enumerate(geometry.angles):
        source = 30.0 * np.array([np.sin(b), -np.cos(b)])
        for d in range(23):
            at = (d - 11) * 1.7 + 2.0
            along, across = np.array([-np.sin(b), np.cos(b)]), np.array([np.cos(b), np.sin(b)])
            if curved:
                place = source + 50.0 * (np.cos(at / 50) * along + np.sin(at / 50) * across)
            else:
                place = source + 50.0 * along + at * across
            for point in (source, place):
                on_ray = point[0] * rays.cos[v, d] + point[1] * rays.sin[v, d]
                assert on_ray == pytest.approx(rays.offset[v, d], abs=1e-12)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(("shape", "spacing"), [((24, 20), (1.0, 1.0)), ((13, 31), (1.9, 0.7)), ((1, 1), (2.0, 2.0))])
def test_entries_views_and_order(shape: tuple[int, int], spacing: tuple[float, float], curved: bool) -> None:
    """The estimate is close, from above, view by view; some views' matrix is that part of the whole."""
    geometry = fan(curved=curved)
    whole = ray_matrix(shape, spacing, geometry.rays())
    assert whole.indices.dtype == whole.indptr.dtype == np.int32
    assert whole.data.dtype == np.float32
    per_view = np.diff(whole.indptr).reshape(7, 23).sum(axis=1)
    estimate = ray_entries(shape, spacing, geometry.rays())
    assert (estimate >= per_view).all()
    assert estimate.sum() <= 1.3 * per_view.sum() + 4 * 7 * 23
    part = ray_matrix(shape, spacing, geometry.rays(2, 5))
    assert (part != whole[2 * 23 : 5 * 23]).nnz == 0


def test_rays_of_both_main_axes_keep_their_order() -> None:
    """A ray alone has the row it has among others."""
    rng = np.random.default_rng(0)
    theta, offset = rng.uniform(0, 2 * np.pi, (3, 9)), rng.uniform(-8, 8, (3, 9))
    rays = Rays(np.cos(theta), np.sin(theta), offset)
    whole = ray_matrix((11, 13), (1.0, 1.2), rays).toarray()
    for row, (v, d) in enumerate(np.ndindex(3, 9)):
        alone = ray_matrix((11, 13), (1.0, 1.2), Rays(*(part[v : v + 1, d : d + 1] for part in rays))).toarray()
        np.testing.assert_array_equal(alone[0], whole[row])


def test_a_far_source_is_a_parallel_beam() -> None:
    far = fan(source_distance=1e8, detector_distance=1e8)
    parallel = parallel_rays(np.array(far.angles), 23, 1.7)
    for got, expected in zip(far.rays(), parallel, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("arc", [math.pi + 0.6, math.pi + 1.0, 1.7 * math.pi, 2 * math.pi])
def test_parker_weights_share_each_ray(arc: float) -> None:
    """The two measurements of a ray weigh 1 together; the ray measured once weighs 1; both ends of the arc weigh 0."""
    angle, g = np.meshgrid(np.linspace(0, arc, 301), np.linspace(-0.29, 0.29, 31), indexing="ij")
    weight = parker_weights(angle, g, arc)
    again = np.mod(angle + np.pi - 2 * g, 2 * np.pi)
    twice = again <= arc
    total = weight + np.where(twice, parker_weights(np.where(twice, again, 0.0), -g, arc), 0.0)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert weight.min() >= 0.0
    np.testing.assert_allclose(weight[[0, -1]], 0.0, atol=1e-12)


def test_ray_weights_of_the_scans() -> None:
    """Full circle: half. Short scan: Parker. Limited: all the same, pi in all where the arc has that much."""
    steps = {"full": 360.0, "short": 240.0, "half": 190.0, "limited": 90.0}
    got = {}
    for name, arc in steps.items():
        angles = tuple(np.deg2rad(np.arange(0, arc, 2.0)))
        geometry = FanGeometry(angles, 30.0, 50.0, 31, 1.0)
        got[name] = fan_ray_weights(geometry, 8.0) / np.cos(geometry.fan_angles()) / np.deg2rad(2.0)
    np.testing.assert_allclose(got["full"], 0.5)
    assert got["short"].min() < 0.05
    assert got["short"].max() > 0.999
    np.testing.assert_allclose(got["half"], 180 / 190)
    np.testing.assert_allclose(got["limited"], 1.0)
    np.testing.assert_allclose(got["short"][:, 15].sum() * 2.0, 180.0, rtol=1e-3)


def test_measured_arc() -> None:
    circle = np.deg2rad(np.arange(0, 360, 10.0))
    assert measured_arc(circle, 2 * np.pi) == (0.0, 2 * np.pi)
    start, arc = measured_arc(np.deg2rad([350.0, 0.0, 10.0, 20.0]), 2 * np.pi)
    assert math.degrees(start) == pytest.approx(345.0)
    assert math.degrees(arc) == pytest.approx(40.0)
    assert measured_arc(circle, np.pi)[1] == np.pi


@pytest.mark.parametrize("sign", [1, -1])
def test_redundancy_weights(sign: int) -> None:
    """Pairs weigh 2, what is measured once weighs 2, the short end weighs 0; the padding reaches the radius."""
    at = bin_positions(61, 1.0, sign * 20.0)
    weights = redundancy_weights(at, 45.0)
    pair = np.abs(at) <= 10.0
    np.testing.assert_allclose(weights[pair] + weights[pair][::-1], 2.0)
    np.testing.assert_allclose(weights[sign * at > 10.0], 2.0)
    assert weights[0 if sign > 0 else -1] == pytest.approx(0.0)
    before, after = missing_bins(at, 45.0)
    assert (before == 0, after == 0) == (sign < 0, sign > 0)
    assert -(at[0] - before) >= 45.0 if sign > 0 else at[-1] + after >= 45.0


@pytest.mark.parametrize(
    ("count", "offset", "radius"), [(61, 0.25, 45.0), (61, 0.5, 45.0), (61, 20.0, 9.0), (1, 0.3, 4.0)]
)
def test_nothing_to_make_up_for(count: int, offset: float, radius: float) -> None:
    """A quarter offset, or an image that both sides see, changes nothing."""
    at = bin_positions(count, 1.0, offset)
    np.testing.assert_array_equal(redundancy_weights(at, radius), 1.0)
    assert missing_bins(at, radius) == (0, 0)


def test_padding_leaves_the_bins_where_they_are() -> None:
    geometry = fan(detector_offset=3.0)
    np.testing.assert_allclose(geometry.padded(4, 0).positions()[4:], geometry.positions())
    np.testing.assert_allclose(geometry.padded(0, 4).positions()[:-4], geometry.positions())
