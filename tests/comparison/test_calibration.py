# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import matplotlib.image as mpimg
import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.comparison.calibration import (
    LEVELS,
    Coverage,
    interval_coverage,
    rank_coverage,
    rank_histogram,
)
from monai_diffrecon.comparison.calibration_picture import calibration_canvas, draw_calibration
from monai_diffrecon.errors import InputError

from ..raising import raises


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_intervals_by_hand() -> None:
    reference = torch.tensor([0.0, 1.0, 1.9, 2.1, -3.0])
    coverage = interval_coverage(torch.zeros(5), torch.ones(5), reference, levels=(0.95, 0.5))
    assert coverage.nominal == (0.5, 0.95)
    assert coverage.observed == (0.2, 0.6)  # within 0.674, within 1.96
    assert coverage.at(0.95) == 0.6
    assert coverage.expected_calibration_error == pytest.approx((0.3 + 0.35) / 2)
    inside = torch.tensor([1, 1, 1, 0, 0])
    assert interval_coverage(torch.zeros(5), torch.ones(5), reference, mask=inside).at(0.95) == 1.0
    # Student's interval of 2 samples: t of 1 degree of freedom at 0.75 is 1, widened by the root of 1.5.
    wide = interval_coverage(torch.zeros(1), torch.ones(1), torch.tensor([1.224]), num_samples=2, levels=(0.5,))
    narrow = interval_coverage(torch.zeros(1), torch.ones(1), torch.tensor([1.226]), num_samples=2, levels=(0.5,))
    assert (wide.observed, narrow.observed) == ((1.0,), (0.0,))


@pytest.mark.parametrize("count", [2, 4, 16])
def test_draws_of_one_distribution_are_calibrated(count: int) -> None:
    draws = normal(count + 1, 20000, seed=0)
    error = (0.25 / 20000) ** 0.5
    student = interval_coverage(draws[1:].mean(0), draws[1:].std(0), draws[0], num_samples=count)
    ranks = rank_coverage(draws[1:].unbind(), draws[0].exp(), levels=LEVELS)
    assert max(abs(o - n) for n, o in zip(LEVELS, student.observed, strict=True)) < 4 * error
    assert ranks.expected_calibration_error > 0.01  # another distribution
    skewed = rank_coverage([d.exp() for d in draws[1:]], draws[0].exp())
    assert max(abs(o - n) for n, o in zip(LEVELS, skewed.observed, strict=True)) < 4 * error


def test_too_little_and_too_much_spread_show() -> None:
    reference, mean = normal(5000, seed=1), torch.zeros(5000)
    assert interval_coverage(mean, torch.full((5000,), 0.5), reference).at(0.9) < 0.65
    assert interval_coverage(mean, torch.full((5000,), 2.0), reference).at(0.5) > 0.75
    draws = normal(8, 5000, seed=2)
    assert rank_histogram((0.5 * draws).unbind(), reference)[0] > 1.5 / 9
    assert rank_histogram((2.0 * draws).unbind(), reference)[0] < 0.6 / 9


def test_ranks_by_hand() -> None:
    samples = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 2.0])]
    assert rank_histogram(samples, torch.tensor([0.0, 1.5, 3.0])) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert rank_histogram(samples, torch.tensor([1.0, 1.0, 1.0])) == pytest.approx((0.5, 0.5, 0.0))
    # All in the middle cell, from 1/3 to 2/3: a central half holds it whole, a central tenth a third of it.
    middle = rank_coverage(samples, torch.full((3,), 1.5), levels=(0.1, 0.5))
    assert middle.observed == pytest.approx((0.3, 1.0))
    assert middle.voxels == 3


def test_picture(tmp_path: Path) -> None:
    draws = normal(9, 500, seed=0)
    curves = {f"row ${i}": rank_coverage(draws[1:].unbind(), draws[0] * (i + 1)) for i in range(3)}
    draw_calibration(curves, tmp_path / "c.png", title="a $title")
    assert os.listdir(tmp_path) == ["c.png"]
    picture = mpimg.imread(tmp_path / "c.png")
    assert picture.shape[0] > 500
    assert np.median(picture[..., :3]) < 0.15  # dark
    axes = calibration_canvas(curves).figure.axes[0]
    labels = [line.get_label() for line in axes.get_lines()]
    assert sum("ECE" in str(label) for label in labels) == 3
    with raises(InputError, where="curves", got=0):
        draw_calibration({}, tmp_path / "d.png")
    with raises(InputError, where="curves", got=7):
        calibration_canvas({str(i): Coverage((0.5,), (0.5,), 1) for i in range(7)})


def test_faults() -> None:
    x = torch.zeros(2, 3)
    with raises(InputError, where="calibration, std", got=(3, 2)):
        interval_coverage(x, x.T, x)
    with raises(InputError, where="calibration, std", got=None):
        interval_coverage(x, x - 1, x)
    with raises(InputError, where="calibration, reference"):
        interval_coverage(x, x, x / 0)
    with raises(InputError, where="calibration, mean", got=(2, 3)):
        interval_coverage(x.to(torch.complex64), x, x)
    with raises(InputError, where="mask", got=None):
        interval_coverage(x, x, x, mask=x)
    with raises(InputError, where="mask", got=(3,)):
        interval_coverage(x, x, x, mask=x[0])
    with raises(InputError, where="calibration", got=1):
        interval_coverage(x, x, x, num_samples=1)
    with raises(InputError, where="calibration", got=1):
        rank_coverage([x], x)
    with raises(InputError, where="calibration, sample 1", got=(3,)):
        rank_histogram([x, x[0]], x)
    for levels in ((), (0.5, 1.0), (0.0,)):
        with raises(InputError, where="calibration, levels", expected="above 0, below 1"):
            interval_coverage(x, x, x, levels=levels)
