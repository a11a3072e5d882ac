# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.frequency import radial_frequency, rings
from monai_diffrecon.evaluation.image_quality.measures.ring_correlation import (
    RingCorrelation,
    crossing_frequency,
    ring_correlation,
    scanning_correlation,
    threshold_curve,
)

from ...raising import raises

SPACING = (0.5, 0.5)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def filtered(x: np.ndarray, transfer) -> np.ndarray:
    f = np.fft.ifftshift(transfer(radial_frequency(x.shape, (0.5,) * x.ndim)))
    return np.fft.ifftn(np.fft.fftn(x) * f).real


def texture(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return 20 * filtered(noise(shape, seed), lambda f: np.exp(-((f / 0.3) ** 2)))


@pytest.mark.parametrize("window", ["hann", "tukey", "none"])
@pytest.mark.parametrize("shape", [(64, 64), (48, 60), (24, 24, 24)])
def test_the_ends(window, shape: tuple[int, ...]) -> None:
    x, y, spacing = 100 + noise(shape, 0), noise(shape, 1), (0.5,) * len(shape)
    same = ring_correlation(x, 3 * x - 7, spacing, window=window)
    assert same.correlation == pytest.approx(1)
    assert ring_correlation(x, -x, spacing, window=window).correlation == pytest.approx(-1)
    other = ring_correlation(x, y, spacing, window=window)
    # The scatter of a ring of n samples, of which half are conjugates and a window correlates neighbours.
    assert (np.abs(other.correlation) < 4.5 * np.sqrt(2 * 2 ** len(shape) / other.count)).all()
    assert other.correlation[5:] @ other.count[5:] / other.count[5:].sum() == pytest.approx(0, abs=0.08)
    assert crossing_frequency(same) == same.frequency[-1]
    assert crossing_frequency(other) == other.frequency[0]


def test_correlation_by_the_definition() -> None:
    x, y = noise((32, 32), 2), noise((32, 32), 3)
    y += x
    found = ring_correlation(x, y, (0.5, 0.5), window="none")
    fx, fy = np.fft.fft2(x - x.mean()), np.fft.fft2(y - y.mean())
    f = np.fft.fftfreq(32)
    ring = np.floor(np.hypot(f[:, None], f) * 32 + 0.5)
    for k in (1, 5, 15):
        at = ring == k
        expected = (fx[at] * fy[at].conj()).sum().real / math.sqrt(
            (np.abs(fx[at]) ** 2).sum() * (np.abs(fy[at]) ** 2).sum()
        )
        assert found.correlation[k - 1] == pytest.approx(expected)
        assert found.count[k - 1] == at.sum()


@pytest.mark.parametrize("window", ["hann", "none"])
def test_correlation_follows_the_ratio_of_signal_and_noise(window) -> None:
    """Two noisy copies correlate as SNR / (1 + SNR), one and the truth as its root."""
    expected, pair, single = [], [], []
    for seed in range(24):
        x = texture((128, 128), 10 + seed)
        a, b = (x + noise(x.shape, 100 + 2 * seed + k) for k in (0, 1))
        pair.append(ring_correlation(a, b, SPACING, window=window).correlation)
        single.append(ring_correlation(a, x, SPACING, window=window).correlation)
    f = ring_correlation(x, x, SPACING).frequency
    ratio = 400 * np.exp(-2 * (f / 0.3) ** 2)
    expected = ratio / (1 + ratio)
    kept = slice(2, None)  # within the first rings, a window mixes powers that differ much
    assert np.mean(pair, axis=0)[kept] == pytest.approx(expected[kept], abs=0.05)
    assert np.mean(single, axis=0)[kept] == pytest.approx(np.sqrt(expected)[kept], abs=0.05)


def test_a_low_passed_copy_fails_where_its_band_ends() -> None:
    x = 30 * noise((128, 128), 4)
    copy = filtered(x, lambda f: (f < 0.5) * 1.0) + noise(x.shape, 5)
    found = ring_correlation(x, copy, SPACING)
    assert crossing_frequency(found, "one_seventh") == pytest.approx(0.5, abs=0.03)
    assert crossing_frequency(found, "half_bit") == pytest.approx(0.5, abs=0.03)
    assert found.correlation[found.frequency < 0.45].min() > 0.97
    assert crossing_frequency(found, 0.9) <= crossing_frequency(found, 0.5)


def test_thresholds_by_numbers() -> None:
    rings_of = RingCorrelation(np.array([0.1, 0.2]), np.array([1.0, 0.0]), np.array([8, 10**12]))
    assert threshold_curve(rings_of) == pytest.approx([0.5772, 0.1716], abs=1e-4)  # half a bit: SNR 0.2071
    assert threshold_curve(rings_of, "one_seventh") == pytest.approx(1 / 7)
    assert threshold_curve(rings_of, 0.75) == pytest.approx(0.75)
    assert crossing_frequency(rings_of, 0.75) == pytest.approx(0.125)
    with raises(InputError, where="threshold_curve", got="one_bit"):
        threshold_curve(rings_of, "one_bit")  # type: ignore[arg-type]
    with raises(InputError, where="threshold_curve", got=1.0):
        threshold_curve(rings_of, 1.0)


def test_rings_of_pixels_that_are_not_square() -> None:
    found = rings((60, 32), (1.0, 0.4))
    assert found.count[0] == 1
    assert found.frequency[0] == 0.0
    assert found.frequency[-1] <= 0.5
    assert (np.diff(found.frequency) > 0).all()
    assert found.count.sum() == (radial_frequency((60, 32), (1.0, 0.4)) <= 0.5).sum()
    own = found.mean(radial_frequency((60, 32), (1.0, 0.4)))
    assert own.value == pytest.approx(own.frequency)


def test_flat_images() -> None:
    x, flat = noise((32, 32), 6), np.full((32, 32), 3.0)
    assert (ring_correlation(x, flat, SPACING).correlation == 0).all()
    assert np.isnan(ring_correlation(flat, flat, SPACING).correlation).all()
    assert math.isnan(crossing_frequency(ring_correlation(flat, flat, SPACING)))


def test_scanning_finds_the_invented_disc() -> None:
    truth = 100 + texture((160, 192), 7)
    truth[128:, :32] = 100.0  # no content
    image = truth + noise(truth.shape, 8)
    rows, columns = np.indices(truth.shape)
    image += 150 * (np.hypot(rows - 79, columns - 112) < 6)
    found = scanning_correlation(image, truth, SPACING, patch=32)
    assert found.crossing.shape == (5, 6)
    assert np.isnan(found.crossing[4, 0])
    assert np.isnan(found.crossing).sum() == 1
    assert found.failing(0.2) == [(64, 96)]
    assert found.failing(10.0)[:2] == [(0, 0), (0, 32)]
    assert len(found.failing(10.0)) == 29
    clean = scanning_correlation(truth + noise(truth.shape, 9), truth, SPACING, patch=32)
    assert clean.failing(0.2) == []
    dense = scanning_correlation(image, truth, SPACING, patch=32, stride=16)
    assert dense.crossing.shape == (9, 11)
    assert dense.crossing[::2, ::2] == pytest.approx(found.crossing, nan_ok=True)
    assert (64, 96) in dense.failing(0.2)


def test_a_blank_answer_fails_at_once() -> None:
    truth = texture((64, 64), 9)
    found = scanning_correlation(np.zeros((64, 64)), truth, SPACING, patch=32)
    assert found.crossing == pytest.approx(rings((32, 32), SPACING).frequency[1])


def test_bad_images() -> None:
    x = noise((32, 32), 0)
    with raises(InputError, where="ring_correlation", got="(32, 32) and (32, 31)"):
        ring_correlation(x, x[:, 1:], SPACING)
    with raises(InputError, where="ring_correlation", got="blackman"):
        ring_correlation(x, x, SPACING, window="blackman")  # type: ignore[arg-type]
    with raises(InputError, where="scanning_correlation", got=64):
        scanning_correlation(x, x, SPACING)
    with raises(InputError, where="scanning_correlation", got=0):
        scanning_correlation(x, x, SPACING, patch=16, stride=0)
    with raises(InputError, where="scanning_correlation", got=(31, 32)):
        scanning_correlation(x[1:], x, SPACING, patch=16)
