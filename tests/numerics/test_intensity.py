# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.intensity import IntensityMap

from ..raising import raises


def test_window() -> None:
    hu = IntensityMap.window(-1000, 2000)
    assert hu.to_network(torch.tensor([-1000.0, 500.0, 2000.0, 5000.0])).tolist() == [0.0, 0.5, 1.0, 2.0]
    x = torch.linspace(-1, 2, 50, dtype=torch.float64)
    torch.testing.assert_close(hu.to_network(hu.to_physical(x)), x)
    with raises(ConfigError, where="intensity", got="3, 3"):
        IntensityMap.window(3, 3)
    with raises(ConfigError, where="intensity", got="scale inf, offset -inf"):
        IntensityMap.window(-math.inf, 3)


@pytest.mark.parametrize("q", [50.0, 99.5, 100.0])
def test_percentile_of_the_foreground(q: float) -> None:
    inside = torch.rand(1, 6, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    volume = torch.zeros(1, 20, 20, 20) + 1e-3  # background below 1 % of the maximum
    volume[:, 5:11, 5:11, 5:11] = -inside
    intensity = IntensityMap.percentile(volume, q)
    assert intensity.scale == pytest.approx(float(np.percentile(inside.numpy(), q)), rel=1e-6)
    assert intensity.offset == 0.0
    complex_volume = torch.polar(volume.abs(), torch.full_like(volume, 0.7))
    assert IntensityMap.percentile(complex_volume, q).scale == pytest.approx(intensity.scale, rel=1e-5)
    assert IntensityMap.percentile(10 * volume, q).scale == pytest.approx(10 * intensity.scale, rel=1e-6)


def test_percentile_of_nothing() -> None:
    with raises(InputError, where="intensity", expected="voxels other than zero"):
        IntensityMap.percentile(torch.zeros(1, 4, 4, 4))
    with raises(InputError, where="intensity", expected=None):
        IntensityMap.percentile(torch.tensor([1.0, math.nan]))
    for q in (0, 101, math.nan):
        with raises(ConfigError, where="intensity#q", expected="above 0, at most 100"):
            IntensityMap.percentile(torch.ones(1, 4, 4, 4), q)
