# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.frequency import radial_frequency
from monai_diffrecon.evaluation.image_quality.measures.noise_power import (
    noise_power_of,
    noise_power_spectrum,
    stationarity,
)

from ...raising import raises


def coloured(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (N, ...) with a band-pass spectrum like that of filtered back-projection, and this spectrum, centred."""
    f = radial_frequency(shape[1:], spacing)
    transfer = np.sqrt(f) * np.exp(-((f / 0.35) ** 2))
    white = np.random.default_rng(seed).normal(0, 7.0, shape)
    axes = tuple(range(1, len(shape)))
    noise = np.fft.ifftn(np.fft.fftn(white, axes=axes) * np.fft.ifftshift(transfer), axes=axes).real
    return noise, 49.0 * np.prod(spacing) * transfer**2


@pytest.mark.parametrize("shape", [(40, 48, 64), (24, 16, 20, 24)])
def test_white_noise_is_flat(shape: tuple[int, ...]) -> None:
    spacing = (0.5, 0.8, 1.2)[: len(shape) - 1]
    x = 100 + np.random.default_rng(0).normal(0, 10, shape)
    found = noise_power_spectrum(x, spacing)
    cell = np.prod([axis[1] - axis[0] for axis in found.axes])
    variance = x.var(axis=0, ddof=1).mean()
    assert found.spectrum.sum() * cell == pytest.approx(variance, rel=1e-12)  # Parseval
    assert found.std == pytest.approx(np.sqrt(variance), rel=1e-12)
    assert found.spectrum.shape == shape[1:] == tuple(map(len, found.axes))
    assert found.radial.value[3:] == pytest.approx(100 * np.prod(spacing), rel=0.06)
    assert found.mean_frequency == pytest.approx(found.radial.frequency[[1, -1]].mean(), rel=0.03)
    assert found.radial.frequency[-1] <= 0.5 / max(spacing) + 1e-9


@pytest.mark.parametrize(("shape", "spacing"), [((80, 64, 64), (0.6, 0.6)), ((20, 24, 32, 32), (1.0, 0.6, 0.6))])
def test_coloured_noise_has_its_spectrum(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    noise, expected = coloured(shape, spacing, 1)
    found, truth = noise_power_spectrum(noise, spacing), noise_power_of(expected, spacing)
    at = truth.radial.frequency >= 2 / (shape[1] * spacing[0])
    tolerance = 0.05 * truth.radial.value.max()
    assert found.radial.value[at] == pytest.approx(truth.radial.value[at], abs=tolerance)
    assert found.std == pytest.approx(truth.std, rel=0.02)
    assert found.mean_frequency == pytest.approx(truth.mean_frequency, rel=0.02)
    # d/df of f exp(-2 f^2 / 0.35^2) is zero at 0.35 / 2; rings are coarser, and near it the curve is flat.
    assert found.peak_frequency == pytest.approx(0.175, abs=0.06)
    assert truth.peak_frequency == pytest.approx(0.175, abs=1 / (shape[1] * spacing[0]))


def test_the_ensemble_removes_what_all_realizations_share() -> None:
    noise, _ = coloured((6, 32, 32), (1.0, 1.0), 2)
    shared = np.random.default_rng(3).normal(0, 1000, (32, 32))
    plain, shifted = noise_power_spectrum(noise, (1, 1)), noise_power_spectrum(noise + shared, (1, 1))
    assert shifted.spectrum == pytest.approx(plain.spectrum, rel=1e-6, abs=1e-6)
    # Without the correction of N / (N - 1) it would be a sixth less.
    many = [noise_power_spectrum(coloured((6, 32, 32), (1.0, 1.0), s)[0], (1, 1)).std ** 2 for s in range(12)]
    assert np.mean(many) == pytest.approx(
        noise_power_of(coloured((1, 32, 32), (1, 1), 0)[1], (1, 1)).std ** 2, rel=0.02
    )


def test_polynomials_are_removed_from_single_regions() -> None:
    rows, columns = np.indices((40, 40)) / 40
    noise = np.random.default_rng(4).normal(0, 3, (1, 40, 40))
    cupping = 500 + 80 * rows - 40 * columns + 100 * rows**2 + 60 * rows * columns
    found = noise_power_spectrum(noise + cupping, (0.5, 0.5))
    assert found.std == pytest.approx(3, rel=0.05)
    assert found.spectrum == pytest.approx(
        noise_power_spectrum(noise, (0.5, 0.5), detrend="quadratic").spectrum, abs=1e-8
    )
    assert noise_power_spectrum(noise + cupping, (0.5, 0.5), detrend="linear").std > 3.5
    constant = noise_power_spectrum(noise + cupping, (0.5, 0.5), detrend="constant")
    assert constant.std == pytest.approx((noise + cupping).std(), rel=1e-12)
    assert constant.spectrum[20, 20] == pytest.approx(0, abs=1e-9)


def test_a_wave_is_at_its_frequency() -> None:
    x = np.cos(2 * np.pi * 0.25 * 0.5 * np.arange(64)) * np.ones((1, 64, 1))
    assert noise_power_spectrum(x, (0.5, 0.5), detrend="constant").peak_frequency == pytest.approx(0.25, abs=0.01)


def test_stationarity_of_a_known_map() -> None:
    noise, _ = coloured((60, 64, 64), (1.0, 1.0), 5)
    flat = stationarity(noise, 7)
    assert flat.local_std.shape == (58, 58)
    assert flat.raw_variation > 0.012 > 0.008 > flat.variation
    strength = 1 + 0.4 * np.sin(2 * np.pi * np.arange(64) / 64)[:, None] * np.ones(64)
    found = stationarity(noise * strength, 7)
    windows = np.lib.stride_tricks.sliding_window_view(strength**2, (7, 7)).mean(axis=(2, 3)) ** 0.5
    assert found.variation == pytest.approx(windows.std() / windows.mean(), rel=0.05)
    assert found.raw_variation > found.variation
    assert np.sqrt(np.mean((found.local_std - windows / windows.mean()) ** 2)) < 0.07


def test_the_sampling_error_is_taken_off() -> None:
    flat = [stationarity(np.random.default_rng(s).normal(size=(8, 40, 40)), 3) for s in range(6)]
    assert min(s.raw_variation for s in flat) > 0.07
    assert max(s.variation for s in flat) < 0.03
    assert stationarity(np.random.default_rng(0).normal(size=(5, 9, 8)), 4).local_std.shape == (6, 5)


def test_bad_noise() -> None:
    x = np.zeros((4, 8, 8))
    with raises(InputError, where="noise_power_spectrum", got=(8, 8)):
        noise_power_spectrum(x[0], (1, 1))
    with raises(InputError, where="noise_power_spectrum", got=(1, 0)):
        noise_power_spectrum(x, (1, 0))
    with raises(InputError, where="noise_power_spectrum", got="cubic"):
        noise_power_spectrum(x, (1, 1), detrend="cubic")  # type: ignore[arg-type]
    with raises(InputError, where="noise_power_spectrum", expected="2 realizations"):
        noise_power_spectrum(x[:1], (1, 1), detrend="ensemble")
    with raises(InputError, where="noise_power_spectrum", got=(8, 3)):
        noise_power_spectrum(x[:, :, :3], (1, 1))
    with raises(InputError, where="noise_power_spectrum"):
        noise_power_spectrum(np.full((4, 8, 8), np.nan), (1, 1))
    with raises(InputError, where="noise_power_spectrum"):
        noise_power_spectrum(x + 1j, (1, 1))
    with raises(InputError, where="stationarity", got=9):
        stationarity(x, 9)
    with raises(InputError, where="stationarity", expected="realizations that differ"):
        stationarity(x, 3)
    assert np.isnan(noise_power_spectrum(x, (1, 1)).mean_frequency)
