# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_diffrecon.engine.posterior.running_moments import RunningMoments


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_one_pass_gives_the_numbers_of_two(dtype: torch.dtype) -> None:
    x = torch.randn(7, 1, 3, 4, 2, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 50.0
    moments = RunningMoments()
    for volume in x:
        moments.add(volume)
    torch.testing.assert_close(moments.mean, x.mean(0))
    expected = ((x - x.mean(0)).abs().square().sum(0) / 6).sqrt()
    torch.testing.assert_close(moments.std(), expected, rtol=1e-4, atol=1e-5)
    assert moments.std().dtype == torch.float32


def test_equal_volumes_do_not_spread() -> None:
    moments = RunningMoments()
    for _ in range(3):
        moments.add(torch.full((2, 2), 1e6))
    assert torch.equal(moments.std(), torch.zeros(2, 2))


def test_the_first_volume_is_left_alone_and_has_no_spread() -> None:
    first, moments = torch.zeros(3), RunningMoments()
    moments.add(first)
    with pytest.raises(ValueError, match="two volumes"):
        moments.std()
    moments.add(torch.ones(3))
    assert torch.equal(first, torch.zeros(3))
