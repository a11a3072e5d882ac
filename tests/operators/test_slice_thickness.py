# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices."""

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ..raising import raises

# Oblique, with another voxel size along each axis, so that a wrong axis or sign shows.
ROTATION = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def affine_of(spacing: tuple[float, float, float]) -> tuple[tuple[float, ...], ...]:
    matrix = np.eye(4)
    matrix[:3, :3] = ROTATION * np.array(spacing)
    matrix[:3, 3] = (-40.0, 7.0, 11.0)
    return tuple(tuple(float(v) for v in row) for row in matrix)


GEOMETRY = VolumeGeometry((5, 6, 14), (1.0, 1.5, 0.7), affine_of((1.0, 1.5, 0.7)))
OPTIONS = {
    "whole": {"thickness": 1.4},
    "real": {"thickness": 2.3},
    "gap": {"thickness": 1.5, "gap": 0.9},
    "gaussian": {"thickness": 2.1, "profile": "gaussian"},
    "sagittal": {"thickness": 1.7, "plane": "sagittal"},
    "coronal": {"thickness": 2.5, "gap": 0.4, "plane": "coronal"},
    "one": {"thickness": 9.0},
}


class TestLaws(OperatorLaws):
    norm_tolerance = 1e-5

    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> SliceThickness:
        return SliceThickness(GEOMETRY, **OPTIONS[request.param])


def test_means_of_two() -> None:
    operator = SliceThickness(VolumeGeometry((1, 1, 5)), thickness=2.0)
    y = operator(torch.tensor([1.0, 3.0, 5.0, 9.0, 100.0]).reshape(1, 1, 1, 5))
    assert y.flatten().tolist() == [2.0, 7.0]  # the fifth slice is no whole thick one


def test_fractional_overlap_and_gap() -> None:
    """Slices of 1.5 mm at 0 and at 2 mm: weights (1, 0.5) / 1.5 each."""
    operator = SliceThickness(VolumeGeometry((1, 1, 4)), thickness=1.5, gap=0.5)
    expected = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(operator.weights, expected)


def test_real_factor() -> None:
    """Slices of 2.5 thin ones: the third thin slice is shared half and half."""
    operator = SliceThickness(VolumeGeometry((1, 1, 5)), thickness=2.5)
    expected = torch.tensor([[2.0, 2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0, 2.0]], dtype=torch.float64) / 5
    torch.testing.assert_close(operator.weights, expected)
    y = operator(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 1, 1, 5))
    assert y.flatten().tolist() == pytest.approx([2.0, 10.4])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_constant_stays_constant(options: dict) -> None:
    operator = SliceThickness(GEOMETRY, **options)
    ones = torch.ones(operator.volume_shape)
    y = operator(ones)
    torch.testing.assert_close(y, torch.ones(operator.measurement_shape))
    torch.testing.assert_close(operator.initial(y), ones)


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_parity_with_loops(plane: str) -> None:
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    thickness, gap, dz = 2.0, 0.3, GEOMETRY.spacing[axis]
    operator = SliceThickness(GEOMETRY, thickness=thickness, gap=gap, plane=plane)
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    thin = x[0].movedim(axis, 0)
    slices = []
    for m in range(operator.measurement_shape[1 + axis]):
        low = m * (thickness + gap)
        total = torch.zeros_like(thin[0])
        for k in range(len(thin)):
            total += max(0.0, min(low + thickness, (k + 1) * dz) - max(low, k * dz)) * thin[k]
        slices.append(total / thickness)
    assert low + thickness <= GEOMETRY.shape[axis] * dz < low + 2 * thickness + gap + 1e-9
    torch.testing.assert_close(operator(x)[0], torch.stack(slices).movedim(0, axis))


def test_gaussian_has_its_full_width_at_half_maximum() -> None:
    operator = SliceThickness(VolumeGeometry((1, 1, 1000), (1.0, 1.0, 0.05)), thickness=10.0, profile="gaussian")
    row = operator.weights[2]
    wide = 0.05 * int((row >= row.max() / 2).sum())
    assert wide == pytest.approx(10.0, abs=0.11)
    centre = float((row * (torch.arange(1000) + 0.5)).sum() * 0.05)
    assert centre == pytest.approx(25.0, abs=1e-3)


@pytest.mark.parametrize("options", [OPTIONS["real"], OPTIONS["gap"], OPTIONS["coronal"]])
def test_positions_agree_in_world_coordinates(options: dict) -> None:
    """Slice m is centred half a thickness beyond its edge, counted from the outer edge of the first thin slice."""
    operator = SliceThickness(GEOMETRY, **options)
    axis, measured = operator.axis, operator.measured_geometry()
    assert measured.shape == operator.measurement_shape[1:]
    fine, thick = np.array(GEOMETRY.affine), np.array(measured.affine)
    edge = fine[:3, 3] - 0.5 * fine[:3, axis]
    direction = fine[:3, axis] / GEOMETRY.spacing[axis]
    for m in range(measured.shape[axis]):
        expected = edge + direction * (m * (operator.thickness + operator.gap) + operator.thickness / 2)
        np.testing.assert_allclose(thick[:3, 3] + m * thick[:3, axis], expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(thick[:3, :3], axis=0), measured.spacing)


@pytest.mark.parametrize("options", [OPTIONS["whole"], OPTIONS["gap"], OPTIONS["coronal"]])
def test_volume_geometry_inverts_measured_geometry(options: dict) -> None:
    """The fine volume derived from the thick image starts at the same corner and measures as many slices."""
    operator = SliceThickness(GEOMETRY, **options)
    target = GEOMETRY.spacing[operator.axis]
    measured = operator.measured_geometry()
    resolved = SliceThickness.resolve_options(measured, **options, target_spacing=target)
    volume = SliceThickness.volume_geometry(measured, **resolved)
    assert volume.spacing == pytest.approx(GEOMETRY.spacing)
    np.testing.assert_allclose(volume.affine, GEOMETRY.affine, atol=1e-9)
    again = SliceThickness(volume, **resolved)
    assert again.measurement_shape == operator.measurement_shape


@pytest.mark.parametrize("distance", [2.0, 3.3, 5.0, 6.5])
@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_every_thick_image_has_a_volume_that_measures_to_its_shape(distance: float, gap: float) -> None:
    for count in (1, 2, 7, 31):
        image = VolumeGeometry((4, 4, count), (1.0, 1.0, distance))
        options = SliceThickness.resolve_options(image, gap=gap)
        assert options["thickness"] == pytest.approx(distance - gap)
        operator = SliceThickness(SliceThickness.volume_geometry(image, **options), **options)
        assert operator.measurement_shape == (1, 4, 4, count)
        assert operator.geometry.spacing[2] == 1.0


def test_interpolation_is_cubic_and_passes_through_the_measurement() -> None:
    """Odd factor: a thin slice lies at the centre of each thick one. Cubic polynomials are met; ends are held."""
    operator = SliceThickness(VolumeGeometry((1, 1, 30)), thickness=3.0)
    at = torch.arange(30, dtype=torch.float64)

    def cubic(t: torch.Tensor) -> torch.Tensor:
        return 1.0 + 0.2 * t - 0.03 * t**2 + 0.001 * t**3

    y = cubic(at[1::3]).reshape(1, 1, 1, 10)
    got = operator.initial(y).flatten()
    torch.testing.assert_close(got[1:29], cubic(at[1:29]))
    assert got[0] == got[1]
    assert got[29] == got[28]


@pytest.mark.parametrize("options", [OPTIONS["whole"], OPTIONS["real"], OPTIONS["gap"], OPTIONS["coronal"]])
def test_a_ramp_comes_back_between_the_first_and_the_last_centre(options: dict) -> None:
    """The interpolation knows where the thick slices lie: a line through their centres stays that line."""
    operator = SliceThickness(GEOMETRY, **options)
    axis, dz = operator.axis, GEOMETRY.spacing[operator.axis]
    count, distance = operator.measurement_shape[1 + axis], operator.thickness + operator.gap
    at = (torch.arange(GEOMETRY.shape[axis], dtype=torch.float64) + 0.5) * dz
    centres = operator.thickness / 2 + distance * torch.arange(count, dtype=torch.float64)
    shape = [1, 1, 1, 1]
    shape[1 + axis] = -1
    y = (3.0 - 0.2 * centres).reshape(shape).expand(operator.measurement_shape)
    got = operator.initial(y)
    inside = (at >= centres[0]) & (at <= centres[-1])
    assert int(inside.sum()) >= 3
    expected = (3.0 - 0.2 * at).reshape(shape).expand(operator.volume_shape)
    torch.testing.assert_close(got.movedim(1 + axis, 0)[inside], expected.movedim(1 + axis, 0)[inside])
    if options is OPTIONS["whole"]:  # whole thin slices: what is measured of the ramp are those values
        torch.testing.assert_close(operator(expected.contiguous()), y.contiguous())


def test_initial_estimate_lies_where_the_image_does() -> None:
    """A smooth bump keeps its centre through measurement and interpolation: no half-voxel shift."""
    operator = SliceThickness(VolumeGeometry((1, 1, 40), (1.0, 1.0, 1.0)), thickness=4.0)
    at = torch.arange(40, dtype=torch.float64)
    bump = torch.exp(-0.5 * ((at - 18.3) / 5.0) ** 2)
    got = operator.initial(operator(bump.reshape(1, 1, 1, 40))).flatten()
    assert float((got * at).sum() / got.sum()) == pytest.approx(18.3, abs=0.02)


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({}, "operator#thickness", None),
        ({"thickness": 0.0}, "operator#thickness", "0.0"),
        ({"thickness": "5"}, "operator#thickness", "'5'"),
        ({"thickness": 0.3}, "operator#thickness", "0.3 mm"),
        ({"thickness": 99.0}, "operator#thickness", "99 mm"),
        ({"thickness": 2.0, "gap": -1.0}, "operator#gap", "-1.0"),
        ({"thickness": 2.0, "profile": "box"}, "operator#profile", "'box'"),
        ({"thickness": 2.0, "plane": "z"}, "operator#plane", "'z'"),
        ({"thickness": 2.0, "target_spacing": 1.0}, "operator#target_spacing", "1 mm"),
        ({"thickness": 2.0, "target_spacing": -0.7}, "operator#target_spacing", "-0.7"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got) as caught:
        SliceThickness(GEOMETRY, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "where", "got"),
    [
        ({"thickness": 4.9}, ConfigError, "operator#thickness", "4.9 mm"),
        ({"gap": 5.0}, ConfigError, "operator#thickness", "0.0"),
        ({"target_spacing": 0}, ConfigError, "operator#target_spacing", "0"),
        ({"target_spacing": 6.0}, InputError, "operator#target_spacing", "6 mm"),
        ({"plane": "oblique"}, ConfigError, "operator#plane", "'oblique'"),
    ],
)
def test_wrong_options_for_an_image(options: dict, error: type[Exception], where: str, got: str | None) -> None:
    image = VolumeGeometry((8, 8, 20), (1.0, 1.0, 5.0))
    with raises(error, where=where, got=got):
        SliceThickness.volume_geometry(image, **options)
