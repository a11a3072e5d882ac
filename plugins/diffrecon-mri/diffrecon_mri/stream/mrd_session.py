# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Streams of MRD 2 (yardl's binary form) with the package mrd-python."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import mrd
from mrd import _binary as yardl
from mrd import binary

from diffrecon_mri.stream.images import StreamImage
from diffrecon_mri.stream.mrd_fields import item_of, row_of, xml_of
from diffrecon_mri.stream.scan import ROW, Scan
from diffrecon_mri.stream.wire import WHERE, Wire
from monai_diffrecon.errors import InputError

#: Numbers of a header or an acquisition besides its samples, and bytes of a text.
_MOST_NUMBERS, _LONGEST_TEXT = 1 << 20, 1 << 20
_VERSION = struct.Struct("<i")
#: What the package raises at bytes that are no stream.
_DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    RuntimeError,
    AttributeError,
    MemoryError,
    struct.error,
)


class MrdSession:
    """A stream of MRD 2: its header and acquisitions in, a stream of images out.

    Args:
        wire: the connection, after the bytes that told the protocol.
        first: those bytes.
    """

    def __init__(self, wire: Wire, first: bytes) -> None:
        self._wire, self._first = wire, first

    def receive(self) -> Scan:
        """Return the scan.

        Raises:
            InputError: a stream of another schema, or one that is malformed, too long or too late.
            ResourceError: the scan is too large.
        """
        try:
            return self._scan()
        except _DAMAGED as error:
            raise InputError("a damaged MRD stream", where=WHERE, got=type(error).__name__) from error

    def _scan(self) -> Scan:
        scan, stream = Scan(), _Stream(self._wire)
        magic = self._first + stream.read_view(len(yardl.MAGIC_BYTES) - len(self._first))
        if magic != yardl.MAGIC_BYTES or stream.read(_VERSION)[0] != yardl.CURRENT_BINARY_FORMAT_VERSION:
            raise InputError("neither ISMRMRD nor MRD 2", where=WHERE)
        if yardl.string_serializer.read(stream) != mrd.BinaryMrdReader.schema:
            raise InputError("MRD of another version", where=WHERE, mend="install the client's mrd-python")
        header = yardl.OptionalSerializer(binary.HeaderSerializer()).read(stream)
        if header is None:
            raise InputError("no header", where=WHERE)
        scan.set_header(xml_of(header))
        acquisition = binary.AcquisitionSerializer()
        waveform = binary.WaveformSerializer(yardl.uint32_serializer)
        while count := stream.read_unsigned_varint():
            for _ in range(count):
                stream.begin()
                kind = stream.read_byte()
                if kind == mrd.StreamItem.Acquisition.index:
                    self._wire.reserve(ROW)
                    if scan.add(*row_of(acquisition.read(stream))):
                        return scan
                elif kind == mrd.StreamItem.WaveformUint32.index:
                    waveform.read(stream)
                    scan.ignored += 1
                else:
                    raise InputError("an item of an unsupported kind", where=WHERE, got=kind)
        return scan

    def send(self, images: Sequence[StreamImage], notices: Sequence[str]) -> None:
        """Send a stream of the images without a header, which would name the subject; notices are in attributes.

        Raises:
            InputError: the client has gone.
        """
        stream = io.BytesIO()
        with mrd.BinaryMrdWriter(stream) as writer:
            writer.write_header(None)
            writer.write_data([item_of(image) for image in images])
        self._wire.write(stream.getbuffer())

    def refuse(self, reason: str) -> None:
        """Do nothing: the protocol has no place for a reason, and a stream that ends within says that it failed."""


class _Stream(yardl.CodedInputStream):
    """Yardl's reader on a connection: it waits for no more than it needs, and allocates no more than it may."""

    _view: memoryview
    _offset: int
    _last_read_count: int

    def __init__(self, wire: Wire) -> None:
        super().__init__(io.BytesIO())
        self._wire, self._numbers = wire, 0

    def begin(self) -> None:
        """Begin an item."""
        self._numbers = 0

    def read(self, formatter: struct.Struct) -> tuple:
        self._count()
        return super().read(formatter)

    def read_byte(self) -> int:
        self._count()
        return super().read_byte()

    def read_unsigned_varint(self) -> int:
        self._count()
        value = shift = 0
        while True:
            byte = super().read_byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("no number of 64 bits")

    def read_view(self, count: int) -> memoryview:
        if count > _LONGEST_TEXT:
            raise InputError("a text that is too long", where=WHERE, expected=f"{_LONGEST_TEXT} bytes", got=count)
        return memoryview(self.read_bytearray(count))

    def read_bytearray(self, count: int) -> bytearray:
        if count < 0:
            raise ValueError("an array of a negative size")
        there = self._last_read_count - self._offset
        if count <= there:
            return super().read_bytearray(count)
        found = bytearray(self._view[self._offset : self._last_read_count])
        self._offset = self._last_read_count
        found += self._wire.read(count - there)
        return found

    def _fill_buffer(self, min_count: int = 0) -> None:
        rest = bytes(self._view[self._offset : self._last_read_count])
        self._view[: len(rest)] = rest
        count = self._wire.read_into(self._view[len(rest) :], min_count - len(rest))
        self._wire.reserve(count)
        self._offset, self._last_read_count = 0, len(rest) + count

    def _count(self) -> None:
        self._numbers += 1
        if self._numbers > _MOST_NUMBERS:
            raise InputError("more numbers than a message may have", where=WHERE, expected=_MOST_NUMBERS)
