# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How slices are split into batches, and norms over a batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_diffrecon.numerics.planes import SPLITS, batch_means, batches, slice_norms


@pytest.mark.parametrize(
    ("count", "size", "split", "sizes"),
    [
        (16, 6, "near_equal", [6, 5, 5]),
        (256, 6, "near_equal", [6] * 41 + [5, 5]),
        (12, 6, "near_equal", [6, 6]),
        (5, 6, "near_equal", [5]),
        (5, 12, "floor_plus_one", [5]),
        (11, 12, "floor_plus_one", [11]),
        (12, 12, "floor_plus_one", [6, 6]),  # one batch too many, as published
        (13, 12, "floor_plus_one", [7, 6]),
        (25, 12, "floor_plus_one", [9, 9, 7]),
        (448, 12, "floor_plus_one", [12] * 37 + [4]),
        (9, 2, "floor_plus_one", [2, 2, 2, 2, 1]),
        (7, 0, "near_equal", [7]),
        (7, 0, "floor_plus_one", [7]),
    ],
)
def test_by_hand(count: int, size: int, split: str, sizes: list[int]) -> None:
    assert [b - a for a, b in batches(count, size, split)] == sizes


@given(st.integers(1, 300), st.integers(0, 40), st.sampled_from(SPLITS))
def test_every_slice_is_in_one_batch(count: int, size: int, split: str) -> None:
    found = [k for a, b in batches(count, size, split) for k in range(a, b)]
    assert found == list(range(count))


@given(st.integers(1, 300), st.integers(1, 40))
def test_near_equal_batches_are_as_many_as_needed_and_differ_by_one(count: int, size: int) -> None:
    sizes = [b - a for a, b in batches(count, size)]
    assert len(sizes) == math.ceil(count / size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_norms_and_their_means() -> None:
    slices = torch.zeros(3, 1, 2, 2)
    slices[0, 0, 0] = torch.tensor([3.0, 4.0])
    slices[2] = 1.0
    norms = slice_norms(slices)
    assert norms.tolist() == [5.0, 0.0, 2.0]
    assert batch_means(norms, ((0, 2), (2, 3))).tolist() == [2.5, 2.5, 2.0]
    assert slice_norms(torch.full((2, 3), 3 + 4j)).tolist() == pytest.approx([5 * 3**0.5] * 2)
