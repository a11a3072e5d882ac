# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as text of a page: integers with a scale and an offset, predicted by their neighbour, compressed."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_diffrecon.errors import InputError

#: Levels that a volume has at most, and at least: a coarser one would be misleading.
MOST_BITS, LEAST_BITS = 16, 8
_GZIP = 31  # zlib's window bits for a gzip stream


@dataclass(frozen=True)
class EncodedVolume:
    """A volume as a page holds it; the value of a voxel is ``low + step * q``, off by at most half a step.

    Attributes:
        low: value of q = 0.
        step: distance of neighbouring values; 1 for whole numbers that fit, which are exact.
        axis: axis (0, 1, 2) along which differences are stored.
        exact: no value was rounded.
        data: gzip stream of the low bytes of all differences, then of their high bytes, x fastest.
    """

    low: float
    step: float
    axis: int
    exact: bool
    data: bytes

    @property
    def text(self) -> str:
        """The stream in base64."""
        return b64encode(self.data).decode("ascii")


def encode(volume: np.ndarray, bits: int = MOST_BITS) -> EncodedVolume:
    """Encode a volume.

    A difference d from the neighbour is stored as ``2 d`` or ``-2 d - 1``, modulo 2^16: high bytes are mostly 0.

    Args:
        volume: (X, Y, Z), finite.
        bits: a range is divided into 2^bits - 1 steps.
    """
    low, high = float(volume.min()), float(volume.max())
    levels = (1 << bits) - 1
    # Whole numbers (CT as it comes) keep whole steps.
    whole = high - low < 1 << MOST_BITS and bool((volume == np.rint(volume)).all())
    step = max(1.0, 2.0 ** np.ceil(np.log2(max(high - low, 1.0) / (levels + 1)))) if whole else (high - low) / levels
    step = float(step) or 1.0
    q = np.empty(volume.shape[::-1], dtype=np.uint16)
    for plane, target in zip(np.moveaxis(volume, 2, 0), q, strict=True):  # doubles of one slice at a time
        target[:] = np.rint((plane.T.astype(np.float64) - low) / step)
    axis = _smoothest(q)
    d = np.diff(q, axis=2 - axis, prepend=np.uint16(0)).view(np.int16)
    folded = ((d << 1) ^ (d >> 15)).view(np.uint16)
    # Runs and Huffman codes: as small as with the search for repetitions, which noise has not, in a third of the time.
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP, 9, zlib.Z_RLE)
    parts = [packer.compress(part.astype(np.uint8).tobytes()) for part in (folded & 0xFF, folded >> 8)]
    return EncodedVolume(low, step, axis, whole and step == 1.0, b"".join([*parts, packer.flush()]))


def decode(encoded: EncodedVolume, shape: Sequence[int]) -> np.ndarray:
    """Return the volume (X, Y, Z), float64, of an encoded one, as a page shows it."""
    both = np.frombuffer(zlib.decompress(encoded.data, _GZIP), dtype=np.uint8).astype(np.uint16)
    folded = (both[: both.size // 2] | (both[both.size // 2 :] << 8)).reshape(tuple(shape)[::-1])
    d = ((folded >> 1) ^ -(folded & 1)).astype(np.uint16)
    q = np.cumsum(d, axis=2 - encoded.axis, dtype=np.uint16)
    return encoded.low + encoded.step * q.transpose(2, 1, 0).astype(np.float64)


def encode_within(volumes: Sequence[np.ndarray], limit: int) -> list[EncodedVolume]:
    """Encode volumes in a limited number of characters; the largest gets coarser first.

    Args:
        volumes: (X, Y, Z) each, of one shape.
        limit: characters of base64 of all together.

    Raises:
        InputError: they do not fit, even with few levels.
    """
    bits = [MOST_BITS] * len(volumes)
    done = [encode(volume) for volume in volumes]
    while (excess := sum(len(e.data) for e in done) * 4 / 3 - limit) > 0:
        free = [n for n in range(len(volumes)) if bits[n] > LEAST_BITS]
        if not free:
            raise InputError(
                "the volumes do not fit in a page",
                where="page",
                expected=f"{limit / 1e6:.3g} MB",
                got=f"{(limit + excess) / 1e6:.3g} MB with {1 << LEAST_BITS} levels",
                mend="allow a larger page, or show fewer volumes",
            )
        n = max(free, key=lambda n: len(done[n].data))
        # A bit less saves a bit a voxel at most.
        saved = volumes[n].size / 6
        bits[n] = max(bits[n] - max(1, int(excess / saved / len(volumes))), LEAST_BITS)
        done[n] = encode(volumes[n], bits[n])
    return done


def _smoothest(q: np.ndarray) -> int:
    """Return the axis of (X, Y, Z), given (Z, Y, X), along which neighbours are most alike: x, or z (thick slices)."""
    sample = q[:, :: max(q.shape[1] // 32, 1)].astype(np.int32)
    along_x, along_z = (float(np.abs(np.diff(sample, axis=axis)).sum()) for axis in (2, 0))
    return 2 if along_z < along_x else 0
