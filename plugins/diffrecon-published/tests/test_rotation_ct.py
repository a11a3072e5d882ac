# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Rotate-and-sum CT against golden values and an image rotated by torch."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffrecon_published.rotation_ct import RotationCT
from diffrecon_published.rotation_geometry import from_published_layout, to_published_layout
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, ResourceError
from monai_diffrecon.numerics.planes import from_slices, to_slices
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

OPTIONS = {"views": {"views": 5}, "limited": {"angles": [0.0, 1.0, 2.0, 3.0]}, "two": {"angles": [170.0, 45.0]}}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> RotationCT:
        return RotationCT(VolumeGeometry((7, 7, 3), (1.2, 1.2, 2.0)), **OPTIONS[request.param])

    def of_slice(self, operator: Operator, index: int) -> Operator:
        return RotationCT(VolumeGeometry((7, 7, 1)), angles=list(operator.degrees))


def normal_draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotated_sums(slices: Tensor, degrees: tuple[float, ...]) -> Tensor:
    """Return the sinogram (K, 1, P, V) of slices (K, 1, W, W): one rotated image an angle."""
    width = slices.shape[-1]
    pad = math.ceil(math.sqrt(2) * width) - width
    before = (width + pad) // 2 - width // 2
    padded = F.pad(slices, (before, pad - before, before, pad - before))
    views = []
    for theta in map(math.radians, degrees):
        cos, sin = math.cos(theta), math.sin(theta)
        affine = padded.new_tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]]).expand(len(padded), -1, -1)
        grid = F.affine_grid(affine, list(padded.shape), align_corners=True)
        views.append(F.grid_sample(padded, grid, align_corners=True).sum(dim=2))
    return torch.stack(views, dim=-1)


def read_back(sinogram: Tensor, degrees: tuple[float, ...], width: int) -> Tensor:
    """Return the back-projection (K, 1, W, W) of a sinogram (K, 1, P, V): one sampling of it an angle."""
    size, views = sinogram.shape[2:]
    at = torch.linspace(-1, 1, size, dtype=sinogram.dtype)
    total = torch.zeros((len(sinogram), 1, size, size), dtype=sinogram.dtype)
    for i, theta in enumerate(map(math.radians, degrees)):
        detector = at[None, :] * math.cos(theta) - at[:, None] * math.sin(theta)
        view = torch.full_like(detector, 2 * i / (views - 1) - 1)
        grid = torch.stack([view, detector], dim=-1).expand(len(sinogram), -1, -1, -1)
        total += F.grid_sample(sinogram, grid, align_corners=True)
    before = size // 2 - width // 2
    return total[..., before : before + width, before : before + width] * math.pi / (2 * views)


def ramp_filtered(sinogram: Tensor) -> Tensor:
    """Return a sinogram (K, 1, P, V) with every view convolved with twice the sampled ramp, as a sum."""
    size = sinogram.shape[2]
    n = torch.arange(size)
    distance = (n[:, None] - n[None]).abs()
    kernel = torch.where(distance % 2 == 1, -1.0 / (math.pi * distance.double()) ** 2, 0.0)
    kernel.fill_diagonal_(0.25)
    return torch.einsum("ij,kcjv->kciv", 2 * kernel, sinogram)


@pytest.mark.parametrize(
    ("width", "options"),
    [
        (33, {"views": 5}),
        (16, {"views": 8}),
        (21, {"angles": list(range(0, 90, 10))}),
        (5, {"views": 2}),
        (24, {"angles": [-10.0, 90.0, 200.0, 350.0]}),
        (70, {"views": 3}),
    ],
)
def test_parity_with_rotated_images(width: int, options: dict) -> None:
    """Forward, back-projection and filtered back-projection of random volumes, in both precisions."""
    operator = RotationCT(VolumeGeometry((width, width, 2)), **options)
    x, y = normal_draw(operator.volume_shape, 0), normal_draw(operator.measurement_shape, 1)
    published = to_published_layout(y)
    expected = {
        "forward": from_published_layout(rotated_sums(to_slices(x, "axial"), operator.degrees)),
        "back_projection": from_slices(read_back(published, operator.degrees, width), "axial"),
        "filtered_back_projection": from_slices(read_back(ramp_filtered(published), operator.degrees, width), "axial"),
    }
    double = copy.deepcopy(operator).double()
    for name, true in expected.items():
        argument = x if name == "forward" else y
        atol = 2e-6 * float(true.abs().max())
        torch.testing.assert_close(getattr(operator, name)(argument.float()).double(), true, atol=atol, rtol=0)
        torch.testing.assert_close(getattr(double, name)(argument), true, atol=atol / 4, rtol=0)
    assert torch.equal(operator.initial(y), operator.filtered_back_projection(y))


@pytest.fixture
def gaussians() -> Tensor:
    """Return five Gaussian slices of 16 x 16 that widen from one to the next, (1, X, Y, Z)."""
    at = torch.arange(16.0) - 7.5
    width = 2 + 0.3 * torch.arange(5.0)
    return torch.exp(-(at[:, None, None] ** 2 + at[None, :, None] ** 2) / (2 * width**2)).unsqueeze(0)


def test_golden_values(gaussians: Tensor) -> None:
    """Values of the published code for 8 views: same entries, same scale."""
    operator = RotationCT(VolumeGeometry((16, 16, 5)), views=8)
    y = operator(gaussians)
    published = to_published_layout(y)
    assert published.shape == (5, 1, 23, 8)
    assert float(y.mean()) == pytest.approx(1.876029, rel=1e-5)
    assert float(published[0, 0, 11, 3]) == pytest.approx(4.908937, rel=1e-5)
    assert float(operator.back_projection(y)[0, 7, 8, 0]) == pytest.approx(7.419410, rel=1e-5)
    assert float(operator.filtered_back_projection(y)[0, 7, 8, 0]) == pytest.approx(0.884115, rel=1e-5)


def test_back_projection_is_the_scaled_adjoint_up_to_interpolation() -> None:
    """<A x, v> / <x, B v> is near 2 n / pi for images of positive values; B v is not the scaled A^T v."""
    operator = RotationCT(VolumeGeometry((64, 64, 1)), views=8)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(operator.volume_shape, generator=generator)
    v = torch.rand(operator.measurement_shape, generator=generator)
    ratio = float((operator(x) * v).sum() / (x * operator.back_projection(v)).sum())
    assert ratio == pytest.approx(16 / math.pi, rel=2e-3)
    scaled, back = operator.adjoint(v) * math.pi / 16, operator.back_projection(v)
    mismatch = float(torch.linalg.vector_norm(scaled - back) / torch.linalg.vector_norm(back))
    assert 0.001 < mismatch < 0.1


def test_norm_of_the_published_normal_operator() -> None:
    """||B A|| is about 97 at 64 pixels and 8 views: what the published weights are relative to."""
    operator = RotationCT(VolumeGeometry((64, 64, 1)), views=8)
    x = torch.ones(operator.volume_shape)
    for _ in range(20):
        x = operator.back_projection(operator(x / torch.linalg.vector_norm(x)))
    norm = float(torch.linalg.vector_norm(x))
    assert norm == pytest.approx(97.4, abs=0.3)
    assert operator.norm() * math.pi / 16 == pytest.approx(norm, rel=0.02)


def test_sums_through_the_middle_of_a_large_image() -> None:
    """B A 1 at 256 pixels and 8 views, in the centre and at a corner."""
    operator = RotationCT(VolumeGeometry((256, 256, 1)), views=8)
    assert operator.measurement_shape == (8, 363, 1)
    ones = operator.back_projection(operator(torch.ones(operator.volume_shape)))
    assert float(ones[0, 128, 128, 0]) == pytest.approx(460, abs=1)
    assert float(ones[0, 0, 0, 0]) == pytest.approx(281, abs=1)


def test_slices_keep_their_order_and_orientation() -> None:
    """The view at 0 degrees sums along X, slice by slice: its bins run along Y."""
    operator = RotationCT(VolumeGeometry((16, 16, 3)), views=2)
    x = torch.zeros(operator.volume_shape)
    x[0, 2, 11, 1] = 1.0
    y = operator(x)
    assert float(y[0, 3 + 11, 1]) == pytest.approx(1.0)
    assert float(y[0].sum()) == pytest.approx(1.0)
    assert not bool(y[..., [0, 2]].any())


def test_filtered_back_projection_gives_intensities_back() -> None:
    """A disc from 90 views has its value 1 inside, 0 outside."""
    at = torch.arange(64) - 31.5
    radius = torch.hypot(at[:, None], at[None])
    operator = RotationCT(VolumeGeometry((64, 64, 1)), views=90)
    image = (18.5 - radius).clamp(0, 1)
    got = operator.initial(operator(image.reshape(1, 64, 64, 1)))[0, ..., 0]
    assert float(got[radius < 14].mean()) == pytest.approx(1.0, abs=0.01)
    assert float(got[radius > 23].mean()) == pytest.approx(0.0, abs=0.02)


def test_angles_of_the_options() -> None:
    geometry = VolumeGeometry((4, 4, 2))
    assert RotationCT(geometry, views=4).degrees == (0.0, 45.0, 90.0, 135.0)
    assert RotationCT(geometry, views=7, angles=range(3)).degrees == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("name", ["back_projection", "filtered_back_projection"])
def test_wrong_sinograms(name: str) -> None:
    operator = RotationCT(VolumeGeometry((8, 8, 2)), views=3)
    for wrong in (torch.zeros(3, 11, 2), torch.zeros(2, 1, 12, 3), torch.zeros(3, 12, 2, dtype=torch.complex64)):
        with pytest.raises(InputError) as caught:
            getattr(operator, name)(wrong)
        assert caught.value.where == "operator RotationCT"
        assert caught.value.got == ("complex64" if wrong.is_complex() else tuple(wrong.shape))


@pytest.mark.parametrize(
    ("geometry", "options", "where", "got"),
    [
        (VolumeGeometry((4, 5, 2)), {"views": 4}, "operator rotation_ct", (4, 5)),
        (VolumeGeometry((4, 4, 2), (1.0, 1.2, 1.0)), {"views": 4}, "operator rotation_ct", "1 and 1.2 mm"),
        (VolumeGeometry((4, 4, 2)), {}, "operator#views", None),
        (VolumeGeometry((4, 4, 2)), {"views": 1}, "operator#views", "1"),
        (VolumeGeometry((4, 4, 2)), {"views": 8.0}, "operator#views", "8.0"),
        (VolumeGeometry((4, 4, 2)), {"angles": [30.0]}, "operator#angles", 1),
        (VolumeGeometry((4, 4, 2)), {"angles": 30.0}, "operator#angles", "30.0"),
        (VolumeGeometry((4, 4, 2)), {"angles": "30"}, "operator#angles", "'30'"),
        (VolumeGeometry((4, 4, 2)), {"angles": [0.0, float("inf")]}, "operator#angles", "inf"),
        (VolumeGeometry((4, 4, 2)), {"views": 4, "memory_limit_gb": 0}, "operator#memory_limit_gb", "0"),
    ],
)
def test_wrong_options(geometry: VolumeGeometry, options: dict, where: str, got: object) -> None:
    with pytest.raises(DiffReconError) as caught:
        RotationCT(geometry, **options)
    assert (caught.value.where, caught.value.got) == (where, got)
    assert isinstance(caught.value, ConfigError | InputError)
    assert "\n" not in str(caught.value)


def test_too_large_a_view_is_refused_before_it_is_built() -> None:
    with pytest.raises(ResourceError) as caught:
        RotationCT(VolumeGeometry((512, 512, 8)), views=720, memory_limit_gb=0.001)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "operator rotation_ct",
        "at most 0.001 GB",
        "about 0.02 GB",
    )
