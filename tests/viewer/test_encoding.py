# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes in pages: what is decoded is what was encoded, within the stated rounding."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.viewer.encoding import LEAST_BITS, EncodedVolume, decode, encode, encode_within

from ..raising import raises

SHAPE = (7, 5, 6)


def noise(scale: float = 1.0, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def by_hand(encoded: EncodedVolume, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode voxel by voxel, as the script of a page does."""
    both, (nx, ny, nz) = gzip.decompress(encoded.data), shape
    count = nx * ny * nz
    assert len(both) == 2 * count
    stride = (1, nx, nx * ny)[encoded.axis]
    q = [0] * count
    for i in range(count):
        folded = both[i] | both[count + i] << 8
        first = (i // stride) % shape[encoded.axis] == 0
        q[i] = ((folded >> 1) ^ -(folded & 1)) + (0 if first else q[i - stride]) & 0xFFFF
    values = encoded.low + encoded.step * np.array(q, dtype=np.float64)
    return values.reshape(shape, order="F")


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 3000.0, 1e30])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_within_half_a_step(scale: float, bits: int) -> None:
    volume = noise(scale)
    encoded = encode(volume, bits)
    assert encoded.step == pytest.approx(float(np.ptp(volume.astype(np.float64))) / (2**bits - 1))
    assert not encoded.exact
    decoded = decode(encoded, SHAPE)
    assert np.abs(decoded - volume).max() <= 0.500001 * encoded.step
    np.testing.assert_array_equal(decoded, by_hand(encoded, SHAPE))


def test_whole_numbers_are_exact() -> None:
    volume = np.rint(noise(900.0)) - 200
    volume[0, 0, 0], volume[-1, -1, -1] = -32768, 32767  # neighbours may differ by more than 2^15
    encoded = encode(volume)
    assert (encoded.exact, encoded.step) == (True, 1.0)
    np.testing.assert_array_equal(decode(encoded, SHAPE), volume)
    np.testing.assert_array_equal(by_hand(encoded, SHAPE), volume)


def test_coarser_whole_numbers_say_so() -> None:
    volume = np.rint(noise(900.0))
    encoded = encode(volume, 8)
    assert not encoded.exact
    assert encoded.step == 2.0 ** np.ceil(np.log2(np.ptp(volume) / 256))
    assert 0 < np.abs(decode(encoded, SHAPE) - volume).max() <= encoded.step / 2


def test_a_constant_is_exact() -> None:
    encoded = encode(np.full(SHAPE, 0.1, np.float32))
    np.testing.assert_array_equal(decode(encoded, SHAPE), np.full(SHAPE, np.float32(0.1), np.float64))


def test_thick_slices_are_stored_along_z() -> None:
    thick = np.repeat(noise(shape=(20, 20, 4)), 5, axis=2)
    assert encode(thick).axis == 2
    assert len(encode(thick).data) < 0.4 * len(encode(noise(shape=(20, 20, 20))).data)
    np.testing.assert_array_equal(decode(encode(thick), thick.shape), by_hand(encode(thick), (20, 20, 20)))


def test_the_largest_gets_coarser_until_all_fit() -> None:
    smooth = np.linspace(0, 1, 32**3, dtype=np.float32).reshape(32, 32, 32)
    rough = noise(shape=(32, 32, 32))
    free = encode_within([smooth, rough], 10**9)
    assert free == [encode(smooth), encode(rough)]
    limit = sum(len(e.text) for e in free) - 10_000
    fitting = encode_within([smooth, rough], limit)
    assert sum(len(e.text) for e in fitting) <= limit
    assert fitting[0] == free[0]
    assert fitting[1].step > free[1].step
    for encoded, volume in zip(fitting, (smooth, rough), strict=True):
        assert np.abs(decode(encoded, volume.shape) - volume).max() <= 0.500001 * encoded.step


def test_what_does_not_fit_is_refused() -> None:
    rough = noise(shape=(32, 32, 32))
    least = len(encode(rough, LEAST_BITS).text)
    assert len(encode_within([rough], least + 10)[0].text) <= least + 10
    with raises(InputError, where="page", expected=..., got=...):
        encode_within([rough], least - 10)
