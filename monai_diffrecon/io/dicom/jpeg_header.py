# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Check of lossless JPEG headers for a predictor that decoders handle differently."""

from __future__ import annotations

from monai_diffrecon.errors import InputError

#: Transfer syntaxes of lossless JPEG.
LOSSLESS_JPEG = {f"1.2.840.10008.1.2.4.{n}" for n in (57, 70)}

_FRAMES, _SCAN = {0xC3, 0xC7, 0xCB, 0xCF}, 0xDA
#: Markers without a length.
_BARE = {0x01, *range(0xD0, 0xD9)}
_BAD_PREDICTOR, _BAD_BITS = 6, 16


def check_lossless_jpeg(data: bytes, where: str) -> None:
    """Refuse 16 bits a pixel by predictor 6, which encoders overflow in two ways: no decoder knows which one it was.

    Args:
        data: the first bytes of the image.
        where: its file.

    Raises:
        InputError: it is such an image.
    """
    bits, predictor = _bits_and_predictor(data)
    if bits == _BAD_BITS and predictor == _BAD_PREDICTOR:
        raise InputError(
            "16-bit lossless JPEG with predictor 6, which decoders read differently",
            where=where,
            expected="another predictor, or another compression",
            got="predictor 6, 16 bits",
            mend="export the series uncompressed from its source",
        )


def _bits_and_predictor(data: bytes) -> tuple[int | None, int | None]:
    """Return the precision (SOF) and the predictor (SOS) of an image (ITU-T T.81 B.2), None where there is none."""
    at, bits = 2, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:  # filling, or no segment
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES and at + 4 < len(data):
            bits = data[at + 4]
        if marker == _SCAN and at + 4 < len(data):
            selection = at + 5 + 2 * data[at + 4]
            return bits, data[selection] if selection < len(data) else None
        at += 2 + max(length, 2)
    return bits, None
