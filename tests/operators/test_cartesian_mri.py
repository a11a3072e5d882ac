# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian MRI."""

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ..raising import raises

GEOMETRY = VolumeGeometry((8, 7, 3))


def coil_maps(coils: int = 3, shape: tuple[int, int, int] = GEOMETRY.shape) -> torch.Tensor:
    return torch.randn((coils, *shape), generator=torch.Generator().manual_seed(5), dtype=torch.complex64)


SLICES = torch.rand((8, 7, 3), generator=torch.Generator().manual_seed(6)) > 0.4

OPTIONS = {
    "real": {"acceleration": 3.0},
    "real, no centre": {"acceleration": 4.0, "center_fraction": 0.0, "mask_type": "uniform1d"},
    "complex": {"acceleration": 3.0, "complex_volume": True},
    "partial": {"acceleration": 2.0, "partial_fourier": 0.7, "complex_volume": True},
    "coils": {"acceleration": 2.0, "coil_maps": coil_maps()},
    "complex coils": {"acceleration": 2.0, "coil_maps": coil_maps(), "complex_volume": True},
    "a mask for each slice": {"mask": SLICES},
    "drawn for each slice": {"acceleration": 3.0, "mask_per_slice": True, "coil_maps": coil_maps()},
    "oversampled": {"acceleration": 2.0, "encoded": [13, 10, 3], "coil_maps": coil_maps(), "complex_volume": True},
    "oversampled, real": {"mask_type": "gaussian2d", "acceleration": 2.0, "encoded": [15, 7, 3]},
}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> CartesianMRI:
        return CartesianMRI(GEOMETRY, **OPTIONS[request.param])

    def of_slice(self, operator: Operator, index: int) -> Operator:
        maps = None if operator.coil_maps is None else operator.coil_maps[..., index : index + 1]
        geometry = VolumeGeometry((*GEOMETRY.shape[:2], 1))
        mask = operator.mask if operator.mask.ndim == 2 else operator.mask[..., index]
        encoded = [*operator.measurement_shape[1:3], 1]
        return CartesianMRI(geometry, mask, coil_maps=maps, complex_volume=operator.complex_volume, encoded=encoded)


def test_constant_is_one_point_at_the_centre() -> None:
    """Orthonormal: a constant 1 over 8 x 7 pixels has sqrt(56) at the zero frequency (4, 3) and 0 elsewhere."""
    y = CartesianMRI(GEOMETRY, torch.ones(8, 7))(torch.ones(1, *GEOMETRY.shape))
    expected = torch.zeros(1, 8, 7, 3, dtype=torch.complex64)
    expected[0, 4, 3] = 56**0.5
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


def test_point_at_the_centre_is_flat_and_real() -> None:
    """The image's origin is voxel N // 2, too: no linear phase."""
    x = torch.zeros(1, *GEOMETRY.shape)
    x[0, 4, 3] = 1.0
    y = CartesianMRI(GEOMETRY, torch.ones(8, 7))(x)
    torch.testing.assert_close(y, torch.full_like(y, 56**-0.5), atol=1e-6, rtol=0)


def test_parity_with_the_sum() -> None:
    """The discrete Fourier transform as one writes it, coil by coil and slice by slice."""
    maps = coil_maps(2)
    operator = CartesianMRI(GEOMETRY, acceleration=2.0, coil_maps=maps)
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(1))
    i, j = np.arange(8) - 4, np.arange(7) - 3
    fx = np.exp(-2j * np.pi * np.outer(i, i) / 8) / np.sqrt(8)
    fy = np.exp(-2j * np.pi * np.outer(j, j) / 7) / np.sqrt(7)
    for c in range(2):
        for z in range(3):
            weighted = maps[c, ..., z].numpy() * x[0, ..., z].numpy()
            expected = (fx @ weighted @ fy.T) * operator.mask.numpy()
            np.testing.assert_allclose(operator(x)[c, ..., z].numpy(), expected, atol=1e-5)


def test_masks_drawn_for_each_slice_are_those_of_the_following_seeds() -> None:
    options = {"mask_type": "gaussian1d", "acceleration": 2.0}
    mask = CartesianMRI(GEOMETRY, mask_per_slice=True, mask_seed=5, **options).mask
    drawn = [CartesianMRI(GEOMETRY, mask_seed=5 + z, **options).mask for z in range(3)]
    assert torch.equal(mask, torch.stack(drawn, -1))
    assert not torch.equal(mask.any(-1), mask.all(-1))


def test_only_sampled_points_are_measured() -> None:
    operator = CartesianMRI(GEOMETRY, acceleration=3.0)
    y = operator(torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0)))
    assert not y[:, ~operator.mask].any()
    assert y[:, operator.mask].abs().min() > 0


@pytest.mark.parametrize("maps", [None, coil_maps()], ids=["single", "coils"])
@pytest.mark.parametrize("complex_volume", [False, True])
def test_full_sampling_gives_the_image_back(maps: torch.Tensor | None, complex_volume: bool) -> None:
    operator = CartesianMRI(GEOMETRY, torch.ones(8, 7), coil_maps=maps, complex_volume=complex_volume)
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(0), dtype=operator.volume_dtype)
    torch.testing.assert_close(operator.initial(operator(x)), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoded", [(16, 7, 3), (15, 9, 3)])
def test_oversampling_is_a_wider_field_of_view_around_the_same_centre(encoded: tuple[int, int, int]) -> None:
    """The sum as one writes it: frequencies are k / encoded, positions are counted from voxel N // 2."""
    mask = torch.rand(encoded, generator=torch.Generator().manual_seed(7)) > 0.5
    operator = CartesianMRI(GEOMETRY, mask, complex_volume=True, encoded=list(encoded))
    x = torch.randn(operator.volume_shape, generator=torch.Generator().manual_seed(1), dtype=torch.complex64)
    i, j = np.arange(8) - 4, np.arange(7) - 3
    ki, kj = np.arange(encoded[0]) - encoded[0] // 2, np.arange(encoded[1]) - encoded[1] // 2
    fx = np.exp(-2j * np.pi * np.outer(ki, i) / encoded[0]) / np.sqrt(encoded[0])
    fy = np.exp(-2j * np.pi * np.outer(kj, j) / encoded[1]) / np.sqrt(encoded[1])
    expected = np.einsum("ax,by,xyz->abz", fx, fy, x[0].numpy()) * mask.numpy()
    np.testing.assert_allclose(operator(x)[0].numpy(), expected, atol=1e-5)


def test_where_no_coil_sees_the_estimate_is_zero() -> None:
    maps = coil_maps()
    maps[:, :3] = 0
    operator = CartesianMRI(GEOMETRY, torch.ones(8, 7), coil_maps=maps)
    estimate = operator.initial(operator(torch.ones(operator.volume_shape)))
    assert not estimate[:, :3].any()
    torch.testing.assert_close(estimate[:, 3:], torch.ones_like(estimate[:, 3:]), atol=1e-5, rtol=0)


def test_norm_of_a_real_image_without_opposite_points_is_one_half() -> None:
    """One point off the centre: half of it is seen by a real image, whose spectrum is Hermitian."""
    mask = torch.zeros(8, 7)
    mask[5, 3] = 1
    assert CartesianMRI(GEOMETRY, mask).norm() == 0.5
    assert CartesianMRI(GEOMETRY, mask, complex_volume=True).norm() == 1.0
    mask[3, 3] = 1  # its opposite
    assert CartesianMRI(GEOMETRY, mask).norm() == 1.0


def test_mask_from_a_config_wins() -> None:
    mask = [[1, 0, 1], [0, 1, 0]]
    operator = CartesianMRI(VolumeGeometry((2, 3, 1)), mask=mask, acceleration=99.0)
    assert operator.mask.int().tolist() == mask
    assert operator.acceleration == 2.0


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"mask": torch.ones(7, 8)}, "operator#mask", "(7, 8)"),
        ({"mask": torch.zeros(8, 7)}, "operator#mask", None),
        ({"mask": torch.ones(8, 7, 2)}, "operator#mask", "(8, 7, 2)"),
        ({"mask": torch.ones(8, 7), "encoded": [16, 7, 3]}, "operator#mask", "(8, 7)"),
        ({"encoded": [7, 7, 3]}, "operator#encoded", "[7, 7, 3]"),
        ({"encoded": [8, 7, 4]}, "operator#encoded", "[8, 7, 4]"),
        ({"encoded": [8, 7]}, "operator#encoded", "[8, 7]"),
        ({"encoded": 2}, "operator#encoded", "2"),
        ({"mask": torch.full((8, 7), 0.5)}, "operator#mask", "0.5"),
        ({"mask": torch.full((8, 7), float("nan"))}, "operator#mask", "nan"),
        ({"mask": torch.ones(8, 7, dtype=torch.complex64)}, "operator#mask", "torch.complex64"),
        ({"mask": [[1, 0], [1]]}, "operator#mask", "[[1, 0], [1]]"),
        ({"mask": "mask.pt"}, "operator#mask", "'mask.pt'"),
        ({"mask": torch.ones(8, 7), "partial_fourier": 0.7}, "operator#partial_fourier", "0.7"),
        ({"partial_fourier": 0.5}, "operator#partial_fourier", "0.5"),
        ({"partial_fourier": 1.2}, "operator#partial_fourier", "1.2"),
        ({"mask_type": "spiral"}, "operator#mask_type", "'spiral'"),
        ({"acceleration": 0.5}, "operator#acceleration", "0.5"),
        ({"acceleration": float("nan")}, "operator#acceleration", "nan"),
        ({"center_fraction": 1.5}, "operator#center_fraction", "1.5"),
        ({"center_fraction": 0.9}, "operator#center_fraction", "42"),
        ({"mask_seed": -1}, "operator#mask_seed", "-1"),
        ({"complex_volume": "no"}, "operator#complex_volume", "'no'"),
        ({"coil_maps": coil_maps().real}, "operator#coil_maps", "torch.float32 (3, 8, 7, 3)"),
        ({"coil_maps": coil_maps(2, (8, 7, 4))}, "operator#coil_maps", "torch.complex64 (2, 8, 7, 4)"),
        ({"coil_maps": "maps.pt"}, "operator#coil_maps", "'maps.pt'"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got) as caught:
        CartesianMRI(GEOMETRY, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoded", [None, (16, 9, 3)])
@pytest.mark.parametrize("complex_volume", [False, True])
def test_coil_by_coil_is_all_coils_at_once(complex_volume: bool, encoded: tuple[int, int, int] | None) -> None:
    """Against operators of a single coil, whose sum over coils is written out."""
    maps, generator = coil_maps(4), torch.Generator().manual_seed(0)
    options = {"acceleration": 2.0, "complex_volume": complex_volume, "encoded": encoded}
    operator = CartesianMRI(GEOMETRY, coil_maps=maps, **options)
    x = torch.randn(operator.volume_shape, generator=generator, dtype=operator.volume_dtype)
    y = torch.randn(operator.measurement_shape, generator=generator, dtype=torch.complex64)
    given = x.clone(), y.clone()
    single = CartesianMRI(GEOMETRY, **{**options, "complex_volume": True})
    k = torch.cat([single(m * x.to(torch.complex64)) for m in maps.split(1)])
    back = sum(m.conj() * single.adjoint(part) for m, part in zip(maps.split(1), y.split(1), strict=True))
    normal = sum(m.conj() * single.normal(m * x.to(torch.complex64)) for m in maps.split(1))
    torch.testing.assert_close(operator(x), k)
    torch.testing.assert_close(operator.adjoint(y), back if complex_volume else back.real)
    torch.testing.assert_close(operator.normal(x), normal if complex_volume else normal.real)
    assert operator.residual_norm(x, y) == pytest.approx(float(torch.linalg.vector_norm(k - y)), rel=1e-5)
    assert torch.equal(x, given[0])
    assert torch.equal(y, given[1])
