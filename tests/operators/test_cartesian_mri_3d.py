# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian MRI with two phase-encoded axes."""

import math

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.cartesian_mri_3d import CartesianMRI3D
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws

from ..raising import raises

GEOMETRY = VolumeGeometry((5, 6, 7))
MAPS = keyed_normal((3, *GEOMETRY.shape), torch.complex64, "maps")
ECHO = keyed_normal((8, 6, 7), torch.float32, "mask") > -0.3
ECHO[:3] = False

OPTIONS = {
    "real": {"acceleration": 3.0},
    "complex": {"acceleration": 3.0, "complex_volume": True, "readout": "coronal"},
    "lines, partial": {"acceleration": 2.0, "mask_type": "uniform1d", "partial_fourier": 0.7, "readout": "axial"},
    "coils": {"acceleration": 2.0, "coil_maps": MAPS, "readout": "axial"},
    "complex coils": {"acceleration": 2.0, "coil_maps": MAPS, "complex_volume": True, "partial_fourier": 0.75},
    "partial echo": {"mask": ECHO, "encoded": [8, 6, 7]},
    "partial echo, coils": {"mask": ECHO, "encoded": [8, 6, 7], "coil_maps": MAPS, "complex_volume": True},
}


class TestLaws(OperatorLaws):
    @pytest.fixture(params=OPTIONS)
    def operator(self, request: pytest.FixtureRequest) -> CartesianMRI3D:
        return CartesianMRI3D(GEOMETRY, **OPTIONS[request.param])


@pytest.mark.parametrize("readout", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("coils", [0, 2])
def test_parity_with_the_sum(readout: str, coils: int) -> None:
    """The discrete Fourier transform over all three axes as one writes it, and the mask across the readout."""
    maps = MAPS[:coils] if coils else None
    operator = CartesianMRI3D(GEOMETRY, acceleration=2.0, coil_maps=maps, complex_volume=True, readout=readout)
    x = keyed_normal(operator.volume_shape, torch.complex64, "x")
    F = []
    for n in GEOMETRY.shape:
        i = np.arange(n) - n // 2
        F.append(np.exp(-2j * np.pi * np.outer(i, i) / n) / math.sqrt(n))
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[readout]
    mask = np.expand_dims(operator.mask.numpy(), axis)
    y = operator(x).numpy()
    assert y.shape == (max(coils, 1), *GEOMETRY.shape)
    for c in range(max(coils, 1)):
        weighted = x[0].numpy() if maps is None else maps[c].numpy() * x[0].numpy()
        expected = np.einsum("ai,bj,ck,ijk->abc", *F, weighted) * mask
        np.testing.assert_allclose(y[c], expected, atol=2e-5)


def test_complex_inner_products() -> None:
    """Not their real part alone: a complex-linear map has <A x, y> = <x, A^H y> as it stands."""
    for cls in (CartesianMRI, CartesianMRI3D):
        operator = cls(GEOMETRY, acceleration=2.0, coil_maps=MAPS, complex_volume=True, partial_fourier=0.8)
        for dtype, tolerance in ((torch.complex64, 1e-5), (torch.complex128, 1e-10)):
            x = keyed_normal(operator.volume_shape, dtype, "x")
            y = keyed_normal(operator.measurement_shape, dtype, "y")
            left = torch.vdot(operator(x).flatten(), y.flatten())
            right = torch.vdot(x.flatten(), operator.adjoint(y).flatten())
            size = torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)
            assert abs(left - right) < tolerance * size


def test_a_volume_is_not_apart_in_slices() -> None:
    operator = CartesianMRI3D(GEOMETRY)
    assert operator.slice_plane is None
    assert [operator.slice_axis(plane) for plane in ("sagittal", "coronal", "axial")] == [None] * 3


@pytest.mark.parametrize("complex_volume", [False, True])
@pytest.mark.parametrize("maps", [None, MAPS], ids=["single", "coils"])
def test_full_sampling_gives_the_volume_back(maps: torch.Tensor | None, complex_volume: bool) -> None:
    operator = CartesianMRI3D(GEOMETRY, torch.ones(6, 7), coil_maps=maps, complex_volume=complex_volume)
    x = keyed_normal(operator.volume_shape, operator.volume_dtype, "x")
    torch.testing.assert_close(operator.initial(operator(x)), x, atol=1e-5, rtol=1e-5)


def test_with_the_readout_along_z_it_is_the_slices_transformed_once_more() -> None:
    sliced = CartesianMRI(GEOMETRY, acceleration=2.0, coil_maps=MAPS)
    whole = CartesianMRI3D(GEOMETRY, acceleration=2.0, coil_maps=MAPS, readout="axial")
    x = keyed_normal(whole.volume_shape, torch.float32, "x")
    assert torch.equal(sliced.mask, whole.mask)
    torch.testing.assert_close(whole.normal(x), sliced.normal(x))
    assert whole.norm() == pytest.approx(sliced.norm(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"readout": "z"}, "operator#readout", "'z'"),
        ({"mask": torch.ones(5, 6)}, "operator#mask", "(5, 6)"),
        ({"mask": torch.ones(5, 6, 8)}, "operator#mask", "(5, 6, 8)"),
        ({"acceleration": 0.5}, "operator#acceleration", "0.5"),
        ({"partial_fourier": 0.5}, "operator#partial_fourier", "0.5"),
    ],
)
def test_wrong_options(options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got) as caught:
        CartesianMRI3D(GEOMETRY, **options)
    assert "\n" not in str(caught.value)
