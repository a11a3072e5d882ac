# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Check of the heaps of an HDF5 file before HDF5 reads them: it loops forever on a damaged one."""

from __future__ import annotations

import mmap
from pathlib import Path

from monai_diffrecon.errors import InputError

_SIGNATURE, _HEAP = b"\x89HDF\r\n\x1a\n", b"GCOL\x01\0\0\0"
#: Versions of the superblock before this one say the size of lengths at byte 14, later ones at byte 10.
_LATER = 2


def check_heaps(path: Path) -> None:
    """Refuse a file with a heap that does not end (HDF5 File Format Specification 3.0, III.E).

    Lists and texts of variable length lie in global heaps: objects one after the other, each with its size. HDF5 adds
    up the sizes without a look at them, so an object of size 0 is read again and again, in C, where no signal helps.

    Raises:
        InputError: a heap whose objects do not follow each other within it.
    """
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_SIGNATURE)
        if start < 0 or len(content) < start + 16:
            return  # no HDF5, as h5py will say
        length = content[start + (14 if content[start + 8] < _LATER else 10)]
        at = content.find(_HEAP)
        while at >= 0:
            size = int.from_bytes(content[at + 8 : at + 8 + length], "little")
            # What looks like a heap and does not fit into the file is other data, or HDF5 says so.
            if at + size <= len(content) and not _ends(content[at : at + size], length):
                raise InputError("a damaged heap", where=path.name, mend="copy the file again: its content is damaged")
            at = content.find(_HEAP, at + 1)


def _ends(heap: bytes, length: int) -> bool:
    """Say whether each object leads on to the next one, and the last one to the end."""
    header = _aligned(8 + length)
    at = header
    while at + header <= len(heap):
        size = int.from_bytes(heap[at + 8 : at + 8 + length], "little")
        # Object 0 is the free space, and its size is that of all of it.
        step = size if heap[at : at + 2] == b"\0\0" else header + _aligned(size)
        if step < header or at + step > len(heap):
            return False
        at += step
    return True


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
