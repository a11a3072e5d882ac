# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import erf, j1

from monai_diffrecon.errors import InputError, NumericalError
from monai_diffrecon.evaluation.image_quality.measures.edge import fit_disc, task_transfer
from monai_diffrecon.evaluation.image_quality.measures.frequency import Curve, frequency_at, radial_frequency
from monai_diffrecon.evaluation.image_quality.measures.point import (
    disc_spectrum,
    fundamental_amplitude,
    point_transfer,
    sphere_spectrum,
)

from ...raising import raises

SPACING = (0.5, 0.5)


def gaussian(f: np.ndarray) -> np.ndarray:
    return np.exp(-2 * (np.pi * 0.8 * f) ** 2)  # sigma 0.8 mm


def sharpened(f: np.ndarray) -> np.ndarray:
    return (1 + 4.0 * f**2) * np.exp(-((f / 0.42) ** 2))  # rises above 1, as of an edge-enhancing kernel


def imaged(transfer, spectrum, size: int, centre: tuple[float, float], spacing=SPACING) -> np.ndarray:
    """The image of an object of a known continuous spectrum: a sum of waves, sampled at points; nothing is aliased."""
    f = radial_frequency((size, size), spacing)
    rows, columns = (np.fft.fftshift(np.fft.fftfreq(size)) for _ in range(2))
    shift = np.exp(-2j * np.pi * (rows[:, None] * centre[0] + columns * centre[1]))
    return np.fft.ifft2(np.fft.ifftshift(transfer(f) * spectrum(f) * shift)).real / math.prod(spacing)


def disc(radius: float):
    def spectrum(f: np.ndarray) -> np.ndarray:
        return math.pi * radius**2 * disc_spectrum(f, 2 * radius)

    return spectrum


@pytest.mark.parametrize("transfer", [gaussian, sharpened])
@pytest.mark.parametrize("centre", [(64.0, 64.0), (63.3, 64.6)])
def test_transfer_from_a_disc(transfer, centre: tuple[float, float]) -> None:
    image = 40 + 100 * imaged(transfer, disc(12.5), 128, centre)
    found = task_transfer(image, SPACING, centre, 12.5, 100.0)
    truth = transfer(found.transfer.frequency)
    assert found.transfer.value[0] == 1.0
    assert found.transfer.value[truth > 0.02] == pytest.approx(truth[truth > 0.02], abs=0.006)
    wide = task_transfer(image, SPACING, centre, 12.5, bin_width=0.25).transfer.value  # its sincs are 0.8 at Nyquist
    assert wide[truth > 0.02] == pytest.approx(truth[truth > 0.02], abs=0.012)
    small = task_transfer(100 * imaged(transfer, disc(5.0), 128, centre), SPACING, centre, 5.0)
    truth = transfer(small.transfer.frequency)
    assert small.transfer.value[truth > 0.02] == pytest.approx(truth[truth > 0.02], abs=0.01)  # its edge is bent
    assert found.transfer.frequency[-1] == pytest.approx(1.0)
    assert found.contrast == pytest.approx(100, rel=0.01)
    assert found.recovery == pytest.approx(1, rel=0.01)
    assert found.reason == ""


@pytest.mark.parametrize("transfer", [gaussian, sharpened])
def test_task_transfer_of_noisy_realizations(transfer) -> None:
    clean = imaged(transfer, disc(12.5), 96, (47.6, 48.2))
    noise = np.random.default_rng(0).normal(0, 20, (60, 96, 96))
    found = task_transfer(-200 * clean + noise, SPACING, (47.6, 48.2), 12.5, -250.0, reach=5.0)
    truth = transfer(found.transfer.frequency)
    assert found.transfer.value[truth > 0.1] == pytest.approx(truth[truth > 0.1], abs=0.03)
    assert found.noise == pytest.approx(20, rel=0.01)
    assert found.contrast == pytest.approx(-200, rel=0.02)
    assert found.recovery == pytest.approx(0.8, rel=0.02)
    assert found.contrast_to_noise == pytest.approx(200 * math.sqrt(60) / 20, rel=0.02)
    single = task_transfer(-200 * clean + noise[0], SPACING, (47.6, 48.2), 12.5, reach=5.0)
    assert single.contrast_to_noise == pytest.approx(10, rel=0.1)
    assert math.isnan(single.recovery)
    wrong = np.abs(single.transfer.value - truth)[truth > 0.1].max()
    assert wrong > 0.03  # what its contrast-to-noise ratio warns of


def test_edges_of_pixels_that_are_not_square() -> None:
    spacing = (0.5, 0.4)
    y, x = np.indices((120, 150), dtype=np.float64)
    r = np.hypot((y - 60.2) * 0.5, (x - 74.7) * 0.4)
    # Far from the centre, the edge is as good as straight.
    image = 0.5 - 0.5 * erf((r - 20) / (math.sqrt(2) * 0.8))
    found = task_transfer(image, spacing, (60.2, 74.7), 20.0, reach=6.0)
    assert found.transfer.value == pytest.approx(gaussian(found.transfer.frequency), abs=0.02)
    assert frequency_at(found.transfer, 0.5) == pytest.approx(math.sqrt(math.log(2) / 2) / (math.pi * 0.8), rel=0.02)
    assert found.contrast_to_noise == math.inf or found.contrast_to_noise > 1e3


def test_a_disc_is_found_to_parts_of_a_pixel() -> None:
    noise = np.random.default_rng(1).normal(0, 5, (4, 96, 96))
    image = 10 - 60 * imaged(gaussian, disc(9.0), 96, (46.37, 49.81)) + noise
    centre, radius = fit_disc(image, SPACING, (48, 48), 10.0)
    assert centre == pytest.approx((46.37, 49.81), abs=0.05)
    assert radius == pytest.approx(9.0, abs=0.05)
    with raises(NumericalError, where="fit_disc"):
        fit_disc(np.zeros((96, 96)), SPACING, (48, 48), 10.0)


def test_nothing_is_nothing() -> None:
    found = task_transfer(np.ones((64, 64)), SPACING, (32, 32), 8.0)
    assert found.reason
    assert np.isnan(found.transfer.value).all()
    assert math.isnan(found.contrast_to_noise)
    assert math.isnan(frequency_at(found.transfer, 0.5))


@pytest.mark.parametrize("transfer", [gaussian, sharpened])
@pytest.mark.parametrize(("kind", "spectrum"), [("wire", disc_spectrum), ("bead", sphere_spectrum)])
def test_transfer_from_a_point(transfer, kind: str, spectrum) -> None:
    image = imaged(transfer, lambda f: 30 * spectrum(f, 1.2), 48, (24.3, 23.1))
    rows, columns = np.indices((48, 48))
    background = 100 + 0.2 * rows - 0.1 * columns
    noise = np.random.default_rng(2).normal(0, 0.02, (50, 48, 48))
    found = point_transfer(image + background + noise, SPACING, diameter=1.2, kind=kind)
    truth = transfer(found.frequency)
    at = (truth > 0.1) & ~np.isnan(found.value)
    assert at.sum() > 8
    assert found.value[at] == pytest.approx(truth[at], abs=0.03)
    plain = point_transfer(image, SPACING)
    assert plain.value[8] == pytest.approx(truth[8] * spectrum(plain.frequency[8:9], 1.2)[0], abs=0.02)


def test_beyond_the_objects_spectrum_is_nothing() -> None:
    image = imaged(gaussian, lambda f: disc_spectrum(f, 2.5), 64, (32, 32))
    found = point_transfer(image, SPACING, diameter=2.5)
    first_zero = 3.8317 / (math.pi * 2.5)
    assert not np.isnan(found.value[found.frequency < 0.85 * first_zero]).any()
    assert np.isnan(found.value[found.frequency > first_zero]).all()
    assert np.isnan(point_transfer(np.ones((16, 16)), SPACING).value).all()


def test_spectra_by_numbers() -> None:
    assert disc_spectrum(np.array([0.0, 0.3]), 2.0) == pytest.approx([1, 2 * j1(0.6 * math.pi) / (0.6 * math.pi)])
    z = np.linspace(-1, 1, 20001)
    for f in (0.001, 0.2, 0.7):  # the projection of a sphere on a line is pi (1 - z^2)
        naive = np.sum((1 - z**2) * np.cos(2 * np.pi * f * z)) / np.sum(1 - z**2)
        assert sphere_spectrum(np.array([f]), 2.0)[0] == pytest.approx(naive, abs=1e-6)


@pytest.mark.parametrize("frequency", [0.1, 0.23, 0.41])
def test_the_amplitude_of_a_frequency(frequency: float) -> None:
    x = np.arange(60) * 1.0
    wave = 100.0 + 0.1 * x + 7.0 * np.cos(2 * np.pi * frequency * x + 0.8)
    assert fundamental_amplitude(wave, 1.0, frequency) == pytest.approx(7.0, rel=0.02)
    assert fundamental_amplitude(np.full(60, 100.0), 1.0, frequency) == pytest.approx(0.0, abs=1e-10)
    bars = 80.0 * (np.mod(np.arange(600) * 0.1 * frequency, 1.0) < 0.5)
    assert fundamental_amplitude(bars, 0.1, frequency) == pytest.approx(160.0 / math.pi, rel=0.03)
    with raises(InputError, where="fundamental_amplitude"):
        fundamental_amplitude(wave, 1.0, 0.6)


def test_frequency_at() -> None:
    f = np.array([0.0, 1.0, 2.0, 3.0])
    assert frequency_at(Curve(f, np.array([1.0, 0.8, 0.4, 0.6])), 0.5) == pytest.approx(1.75)
    assert frequency_at(Curve(f, np.array([1.0, 0.5, 0.4, 0.1])), 0.5) == 1.0
    assert math.isnan(frequency_at(Curve(f, np.array([1.0, 0.8, 0.6, 0.55])), 0.5))
    assert math.isnan(frequency_at(Curve(f, np.array([1.0, np.nan, 0.6, 0.1])), 0.5))
    assert math.isnan(frequency_at(Curve(f, np.array([0.4, 0.9, 0.6, 0.1])), 0.5))


def test_bad_edges() -> None:
    image = np.zeros((40, 40))
    with raises(InputError, where="task_transfer", got=(50, 20)):
        task_transfer(image, SPACING, (50, 20), 5.0)
    with raises(InputError, where="task_transfer", got=12.0):
        task_transfer(image, SPACING, (20, 20), 12.0)
    with raises(InputError, where="task_transfer", got=0.0):
        task_transfer(image, SPACING, (20, 20), 5.0, reach=0.0)
    with raises(InputError, where="task_transfer", got=5.0):
        task_transfer(image, SPACING, (20, 20), 6.0, reach=5.0)
    with raises(InputError, where="point_transfer", got="needle"):
        point_transfer(image, SPACING, kind="needle")  # type: ignore[arg-type]
    with raises(InputError, where="point_transfer", got=-1):
        point_transfer(image, SPACING, diameter=-1)
    with raises(InputError, where="point_transfer", got=20):
        point_transfer(image, SPACING, border=20)
