# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Percentiles of large volumes are those of numpy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_diffrecon.numerics.statistics import order_statistics
from monai_diffrecon.numerics.statistics.order_statistics import outermost, percentiles, ranked
from monai_diffrecon.numerics.statistics.outliers import replace_outliers

Q = (0.0, 0.1, 0.5, 37.3, 50.0, 99.5, 99.99, 100.0)


def values(kind: str) -> Tensor:
    x = torch.randn((7, 11, 13), generator=torch.Generator().manual_seed(1)) * 1e3
    return {"any": x, "few": x.sign(), "tiny": x * 1e-40, "one": torch.full((3,), 2.5), "turned": x.movedim(0, 2)}[kind]


@pytest.fixture
def _every_volume_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "LARGE", 0)
    monkeypatch.setattr(order_statistics, "_BLOCK", 100)


@pytest.mark.usefixtures("_every_volume_is_large")
@pytest.mark.parametrize("kind", ["any", "few", "tiny", "one", "turned"])
def test_percentiles(kind: str) -> None:
    x = values(kind)
    assert percentiles(x, Q) == np.percentile(x.numpy(), Q).tolist()
    assert percentiles(x, Q, above=-0.5) == np.percentile(x[x > -0.5].double().numpy(), Q).tolist()
    assert percentiles(x, Q, above=1e9) == []


@pytest.mark.usefixtures("_every_volume_is_large")
@pytest.mark.parametrize("kind", ["any", "few", "turned"])
def test_ranks(kind: str) -> None:
    x = values(kind)
    in_order = x.flatten().sort().values
    assert ranked(x, [0, 5, 500, 1000]) == in_order[[0, 5, 500, 1000]].tolist()
    assert torch.equal(outermost(x, 20), in_order.flip(0)[:20])
    assert torch.equal(outermost(x, 20, lowest=True), -in_order[:20])


def test_outliers_of_large_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand((1, 12, 13, 40), generator=torch.Generator().manual_seed(2))
    x[0, 4, 5, 6], x[0, 7, 7, 30] = 9.0, -9.0
    clean, found = replace_outliers(x, 2, 0.5)
    monkeypatch.setattr(order_statistics, "LARGE", 0)
    again, mask = replace_outliers(x, 2, 0.5, in_place=True)
    assert again is x
    assert torch.equal(clean, again)
    assert torch.equal(found, mask)
    assert bool(mask[0, 4, 5, 6])
    assert bool(mask[0, 7, 7, 30])
