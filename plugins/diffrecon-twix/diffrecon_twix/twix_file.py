# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Siemens raw data files: measurements, their header and their lines, read within the bounds of the file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from twixtools.hdr_def import MultiRaidFileHeader, max_raidfile_entries
from twixtools.mdb import Mdb
from twixtools.mdh_def import Scan_header, VB17_header

from monai_diffrecon.errors import InputError

#: A multi-raid header (VD, VE, XA) begins with a number below this; the header of VB is longer.
_SHORTEST_VB_HEADER = 10000
#: Longest header of a measurement.
_LONGEST_HEADER = 64 << 20
#: The name of the first buffer of a header.
_NAME = re.compile(rb"[A-Za-z]\w{3,31}\x00")
_AGAIN = "copy it again from the scanner"


class TwixFile:
    """An open file: where its measurement lies, and what is in it.

    Args:
        file: the file, open for reading; the caller closes it.
        measurement: which measurement of a multi-raid file, -1 for the last: those before it are adjustments.
        where: name of the file, for messages.

    Raises:
        InputError: truncated, of another kind, or without such a measurement.
    """

    def __init__(self, file: BinaryIO, measurement: int, where: str) -> None:
        self.file, self.where = file, where
        size = file.seek(0, 2)
        self.multi_raid, entries = _entries(file, size)
        if not -len(entries) <= measurement < len(entries):
            raise InputError(
                "no such measurement", where=where, expected=f"0 to {len(entries) - 1}, or -1", got=measurement
            )
        offset, length = entries[measurement]
        if not 0 <= offset <= offset + length <= size:
            raise InputError("truncated", where=where, expected=f"{offset + length} bytes", got=size, mend=_AGAIN)
        file.seek(offset)
        head = file.read(8)
        self.header_length = struct.unpack("<I", head[:4])[0] if len(head) == 8 else 0
        if not 8 < self.header_length <= min(length, _LONGEST_HEADER):
            raise InputError("truncated or damaged: no header of a measurement", where=where, mend=_AGAIN)
        self.header = file.read(self.header_length - 8)
        if not _NAME.match(self.header):
            raise InputError("no Siemens raw data", where=where, expected="a header of named buffers")
        self.start, self.end = offset + self.header_length, offset + length

    def buffer(self, name: str) -> str:
        """Return the text of a buffer of the header, or an empty one when there is none of that name."""
        found = re.search(rb"(?<!\w)" + name.encode() + rb"\x00(.{4})", self.header, re.DOTALL)
        if found is None:
            return ""
        length = struct.unpack("<I", found.group(1))[0]
        return self.header[found.end() : found.end() + length].decode("latin-1")

    def lines(self) -> Iterator[Mdb]:
        """Yield the lines of the measurement, without synchronization data, up to the end that the scanner wrote.

        Raises:
            InputError: a line of impossible length, or no end.
        """
        smallest = len(bytes(Scan_header() if self.multi_raid else VB17_header()))
        at = self.start
        while at + smallest <= self.end:
            self.file.seek(at)
            try:
                line = Mdb(self.file, self.multi_raid)
            except ValueError as error:  # fewer bytes than the line's channels need
                raise self._torn() from error
            if line.is_flag_set("ACQEND"):
                return
            length = int(line.dma_len)
            if length < smallest or at + length > self.end:
                raise self._torn()
            if not line.is_flag_set("SYNCDATA"):
                yield line
            at += length
        raise self._torn()

    def _torn(self) -> InputError:
        return InputError(
            "truncated or damaged: the lines of the acquisition do not come to their end",
            where=self.where,
            expected="a scan that was not stopped, and all of its file",
            mend=_AGAIN,
        )


def looks_like_twix(path: Path) -> bool:
    """Say whether a file begins as Siemens raw data do; never raises."""
    try:
        if not path.is_file():  # opening a pipe would wait for whoever writes into it
            return False
        with path.open("rb") as file:
            TwixFile(file, -1, path.name)
    except Exception:  # whatever is wrong with it, it is not ours
        return False
    return True


def _entries(file: BinaryIO, size: int) -> tuple[bool, list[tuple[int, int]]]:
    """Return whether the file is multi-raid, and offset and length (bytes) of its measurements."""
    file.seek(0)
    head = file.read(MultiRaidFileHeader.itemsize)
    first, count = struct.unpack("<II", head[:8]) if len(head) >= 8 else (0, 0)
    if first >= _SHORTEST_VB_HEADER:
        return False, [(0, size)]
    if not 1 <= count <= max_raidfile_entries or len(head) < MultiRaidFileHeader.itemsize:
        return True, [(0, 0)]
    entries = np.frombuffer(head, MultiRaidFileHeader)[0]["entry"][:count]
    found = [(int(entry["off_"]), int(entry["len_"])) for entry in entries]
    # Some scanners leave the length of the only measurement open.
    return True, [(at, length or size - at) for at, length in found] if count == 1 else found
