# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.image_quality.measures.channels import gabor, laguerre_gauss
from monai_diffrecon.evaluation.image_quality.measures.detection import area_under_curve, d_prime
from monai_diffrecon.evaluation.image_quality.measures.eye import EyeFilter
from monai_diffrecon.evaluation.image_quality.measures.frequency import radial_frequency
from monai_diffrecon.evaluation.image_quality.measures.observation import Observation
from monai_diffrecon.evaluation.image_quality.measures.observers import channelized_hotelling, non_prewhitening

from ...raising import raises

SIZE = 24


def signal(strength: float = 1.0) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    return strength * np.exp(-(rows**2 + columns**2) / (2 * 2.5**2))


def white(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2.0, (count, SIZE, SIZE))


#: Amplitude of a circulant filter: correlated noise of known covariance.
FILTER = np.fft.ifftshift(0.3 + np.exp(-((radial_frequency((SIZE, SIZE), (1, 1)) / 0.12) ** 2)))


@cache
def coloured(count: int, seed: int) -> np.ndarray:
    return np.fft.ifft2(np.fft.fft2(white(count, seed)) * FILTER).real


def covariance() -> np.ndarray:
    rows = np.fft.ifft2(4.0 * FILTER**2).real
    i, j = (g.ravel() for g in np.indices((SIZE, SIZE)))
    return rows[(i[:, None] - i) % SIZE, (j[:, None] - j) % SIZE]


def fifty(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fifty groups of each class: as many templates, instead of one for every region."""
    return np.arange(count) % 50, 50 + np.arange(count) % 50


def auc_d(found: Observation) -> float:
    return d_prime(area_under_curve(found.present, found.absent), len(found.present), len(found.absent))


def test_known_signal_in_white_noise() -> None:
    s = signal(0.8)
    found = non_prewhitening(white(4000, 0) + s, white(4000, 1), signal=s)
    expected = np.linalg.norm(s) / 2.0
    assert found.plug_in == pytest.approx(expected, rel=0.03)
    assert auc_d(found) == pytest.approx(expected, rel=0.03)


def test_hotelling_in_white_noise() -> None:
    s, channels = signal(0.8), laguerre_gauss((SIZE, SIZE), 8.0, 5)
    found = channelized_hotelling(white(4000, 2) + s, white(4000, 3), channels, groups=fifty(4000))
    delta = channels.T @ s.ravel()
    expected = math.sqrt(delta @ np.linalg.solve(4.0 * channels.T @ channels, delta))
    assert found.plug_in == pytest.approx(expected, rel=0.03)
    assert auc_d(found) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "channels", [laguerre_gauss((SIZE, SIZE), 8.0, 5), gabor((SIZE, SIZE), bands=3, lowest=1 / 32)]
)
def test_hotelling_in_coloured_noise(channels: np.ndarray) -> None:
    s, k = signal(0.9), covariance()
    found = channelized_hotelling(coloured(3000, 4) + s, coloured(3000, 5), channels, groups=fifty(3000))
    delta = channels.T @ s.ravel()
    expected = math.sqrt(delta @ np.linalg.solve(channels.T @ k @ channels, delta))
    assert auc_d(found) == pytest.approx(expected, rel=0.03)
    assert found.plug_in == pytest.approx(expected, rel=0.03)
    matched = non_prewhitening(coloured(3000, 4) + s, coloured(3000, 5), signal=s)
    flat = s.ravel()
    assert matched.plug_in == pytest.approx(flat @ flat / math.sqrt(flat @ k @ flat), rel=0.03)
    assert matched.plug_in < found.plug_in  # that knows how the noise is correlated


def test_the_eye_filter_by_the_definition() -> None:
    s, eye = signal(), EyeFilter(pixel=0.6, distance=600.0)
    present, absent = white(3, 6) + s, white(4, 7)
    found = non_prewhitening(present, absent, signal=s, eye=eye)
    padded = np.zeros((2 * SIZE, 2 * SIZE))
    padded[:SIZE, :SIZE] = s
    template = np.fft.ifft2(np.fft.fft2(padded) * eye.response(padded.shape) ** 2).real[:SIZE, :SIZE]
    assert found.present == pytest.approx((present * template).sum(axis=(1, 2)))
    assert found.absent == pytest.approx((absent * template).sum(axis=(1, 2)))


def test_eyes_peak_where_they_should() -> None:
    f = np.linspace(0, 12, 12001)
    for model, peak in (("burgess", 4.0), ("saunders_samei", 0.573)):
        response = EyeFilter(model=model).sensitivity(f)  # type: ignore[arg-type]
        assert f[response.argmax()] == pytest.approx(peak, abs=0.005)
        assert response.max() == pytest.approx(1)
        assert response[0] == 0.0
    # A wave of 8 pixels of 0.25 mm at half a metre: 2 mm are 0.229 degrees.
    response = EyeFilter(pixel=0.25, distance=500.0).response((64, 64))
    assert response[0, 8] == pytest.approx(EyeFilter().sensitivity(np.array([4.363]))[0], rel=1e-3)
    assert response[0, 8] == response[8, 0] == response[-8, 0]


@pytest.mark.parametrize("grouped", [False, True])
def test_leaving_out_by_brute_force(grouped: bool) -> None:
    channels = laguerre_gauss((SIZE, SIZE), 8.0, 4)
    present, absent = coloured(14, 8) + signal(0.5), coloured(17, 9)
    labels = (np.arange(14) % 6, np.arange(17) % 7) if grouped else (np.arange(14), 100 + np.arange(17))
    found = channelized_hotelling(present, absent, channels, groups=labels if grouped else None)
    v1, v0 = (x.reshape(len(x), -1) @ channels for x in (present, absent))
    for v, own, scores in ((v1, labels[0], found.present), (v0, labels[1], found.absent)):
        for i in range(len(v)):
            kept1, kept0 = v1[labels[0] != own[i]], v0[labels[1] != own[i]]
            k = (np.cov(kept1.T) + np.cov(kept0.T)) / 2
            template = np.linalg.solve(k, kept1.mean(axis=0) - kept0.mean(axis=0))
            middle = (kept1.mean(axis=0) + kept0.mean(axis=0)) / 2
            assert scores[i] == pytest.approx(template @ (v[i] - middle), rel=1e-8)
    if grouped:
        assert found.groups is not None
        assert [list(g) for g in found.groups] == [list(g) for g in labels]
    else:
        assert found.groups is None


def test_mean_difference_by_brute_force() -> None:
    present, absent = white(5, 10) + signal(), white(6, 11)
    found = non_prewhitening(present, absent)
    for i in range(5):
        kept = np.delete(present, i, axis=0)
        template, middle = kept.mean(axis=0) - absent.mean(axis=0), (kept.mean(axis=0) + absent.mean(axis=0)) / 2
        assert found.present[i] == pytest.approx((template * (present[i] - middle)).sum())


def test_held_out_is_less_than_resubstitution() -> None:
    s, channels = signal(0.6), gabor((SIZE, SIZE), bands=2, lowest=1 / 16)
    truth, resubstituted, held_out, halved, plug_in = [], [], [], [], []
    for seed in range(12):
        present, absent = coloured(60, 2 * seed) + s, coloured(60, 2 * seed + 1)
        scores = {
            scheme: channelized_hotelling(present, absent, channels, scheme=scheme)  # type: ignore[arg-type]
            for scheme in ("resubstitution", "leave_one_out", "split")
        }
        resubstituted.append(auc_d(scores["resubstitution"]))
        held_out.append(auc_d(scores["leave_one_out"]))
        halved.append(auc_d(scores["split"]))
        plug_in.append(scores["leave_one_out"].plug_in ** 2)
        assert len(scores["split"].present) == len(scores["split"].absent) == 30
    delta = channels.T @ s.ravel()
    truth = math.sqrt(delta @ np.linalg.solve(channels.T @ covariance() @ channels, delta))
    assert np.mean(halved) < np.mean(held_out) < truth < np.mean(resubstituted)
    # The docstring's mean of the plug-in: 20 channels, 118 degrees of freedom.
    m, n = 20, 118
    assert np.mean(plug_in) == pytest.approx(n / (n - m - 1) * (truth**2 + m * 2 / 60), rel=0.1)


def test_groups_are_not_scored_by_their_own_template() -> None:
    # Every volume has a structure of its own in both of its regions; without groups, it is learnt.
    generator = np.random.default_rng(12)
    channels = gabor((SIZE, SIZE), bands=2, lowest=1 / 16)
    structure = np.repeat(generator.normal(0, 6.0, (12, SIZE, SIZE)), 6, axis=0)
    own = np.repeat(generator.normal(0, 6.0, (12, SIZE, SIZE)), 6, axis=0)
    present, absent = structure + white(72, 13), own + white(72, 14)
    labels = np.repeat(np.arange(12), 6)
    leaking = channelized_hotelling(present, absent, channels)
    grouped = channelized_hotelling(present, absent, channels, groups=(labels, 100 + labels))
    assert area_under_curve(leaking.present, leaking.absent) > 0.9
    assert area_under_curve(grouped.present, grouped.absent) < 0.75


def test_halves_keep_groups_together() -> None:
    labels = (np.repeat(["a", "b", "c", "d"], 5), np.repeat(["c", "d", "e", "f"], 5))
    present, absent = white(20, 15) + signal(), white(20, 16)
    channels = laguerre_gauss((SIZE, SIZE), 8.0, 2)
    found = channelized_hotelling(present, absent, channels, groups=labels, scheme="split", seed=1)
    assert found.groups is not None
    assert [len(set(g)) for g in found.groups] == [2, 2]
    assert (len(found.present), len(found.absent)) == (10, 10)
    again = channelized_hotelling(present, absent, channels, groups=labels, scheme="split", seed=1)
    assert (again.present == found.present).all()
    others = [channelized_hotelling(present, absent, channels, groups=labels, scheme="split", seed=s) for s in range(6)]
    assert len({tuple(o.groups[0]) for o in others if o.groups}) > 1


def test_scores_are_normal() -> None:
    found = channelized_hotelling(white(400, 17) + signal(), white(400, 18), laguerre_gauss((SIZE, SIZE), 8.0, 3))
    assert stats.kstest((found.present - found.present.mean()) / found.present.std(), "norm").pvalue > 0.01


def test_bad_regions() -> None:
    channels = laguerre_gauss((SIZE, SIZE), 8.0, 3)
    with raises(InputError, where="channelized_hotelling", got="576, 576 and 9"):
        channelized_hotelling(white(5, 0), white(5, 1), channels[:9])
    with raises(InputError, where="channelized_hotelling", expected="more than 40 independent regions"):
        channelized_hotelling(white(15, 0), white(15, 1), gabor((SIZE, SIZE)))
    with raises(InputError, where="channelized_hotelling", got="some"):
        channelized_hotelling(white(9, 0), white(9, 1), channels, scheme="some")  # type: ignore[arg-type]
    with raises(InputError, where="channelized_hotelling", got="(3,) and (9,)"):
        channelized_hotelling(white(9, 0), white(9, 1), channels, groups=(range(3), range(9)))
    with raises(InputError, where="channelized_hotelling", expected="2 of each class to train on"):
        channelized_hotelling(white(9, 0), white(9, 1), channels, groups=([0] * 9, range(9)))
    with raises(InputError, where="non_prewhitening", got=(8, 8)):
        non_prewhitening(white(5, 0), white(5, 1), signal=np.ones((8, 8)))
    with raises(InputError, where="non_prewhitening", got=36):
        non_prewhitening(white(5, 0), white(5, 1)[:, :6, :6])
    with raises(InputError, where="EyeFilter", got="mine"):
        EyeFilter(model="mine")  # type: ignore[arg-type]
    with raises(InputError, where="EyeFilter", got=0.0):
        EyeFilter(distance=0.0)
