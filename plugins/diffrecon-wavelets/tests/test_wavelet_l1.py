# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""WaveletL1: the laws of every regularizer, parity with PyWavelets, and faults."""

import numpy as np
import pytest
import pywt
import torch

from diffrecon_wavelets.wavelet_l1 import WaveletL1
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.testing.regularizer_laws import check_regularizer

CASES = [
    pytest.param((16, 16, 16), {}, id="cube"),
    pytest.param((13, 9, 7), {"wavelet": "haar", "level": 3}, id="odd"),
    pytest.param((8, 12, 5), {"plane": "axial", "wavelet": "sym4", "level": 1}, id="axial"),
    pytest.param((5, 12, 8), {"plane": "sagittal"}, id="sagittal"),
    pytest.param((6, 6, 2), {"wavelet": "db4", "keep_approximation": False}, id="shorter than the filter"),
]


def bound(shape: tuple[int, int, int], **options: object) -> WaveletL1:
    regularizer = registry.create("regularizers", "wavelet_l1", **options)
    regularizer.bind(VolumeGeometry(shape))
    return regularizer


def volume(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_laws_of_every_regularizer(shape: tuple[int, int, int], options: dict) -> None:
    check_regularizer(registry.create("regularizers", "wavelet_l1", **options), VolumeGeometry(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_adjoint_is_the_inverse(shape: tuple[int, int, int], options: dict, dtype: torch.dtype) -> None:
    regularizer, x = bound(shape, **options), volume(shape, dtype=dtype)
    back = regularizer.adjoint(regularizer.transform(x))
    assert back.dtype == dtype
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_adjoint_is_exact_off_the_range_of_the_transform(shape: tuple[int, int, int], options: dict) -> None:
    regularizer, x = bound(shape, **options), volume(shape)
    v = volume(tuple(regularizer.transform(x).shape[1:]), seed=1)
    left, right = (regularizer.transform(x) * v).sum(), (x * regularizer.adjoint(v)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plane", [None, "axial", "coronal", "sagittal"])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "coif1"])
def test_coefficients_are_those_of_pywavelets(plane: str | None, wavelet: str) -> None:
    x = volume((16, 16, 16))
    axes = {None: (1, 2, 3), "axial": (1, 2), "coronal": (1, 3), "sagittal": (2, 3)}[plane]
    bands = pywt.wavedecn(x.numpy(), wavelet, mode="periodization", level=1, axes=axes)
    expected, _ = pywt.coeffs_to_array(bands, axes=axes)
    got = bound((16, 16, 16), plane=plane, wavelet=wavelet, level=1).transform(x)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


def test_a_constant_volume_costs_nothing_unless_the_approximation_counts() -> None:
    x = torch.ones(1, 8, 8, 8, dtype=torch.float64)
    assert bound((8, 8, 8)).penalty(x) == pytest.approx(0.0, abs=1e-9)
    # Two levels in three dimensions: each of the 8 approximations is the sum of 64 ones over sqrt(64).
    assert bound((8, 8, 8), keep_approximation=False).penalty(x) == pytest.approx(8 * 64 / 8)


def test_prox_leaves_the_approximation_alone_only_if_asked() -> None:
    v = torch.full((1, 8, 8, 8), 0.5)
    kept, shrunk = bound((8, 8, 8)).prox(v, 0.2), bound((8, 8, 8), keep_approximation=False).prox(v, 0.2)
    assert torch.equal(kept[:, :2, :2, :2], v[:, :2, :2, :2])
    torch.testing.assert_close(kept[:, 2:], torch.full((1, 6, 8, 8), 0.3))
    torch.testing.assert_close(shrunk, torch.full((1, 8, 8, 8), 0.3))


def test_prox_keeps_the_phase_and_its_argument() -> None:
    v = torch.full((1, 4, 4, 4), 3.0 + 4.0j)
    copy = v.clone()
    got = bound((4, 4, 4), keep_approximation=False).prox(v, 1.0)
    torch.testing.assert_close(got, v * 0.8)
    assert torch.equal(v, copy)


def test_shrinking_the_coefficients_denoises() -> None:
    clean = torch.zeros(1, 16, 16, 16, dtype=torch.float64)
    clean[:, 4:12, 4:12, 4:12] = 1.0
    noisy = clean + 0.1 * volume((16, 16, 16))
    regularizer = bound((16, 16, 16), wavelet="haar")
    denoised = regularizer.adjoint(regularizer.prox(regularizer.transform(noisy), 0.3))
    assert (denoised - clean).norm() < 0.5 * (noisy - clean).norm()


@pytest.mark.parametrize(
    ("options", "where", "expected"),
    [
        ({"threshold": -0.1}, "regularizer#threshold", "0 or more"),
        ({"threshold": float("nan")}, "regularizer#threshold", "0 or more"),
        ({"level": 0}, "regularizer#level", "an integer from 1"),
        ({"level": 1.5}, "regularizer#level", "an integer from 1"),
        ({"plane": "transverse"}, "regularizer#plane", "sagittal, coronal or axial"),
        ({"wavelet": "db_2"}, "regularizer#wavelet", "haar, db2 to db38, sym2 to sym20 or coif1 to coif17"),
        ({"wavelet": "bior2.2"}, "regularizer#wavelet", "a wavelet of the families haar, db, sym or coif"),
        ({"wavelet": "dmey"}, "regularizer#wavelet", "a wavelet of the families haar, db, sym or coif"),
        ({"wavelt": "db2"}, "regularizer#wavelt", "one of threshold, wavelet, level, plane, keep_approximation"),
    ],
)
def test_wrong_options(options: dict, where: str, expected: object) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.create("regularizers", "wavelet_l1", **options)
    assert (caught.value.where, caught.value.expected) == (where, expected)


def test_every_wavelet_of_the_named_families_is_accepted() -> None:
    for family in ("haar", "db", "sym", "coif"):
        for name in pywt.wavelist(family):
            WaveletL1(wavelet=name)


def test_needs_its_geometry_and_the_right_shape() -> None:
    with pytest.raises(ConfigError) as caught:
        WaveletL1().transform(torch.zeros(1, 8, 8, 8))
    assert caught.value.where == "wavelet_l1"
    with pytest.raises(InputError) as caught:
        bound((8, 8, 6)).transform(torch.zeros(1, 8, 8, 8))
    assert (caught.value.where, caught.value.expected) == ("wavelet_l1", ("C", 8, 8, 6))
    with pytest.raises(InputError) as caught:
        bound((8, 8, 6)).adjoint(torch.zeros(1, 8, 8, 6))
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("wavelet_l1", ("C", 8, 8, 8), (1, 8, 8, 6))
