# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.channels import (
    difference_of_gaussians,
    gabor,
    laguerre_gauss,
)

from ...raising import raises


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (partial(laguerre_gauss, width=12.0, count=5), 5),
        (difference_of_gaussians, 10),
        (gabor, 40),
        (partial(gabor, lowest=1 / 128, bands=6), 60),
        (partial(gabor, bands=2, orientations=3, phases=1), 6),
    ],
)
def test_shapes_and_centres(make, count: int) -> None:
    channels = make((32, 40))
    assert channels.shape == (32 * 40, count)
    assert channels.dtype == np.float64
    assert np.linalg.matrix_rank(channels / np.linalg.norm(channels, axis=0)) == count or count == 60
    moved = make((32, 40), centre=(20.5, 19.5)).reshape(32, 40, count)
    assert np.abs(moved[5:] - channels.reshape(32, 40, count)[:-5]).max() < 1e-12


@pytest.mark.parametrize("make", [partial(laguerre_gauss, width=12.0), difference_of_gaussians])
def test_round_channels_are_symmetric(make) -> None:
    square = make((33, 33)).reshape(33, 33, -1)
    assert np.abs(square - np.rot90(square)).max() < 1e-12
    assert np.abs(square - square.swapaxes(0, 1)).max() < 1e-12


def test_laguerre_gauss_is_orthonormal() -> None:
    channels = laguerre_gauss((129, 129), 20.0, 8)
    assert channels.T @ channels == pytest.approx(np.eye(8), abs=1e-9)
    assert channels[129 * 64 + 64] == pytest.approx(math.sqrt(2) / 20)
    cut = laguerre_gauss((21, 21), 20.0, 8)
    assert np.abs(cut.T @ cut - np.eye(8)).max() > 0.1  # only in the continuum


def test_differences_of_gaussians_have_their_pass_bands() -> None:
    n, channels = 256, difference_of_gaussians((256, 256), centre=(128, 128))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n)))
    for j in (4, 7, 9):
        s = 0.005 * 1.4**j
        spectrum = np.fft.fft2(np.fft.ifftshift(channels[:, j].reshape(n, n)))
        expected = np.exp(-0.5 * (f / (1.67 * s)) ** 2) - np.exp(-0.5 * (f / s) ** 2)
        assert np.abs(spectrum.real - expected).max() < 0.02
        assert np.abs(spectrum.imag).max() < 1e-9


def test_gabor_channels_have_their_pass_bands() -> None:
    n, channels = 256, gabor((256, 256), centre=(128, 128), orientations=2).reshape(256, 256, 4, 2, 2)
    for band, low in enumerate((1 / 64, 1 / 32, 1 / 16, 1 / 8)):
        even, odd = (np.fft.fft2(channels[:, :, band, 0, phase]) for phase in (0, 1))
        along = np.abs(even[0])
        middle, ends = round(1.5 * low * n), (round(low * n), round(2 * low * n))
        assert np.argmax(along[: n // 2]) == middle
        for end in ends:  # half the response at the ends of the band
            assert along[end] == pytest.approx(along[middle] / 2, rel=0.08)
        assert np.abs(odd[0])[middle] == pytest.approx(along[middle], rel=0.01)
    turned = channels[:0:-1, :0:-1]
    assert np.abs(channels[1:, 1:, ..., 0] - turned[..., 0]).max() < 1e-12
    assert np.abs(channels[1:, 1:, ..., 1] + turned[..., 1]).max() < 1e-12
    assert channels[128, 128, :, :, 0] == pytest.approx(1)
    assert channels[128, 128, :, :, 1] == pytest.approx(0)
    quarter = gabor((33, 33), orientations=2).reshape(33, 33, 4, 2, 2)
    assert quarter[:, :, :, 1] == pytest.approx(quarter[:, :, :, 0].swapaxes(0, 1))


def test_bad_channels() -> None:
    with raises(InputError, where="laguerre_gauss", got=0.0):
        laguerre_gauss((8, 8), 0.0)
    with raises(InputError, where="laguerre_gauss", got=0):
        laguerre_gauss((8, 8), 3.0, 0)
    with raises(InputError, where="difference_of_gaussians", got=1.0):
        difference_of_gaussians((8, 8), ratio=1.0)
    with raises(InputError, where="gabor", got=2.0):
        gabor((8, 8), bands=7)
    with raises(InputError, where="gabor", got=3):
        gabor((8, 8), phases=3)
    with raises(InputError, where="gabor", got=(8,)):
        gabor((8,))
