# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Parallel-beam CT."""

import math

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ..raising import raises

OPTIONS = {
    "views": {"views": 5},
    "angles": {"angles": [3.0, 50.0, 51.0, 170.0], "filter": "hann"},
    "detector": {"views": 4, "arc": 360.0, "first_angle": 10.0, "detectors": 9, "detector_spacing": 1.3},
}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> ParallelCT:
        return ParallelCT(VolumeGeometry((8, 7, 3), (1.0, 1.2, 2.0)), **OPTIONS[request.param])

    def of_slice(self, operator: Operator, index: int) -> Operator:
        geometry = VolumeGeometry((8, 7, 1), operator.geometry.spacing)
        width, bins = operator.detector_spacing, operator.measurement_shape[1]
        return ParallelCT(geometry, angles=list(operator.degrees), detectors=bins, detector_spacing=width)


def ellipse_image(n: int, spacing: float, centre: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    """Return an ellipse of value 1 (mm), each pixel the mean of 8 x 8 samples."""
    at = ((np.arange(8 * n) + 0.5) / 8 - n / 2) * spacing
    inside = ((at[:, None] - centre[0]) / axes[0]) ** 2 + ((at[None] - centre[1]) / axes[1]) ** 2 <= 1
    return inside.reshape(n, 8, n, 8).mean(axis=(1, 3))


def ellipse_sinogram(
    degrees: tuple[float, ...], s: np.ndarray, centre: tuple[float, float], axes: tuple[float, float]
) -> np.ndarray:
    """Return the exact line integrals (V, D) of that ellipse (Kak and Slaney 1988, section 3.1)."""
    theta = np.deg2rad(np.array(degrees))[:, None]
    a2 = (axes[0] * np.cos(theta)) ** 2 + (axes[1] * np.sin(theta)) ** 2
    shifted = s[None] - centre[0] * np.cos(theta) - centre[1] * np.sin(theta)
    return 2 * axes[0] * axes[1] / a2 * np.sqrt(np.maximum(a2 - shifted**2, 0.0))


def bins_of(operator: ParallelCT) -> np.ndarray:
    count = operator.measurement_shape[1]
    return (np.arange(count) - (count - 1) / 2) * operator.detector_spacing


def psnr(got: torch.Tensor, true: torch.Tensor) -> float:
    return float(-10 * torch.log10((got - true).square().mean()))


def test_axis_parallel_rays_sum_rows_and_columns_in_mm() -> None:
    """At 0 degrees a ray has one x and runs along Y; at 90 degrees one y, along X."""
    operator = ParallelCT(VolumeGeometry((2, 2, 1), (2.0, 2.0, 1.0)), angles=[0.0, 90.0], detectors=2)
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).reshape(1, 2, 2, 1)
    torch.testing.assert_close(operator(x)[..., 0], torch.tensor([[6.0, 16.0], [8.0, 14.0]]))


def test_oblique_ray_through_the_centre() -> None:
    """At 45 degrees the middle ray of a square of ones is its diagonal, weighed at every pixel's centre."""
    operator = ParallelCT(VolumeGeometry((3, 3, 1)), angles=[45.0], detectors=1)
    assert float(operator(torch.ones(1, 3, 3, 1))) == pytest.approx(3 * math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0, 90.0, 135.0, 200.0, 300.0])
def test_a_point_is_seen_where_it_lies(degrees: float) -> None:
    """The centre of mass of a point's projection is x cos + y sin, with other pixel sizes along X and Y."""
    operator = ParallelCT(VolumeGeometry((17, 15, 1), (1.0, 1.4, 1.0)), angles=[degrees], detector_spacing=0.25)
    x = torch.zeros(operator.volume_shape)
    x[0, 12, 4, 0] = 1.0
    px, py = (12 - 8) * 1.0, (4 - 7) * 1.4
    view = operator(x)[0, :, 0].double().numpy()
    expected = px * math.cos(math.radians(degrees)) + py * math.sin(math.radians(degrees))
    assert (view @ bins_of(operator)) / view.sum() == pytest.approx(expected, abs=0.02)
    assert view.sum() * 0.25 == pytest.approx(1.4, rel=0.02)  # the mass of a point is its pixel's area


def test_parity_with_loops() -> None:
    """Joseph's method as one writes it: step along the main axis, interpolate across."""
    shape, spacing, degrees = (6, 5), (1.0, 1.3), [0.0, 20.0, 77.0, 130.0]
    operator = ParallelCT(VolumeGeometry((*shape, 1), (*spacing, 1.0)), angles=degrees)
    image = np.random.default_rng(0).normal(size=shape)
    expected = np.zeros(operator.measurement_shape[:2])
    for v, theta in enumerate(np.deg2rad(degrees)):
        c, s = np.cos(theta), np.sin(theta)
        main, cross = (1, 0) if abs(c) >= abs(s) else (0, 1)
        for d, offset in enumerate(bins_of(operator)):
            for k in range(shape[main]):
                along = (k - (shape[main] - 1) / 2) * spacing[main]
                across = (offset - along * (s, c)[0 if main else 1]) / (c if main else s)
                index = across / spacing[cross] + (shape[cross] - 1) / 2
                for j in (math.floor(index), math.floor(index) + 1):
                    if 0 <= j < shape[cross]:
                        value = image[(j, k) if main else (k, j)]
                        step = spacing[main] / abs(c if main else s)
                        expected[v, d] += value * (1 - abs(index - j)) * step
    got = operator(torch.from_numpy(image).float().reshape(1, *shape, 1))[..., 0]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_projection_of_an_ellipse() -> None:
    """Against the exact sinogram, away from the edge's kink: within 1 % of the largest line integral."""
    centre, axes, n, spacing = (6.0, -9.0), (22.0, 13.0), 96, 0.8
    operator = ParallelCT(VolumeGeometry((n, n, 1), (spacing, spacing, 1.0)), views=24)
    exact = ellipse_sinogram(operator.degrees, bins_of(operator), centre, axes)
    image = torch.from_numpy(ellipse_image(n, spacing, centre, axes)).float().reshape(1, n, n, 1)
    error = operator(image)[..., 0].numpy() - exact
    assert np.sqrt((error**2).mean()) < 0.005 * exact.max()
    assert np.abs(error).mean() < 0.003 * exact.max()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"views": 180}, 0.005),
        ({"views": 180, "filter": "hann"}, 0.005),
        ({"views": 360, "arc": 360.0}, 0.005),
        ({"views": 180, "detector_spacing": 0.5}, 0.005),
        ({"angles": [i * 111.246 for i in range(200)]}, 0.01),
        ({"angles": [*range(90), *range(90, 180, 3)]}, 0.01),
    ],
)
def test_fbp_of_an_exact_sinogram_gives_intensities_back(options: dict, tolerance: float) -> None:
    """Filtered back-projection has the value 1 inside the ellipse, 0 outside: also for uneven angles."""
    centre, axes, n, spacing = (4.0, -5.0), (20.0, 13.0), 64, 0.9
    operator = ParallelCT(VolumeGeometry((n, n, 1), (spacing, spacing, 1.0)), **options)
    exact = ellipse_sinogram(operator.degrees, bins_of(operator), centre, axes)
    got = operator.initial(torch.from_numpy(exact).float().unsqueeze(-1))[0, ..., 0].numpy()
    inside = ellipse_image(n, spacing, centre, (axes[0] - 4, axes[1] - 4)) == 1
    outside = ellipse_image(n, spacing, centre, (axes[0] + 4, axes[1] + 4)) == 0
    assert got[inside].mean() == pytest.approx(1.0, abs=tolerance)
    assert got[outside].mean() == pytest.approx(0.0, abs=0.02)
    assert np.abs(got[inside] - 1).mean() < 0.03


def test_fbp_of_a_head_phantom() -> None:
    """A skull, a brain and three lesions at 128 x 128 from 180 views: above 25 dB."""
    n = 128
    parts = [
        (1.0, (0.0, 0.0), (44.0, 58.0)),
        (-0.7, (0.0, 0.0), (40.0, 54.0)),
        (0.1, (-12.0, 10.0), (9.0, 18.0)),
        (-0.1, (14.0, 8.0), (7.0, 16.0)),
        (0.2, (0.0, -30.0), (5.0, 4.0)),
    ]
    image = sum(value * ellipse_image(n, 1.0, centre, axes) for value, centre, axes in parts)
    x = torch.from_numpy(np.asarray(image)).float().reshape(1, n, n, 1)
    operator = ParallelCT(VolumeGeometry((n, n, 1)), views=180)
    assert psnr(operator.initial(operator(x)), x) > 25.0


def test_angles_of_the_options() -> None:
    """The end of the arc is excluded; listed angles win, in their order; the measurement follows the list."""
    geometry = VolumeGeometry((4, 4, 2))
    assert ParallelCT(geometry, views=4).degrees == (0.0, 45.0, 90.0, 135.0)
    assert ParallelCT(geometry, views=3, arc=90.0, first_angle=-45.0).degrees == (-45.0, -15.0, 15.0)
    listed = ParallelCT(geometry, views=7, angles=[90.0, 0.0])
    assert listed.degrees == (90.0, 0.0)
    x = torch.randn(listed.volume_shape, generator=torch.Generator().manual_seed(0))
    for v, degrees in enumerate(listed.degrees):
        torch.testing.assert_close(listed(x)[v], ParallelCT(geometry, angles=[degrees])(x)[0])


def test_line_integrals_of_a_disc() -> None:
    """2 sqrt(r^2 - s^2) mm from every side, within 1 % of the diameter away from the kink at s = r."""
    n, spacing, r = 128, 0.5, 20.0
    operator = ParallelCT(VolumeGeometry((n, n, 1), (spacing, spacing, 1.0)), views=16)
    image = torch.from_numpy(ellipse_image(n, spacing, (0.0, 0.0), (r, r))).float().reshape(1, n, n, 1)
    s = bins_of(operator)
    away = np.abs(np.abs(s) - r) > 2.0
    expected = 2 * np.sqrt(np.maximum(r**2 - s[away] ** 2, 0.0))
    error = operator(image)[:, away, 0].numpy() - expected
    assert np.abs(error).max() < 0.01 * 2 * r


def test_limited_arc_weighs_each_view_by_its_step() -> None:
    full = ParallelCT(VolumeGeometry((4, 4, 1)), views=12)
    limited = ParallelCT(VolumeGeometry((4, 4, 1)), views=6, arc=90.0)
    np.testing.assert_allclose(full.view_weights, np.pi / 12)
    np.testing.assert_allclose(limited.view_weights, np.pi / 12)


def test_too_large_a_view_is_refused_before_it_is_built() -> None:
    with raises(ResourceError, where="operator parallel_ct", got="about 0.011 GB", expected="at most 0.001 GB"):
        ParallelCT(VolumeGeometry((512, 512, 8)), views=720, memory_limit_gb=0.001)


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({}, "operator#views", None),
        ({"views": 0}, "operator#views", "0"),
        ({"views": 8.0}, "operator#views", "8.0"),
        ({"angles": []}, "operator#angles", "none"),
        ({"angles": 30.0}, "operator#angles", "30.0"),
        ({"angles": [0.0, float("nan")]}, "operator#angles", "nan"),
        ({"views": 4, "arc": 400.0}, "operator#arc", "400.0"),
        ({"views": 4, "detectors": 0}, "operator#detectors", "0"),
        ({"views": 4, "detector_spacing": -1.0}, "operator#detector_spacing", "-1.0"),
        ({"views": 4, "filter": "cosine"}, "operator#filter", "'cosine'"),
        ({"views": 4, "memory_limit_gb": "4"}, "operator#memory_limit_gb", "'4'"),
        ({"views": 4, "detector_offset": "0.25"}, "operator#detector_offset", "'0.25'"),
        ({"views": 4, "angles_unit": "gon"}, "operator#angles_unit", "'gon'"),
        ({"angles": [0.0, 0.5, 1.0]}, "operator#angles", "angles from 0 to 1"),
        ({"views": 60, "arc": 3.14159}, "operator#arc", "3.14159"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got) as caught:
        ParallelCT(VolumeGeometry((4, 4, 2)), **options)
    assert "\n" not in str(caught.value)


def test_its_image_does_not_say_the_geometry() -> None:
    with raises(ConfigError.__base__, where="operator"):
        ParallelCT.volume_geometry(VolumeGeometry((4, 4, 2)), views=4)
