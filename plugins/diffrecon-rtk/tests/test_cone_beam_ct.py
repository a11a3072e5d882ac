# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""ConeBeamCT: laws, closed forms, the limit of a far source, and the classical estimates."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from diffrecon_rtk.cone_beam_ct import ConeBeamCT
from diffrecon_rtk.rtk_filters import projection_matrices
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.ct.parallel_geometry import joseph_matrix
from monai_diffrecon.presets.overlays import METHOD, overlay_path
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.testing.operator_laws import check_operator

SMALL = VolumeGeometry((6, 5, 8), (1.0, 1.2, 0.9))
NEAR = {"source_distance": 30.0, "detector_distance": 50.0}
FDK = {"source_distance": 150.0, "detector_distance": 225.0, "detectors": [48, 48], "detector_spacing": [1.1, 1.2]}
SPHERE = (2.0, -1.5, 1.0), (6.0, 6.0, 6.0)
ELLIPSOID = (2.0, -1.5, 1.0), (5.0, 7.0, 4.0)
#: All nine numbers of each view.
SAGGING = {
    "source_to_isocenter": [0.5, -0.5, 1.0, 0.0, 2.0],
    "source_to_detector": [0.0, 1.0, -1.0, 0.5, 2.0],
    "gantry_angle": [1.0, -2.0, 0.5, 0.0, 3.0],
    "projection_offset_x": [0.3, -0.6, 1.1, 0.0, 2.0],
    "projection_offset_y": 0.7,
    "out_of_plane_angle": [5.0, -3.0, 0.0, 2.0, 9.0],
    "in_plane_angle": [10.0, -20.0, 5.0, 0.0, 3.0],
    "source_offset_x": [0.5, 0.2, -0.4, 0.0, 1.0],
    "source_offset_y": -0.6,
}

KINDS = [
    pytest.param({"views": 5, **NEAR}, "full", id="circle"),
    pytest.param({"views": 12, "arc": 240.0, **NEAR}, "short", id="short scan"),
    pytest.param({"views": 6, "arc": 100.0, **NEAR}, None, id="limited arc"),
    pytest.param({"views": 7, "arc": 800.0, "pitch": 8.0, "detectors": [7, 6], **NEAR}, None, id="helix"),
    pytest.param({"views": 5, "detectors": [9, 8], "detector_radius": 50.0, **NEAR}, None, id="curved"),
    pytest.param(
        {"views": 9, "detectors": [8, 7], "detector_offset": [2.0, 0.5], "filter": "hann", **NEAR},
        "displaced",
        id="displaced",
    ),
    pytest.param({"views": 5, "detectors": [9, 8], "deviations": SAGGING, **NEAR}, None, id="deviating"),
    pytest.param(
        {"views": 9, "detectors": [8, 7], "deviations": {"in_plane_angle": 0.5, "projection_offset_x": 2.0}, **NEAR},
        "displaced",
        id="calibrated half fan",
    ),
    pytest.param({"views": 12, "detectors": [6, 5], "truncation": 0.3, **NEAR}, "full", id="truncated"),
]


def rays(operator: ConeBeamCT, options: dict, radians: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return sources (views, 1, 1, 3) and unit directions (views, nu, nv, 3), as the operator's docstring says."""
    (nu, nv), (du, dv) = operator.detector.pixels, operator.detector.spacing
    offset = options.get("detector_offset", (0.0, 0.0))
    near, far = options["source_distance"], options["detector_distance"]
    u = (np.arange(nu) - (nu - 1) / 2) * du + offset[0]
    v = (np.arange(nv) - (nv - 1) / 2) * dv + offset[1]
    bend = options.get("detector_radius")
    across, along = (
        (u, far + 0.0 * u) if bend is None else (bend * np.sin(u / bend), far - bend + bend * np.cos(u / bend))
    )
    cos, sin, zero = np.cos(radians), np.sin(radians), 0.0 * radians
    axis_u, onward = np.stack([cos, sin, zero], -1), np.stack([-sin, cos, zero], -1)
    source = (-near * onward + heights[:, None] * [0.0, 0.0, 1.0])[:, None, None]
    pixel = across[:, None, None] * axis_u[:, None, None] + along[:, None, None] * onward[:, None, None]
    direction = pixel + v[:, None] * np.array([0.0, 0.0, 1.0])
    return source, direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def chords(source: np.ndarray, direction: np.ndarray, ellipsoid: tuple) -> torch.Tensor:
    """Return the lengths of rays within an ellipsoid: the roots of a quadratic."""
    centre, axes = np.asarray(ellipsoid[0]), np.asarray(ellipsoid[1])
    p, d = (source - centre) / axes, direction / axes
    a, b, c = (d * d).sum(-1), (p * d).sum(-1), (p * p).sum(-1) - 1.0
    return torch.from_numpy(2.0 * np.sqrt(np.maximum(b * b - a * c, 0.0)) / a).float()


def voxels(geometry: VolumeGeometry, ellipsoid: tuple, parts: int = 4) -> torch.Tensor:
    """Return the share of each voxel (1, X, Y, Z) within an ellipsoid, from ``parts ** 3`` points in it."""
    grids = [
        (((np.arange(n * parts) + 0.5) / parts - n / 2) * d - c) / a
        for n, d, c, a in zip(geometry.shape, geometry.spacing, *ellipsoid, strict=True)
    ]
    x, y, z = np.meshgrid(*grids, indexing="ij", sparse=True)
    inside = torch.from_numpy(x * x + y * y + z * z <= 1.0).float()
    return torch.nn.functional.avg_pool3d(inside[None], parts)


def made(geometry: VolumeGeometry, options: dict) -> ConeBeamCT:
    return registry.create("operators", "cone_beam_ct", geometry=geometry, **options)


def measured(operator: ConeBeamCT, options: dict, ellipsoid: tuple) -> torch.Tensor:
    degrees = np.arange(options["views"]) * options.get("arc", 360.0) / options["views"]
    heights = options.get("pitch", 0.0) * (degrees - degrees[-1] / 2) / 360.0
    return chords(*rays(operator, options, np.deg2rad(degrees), heights), ellipsoid)


@pytest.mark.parametrize(("options", "weighting"), KINDS)
def test_laws_of_every_operator(options: dict, weighting: str | None) -> None:
    operator = made(SMALL, options)
    assert operator.fdk_weighting == weighting
    assert operator.initial_kind == (None if weighting is None else "fdk")
    check_operator(operator)


@pytest.mark.parametrize("shape", [(5, 4, 1), (1, 4, 3)])
def test_single_slices(shape: tuple[int, int, int]) -> None:
    """RTK alone projects a volume of one slice to 0."""
    operator = made(VolumeGeometry(shape), {"views": 4, **NEAR})
    check_operator(operator)
    assert float(operator(torch.ones(operator.volume_shape)).max()) > 0.9


def test_far_source_is_parallel_beam() -> None:
    """The row of each slice equals its parallel projection at the same angle, up to the borders."""
    geometry, degrees = VolumeGeometry((9, 8, 5), (1.1, 1.1, 1.3)), [0.0, 7.0, 33.0, 90.0, 100.0, 180.0, 222.0, 301.0]
    far = {"source_distance": 1e6, "detector_distance": 2e6, "detectors": [15, 5], "detector_spacing": [2.0, 2.6]}
    operator = made(geometry, {"angles": degrees, **far})
    matrix = joseph_matrix((9, 8), (1.1, 1.1), np.deg2rad(degrees), 15, 1.0)
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(matrix @ x[0].flatten(0, 1).numpy()).reshape(operator.measurement_shape)
    torch.testing.assert_close(operator(x), expected, rtol=0.0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="circle"),
        pytest.param({"arc": 700.0, "pitch": 6.0}, id="helix"),
        pytest.param({"detector_radius": 225.0}, id="focused"),
        pytest.param({"detector_radius": 130.0}, id="curved"),
        pytest.param({"detector_offset": [7.0, -4.0]}, id="offset"),
    ],
)
def test_projections_of_an_ellipsoid(more: dict) -> None:
    """The error falls with the voxel size, and is far below that of the ellipsoid mirrored along any axis."""
    options = {"views": 7, **FDK, **more}
    errors = []
    for n in (16, 32):
        geometry = VolumeGeometry((n, n, n), (16.0 / n,) * 3)
        operator = made(geometry, options)
        expected = measured(operator, options, ELLIPSOID)
        x = voxels(geometry, ELLIPSOID)
        errors.append(float(torch.linalg.vector_norm(operator(x) - expected) / torch.linalg.vector_norm(expected)))
    assert errors[0] < 0.12
    assert errors[1] < 0.6 * errors[0]
    for axis in (1, 2, 3):
        mirrored = operator(x.flip(axis)) - expected
        assert float(torch.linalg.vector_norm(mirrored) / torch.linalg.vector_norm(expected)) > 4.0 * errors[1]


@pytest.mark.parametrize(
    ("more", "weighting"),
    [
        pytest.param({"views": 90}, "full", id="circle"),
        pytest.param({"views": 90, "filter": "hann"}, "full", id="hann"),
        pytest.param({"views": 90, "arc": 220.0}, "short", id="short scan"),
        pytest.param({"views": 120, "detectors": [28, 48], "detector_offset": [9.0, 0.0]}, "displaced", id="right"),
        pytest.param({"views": 120, "detectors": [28, 48], "detector_offset": [-9.0, 0.0]}, "displaced", id="left"),
    ],
)
def test_fdk_of_a_sphere(more: dict, weighting: str) -> None:
    options = {**FDK, **more}
    geometry = VolumeGeometry((24, 22, 20), (1.0, 1.0, 1.1))
    operator = made(geometry, options)
    assert operator.fdk_weighting == weighting
    y = measured(operator, options, SPHERE)
    kept = y.clone()
    x = operator.initial(y)
    assert torch.equal(y, kept)
    inside = voxels(geometry, (SPHERE[0], (4.0, 4.0, 4.0))) == 1.0
    outside = voxels(geometry, (SPHERE[0], (8.0, 8.0, 8.0))) == 0.0
    assert float(x[inside].mean()) == pytest.approx(1.0, abs=0.02)
    assert float(x[inside].std()) < 0.03
    assert float(x[outside].mean()) == pytest.approx(0.0, abs=0.02)


def test_parker_weights_are_needed() -> None:
    """What the short scan's weights are for: without them the mean of the surroundings is off, or its noise."""
    options = {**FDK, "views": 90, "arc": 220.0}
    operator = made(VolumeGeometry((24, 24, 24)), options)
    y = measured(operator, options, SPHERE)
    outside = voxels(operator.geometry, (SPHERE[0], (8.0, 8.0, 8.0))) == 0.0
    weighted = float(operator.initial(y)[outside].std())
    operator.fdk_weighting = "full"
    assert weighted < 0.3 * float(operator.initial(y)[outside].std())


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"views": 40, "arc": 720.0, "pitch": 8.0}, id="helix"),
        pytest.param({"views": 20, "detector_radius": 225.0}, id="curved"),
        pytest.param({"views": 20, "arc": 120.0}, id="limited arc"),
    ],
)
def test_least_squares_where_fdk_does_not_apply(more: dict) -> None:
    options = {**FDK, **more, "initial_iterations": 15}
    operator = made(VolumeGeometry((16, 16, 16)), options)
    assert operator.fdk_weighting is None
    y = operator(voxels(operator.geometry, ELLIPSOID))
    residual = operator(operator.initial(y)) - y
    assert float(torch.linalg.vector_norm(residual)) < 0.05 * float(torch.linalg.vector_norm(y))


def test_default_detector_sees_the_volume_and_little_more() -> None:
    geometry = VolumeGeometry((8, 8, 8))
    operator = made(geometry, {"views": 8, **NEAR})
    x = torch.ones(operator.volume_shape)
    nu, nv = operator.detector.pixels
    spacing = list(operator.detector.spacing)
    larger = made(geometry, {"views": 8, **NEAR, "detectors": [nu + 8, nv + 8], "detector_spacing": spacing})
    smaller = made(geometry, {"views": 8, **NEAR, "detectors": [nu - 6, nv - 6], "detector_spacing": spacing})
    seen, all_of_it = float(operator(x).sum()), float(larger(x).sum())
    assert seen > 0.99 * all_of_it
    assert float(smaller(x).sum()) < 0.95 * all_of_it


@pytest.mark.parametrize("weighting", ["full", "displaced"])
def test_a_virtual_detector_at_the_isocentre(weighting: str) -> None:
    """Rays go on beyond it, as in ``fan_ct``."""
    u = 0.3 if weighting == "full" else 2.0
    near, far = (
        made(
            SMALL,
            {
                "views": 9,
                "source_distance": 30.0,
                "detector_distance": k * 30.0,
                "detectors": [9, 8],
                "detector_spacing": [k * 1.0, k * 1.2],
                "detector_offset": [k * u, k * 0.5],
            },
        )
        for k in (1.0, 2.5)
    )
    x = torch.rand(near.volume_shape, generator=torch.Generator().manual_seed(0))
    y = near(x)
    assert near.fdk_weighting == far.fdk_weighting == weighting
    torch.testing.assert_close(y, far(x))
    torch.testing.assert_close(near.initial(y), far.initial(y), rtol=1e-4, atol=1e-4)


def test_precisions() -> None:
    operator = made(SMALL, {"views": 4, **NEAR})
    x = torch.rand(operator.volume_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = operator(x)
    assert y.dtype == torch.float64
    torch.testing.assert_close(operator(x.float()), y.float())
    assert operator(x.bfloat16()).dtype == torch.bfloat16
    assert operator.initial(y).dtype == torch.float64


def test_a_copy_measures_the_same() -> None:
    operator = made(SMALL, {"views": 4, **NEAR})
    x = torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy.deepcopy(operator)(x), operator(x))


def test_axis_of_rotation_is_z() -> None:
    """A rod on the axis is a stripe along v at the middle of u, whatever the angle."""
    operator = made(
        VolumeGeometry((9, 9, 9)), {"views": 6, **NEAR, "detectors": [17, 9], "detector_spacing": [1.0, 1.0]}
    )
    x = torch.zeros(operator.volume_shape)
    x[0, 4, 4] = 1.0
    y = operator(x)
    assert bool((y.argmax(1) == 8).all())
    assert float(y[:, 8, 4].std()) < 0.15
    assert math.isclose(float(y[0, 8, 4]), 1.0, abs_tol=0.01)


def test_the_preset_fdk_is_the_classical_estimate_of_a_circle() -> None:
    preset = json.loads(overlay_path(METHOD, "fdk", where="test").read_text())
    geometry = VolumeGeometry((8, 8, 6))
    circle, limited = (made(geometry, {"views": 6, "arc": arc, **NEAR}) for arc in (360.0, 100.0))
    sampler = registry.build("samplers", preset["sampler"])
    y = circle(torch.ones(circle.volume_shape))
    sampler.prepare(Problem(circle, y), sigma_min=1e-4, sigma_max=1.0)
    torch.testing.assert_close(sampler.estimate(y), circle.initial(y))
    with pytest.raises(ConfigError) as caught:
        sampler.prepare(Problem(limited, y), sigma_min=1e-4, sigma_max=1.0)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "sampler",
        "an operator whose estimate is fdk",
        "one without a name",
    )


def test_deviations_turn_and_shift_the_detector() -> None:
    """Turned by 90 degrees in its plane, shifted as by ``detector_offset``, and nothing where nothing deviates."""
    options = {"views": 5, "detectors": [9, 9], "detector_spacing": [1.3, 1.3], **NEAR}
    plain = made(SMALL, options)
    x = torch.rand(plain.volume_shape, generator=torch.Generator().manual_seed(0))
    y = plain(x)
    turned = made(SMALL, {**options, "deviations": {"in_plane_angle": 90.0}})(x)
    torch.testing.assert_close(turned, torch.rot90(y, -1, (1, 2)), rtol=1e-4, atol=1e-4)
    shift = {"projection_offset_x": [1.3] * 4 + [-1.3], "projection_offset_y": 2.6}
    shifted = made(SMALL, {**options, "deviations": shift})(x)
    torch.testing.assert_close(shifted[:4, :-1, :-2], y[:4, 1:, 2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifted[4, 1:, :-2], y[4, :-1, 2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made(SMALL, {**options, "deviations": {"gantry_angle": 0.0}})(x), y)


def test_a_small_ball_is_where_the_matrix_says() -> None:
    """With all nine numbers of a view, source and detector are where RTK's matrix has them."""
    operator = made(
        VolumeGeometry((9, 9, 9), (0.5, 0.5, 0.5)),
        {"views": 5, "detectors": [41, 41], "detector_spacing": [0.5, 0.5], "deviations": SAGGING, **NEAR},
    )
    x = torch.zeros(operator.volume_shape)
    x[0, 6, 1, 7] = 1.0
    y = operator(x).double().numpy()
    at = np.array([1.0, 1.5, 1.5, 1.0])  # X, Y and Z are 1, -1.5 and 1.5 mm, in RTK's axes x, z = -Y, y = Z
    for view, matrix in zip(y, projection_matrices(operator.trajectory), strict=True):
        u, v, w = matrix @ at
        pixels = (np.arange(41) - 20) * 0.5
        centre = [(view.sum(1) @ pixels) / view.sum(), (view.sum(0) @ pixels) / view.sum()]
        assert centre == pytest.approx([u / w, v / w], abs=0.06)
