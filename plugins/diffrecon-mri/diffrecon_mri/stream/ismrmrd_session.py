# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The session protocol of ISMRMRD 1, which Gadgetron, OpenRecon and FIRE speak: numbered messages, ended by CLOSE."""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Sequence

import ismrmrd
import numpy as np
from ismrmrd.serialization import ISMRMRDMessageID as MessageID
from ismrmrd.serialization import ProtocolSerializer
from ismrmrd.waveform import WaveformHeader

from diffrecon_mri.stream.choices import LONGEST, Offer
from diffrecon_mri.stream.images import StreamImage
from diffrecon_mri.stream.scan import HEAD, ROW, Scan
from diffrecon_mri.stream.wire import WHERE, Wire
from monai_diffrecon.errors import InputError

#: Bytes of a message CONFIG_FILE, and most of a header.
_CONFIG_FILE, _LONGEST_HEADER = 1024, 16 << 20


class IsmrmrdSession:
    """A session of the ISMRMRD protocol.

    Texts may end with a zero byte, as those of Gadgetron do. The package's own deserializer is not used: it allocates
    what a header declares, and parses the part of the XML header that names the subject.

    Args:
        wire: the connection, after the bytes that told the protocol.
        offer: what the client may choose.
        first: those bytes.
    """

    def __init__(self, wire: Wire, offer: Offer, first: bytes) -> None:
        self._wire, self._offer, self._first = wire, offer, first

    def receive(self) -> Scan:
        """Return the scan; one without a header if the client closes the session before.

        Raises:
            InputError: messages that are malformed, unexpected, too long or too late.
            ResourceError: the scan is too large.
            ConfigError: a choice that the server does not offer.
        """
        scan = Scan()
        (kind,) = struct.unpack("<H", self._first)
        while kind != MessageID.CLOSE:
            if kind == MessageID.ACQUISITION:
                if self._acquisition(scan):
                    break
            elif kind == MessageID.WAVEFORM:
                head = WaveformHeader.from_buffer(self._wire.read(ctypes.sizeof(WaveformHeader)))
                self._wire.read(4 * head.channels * head.number_of_samples)
                scan.ignored += 1
            elif kind == MessageID.HEADER:
                scan.set_header(bytes(self._text(_LONGEST_HEADER)).rstrip(b"\0"))
            elif kind in (MessageID.CONFIG_FILE, MessageID.CONFIG_TEXT, MessageID.TEXT):
                said = self._wire.read(_CONFIG_FILE) if kind == MessageID.CONFIG_FILE else self._text(LONGEST)
                if not len(scan):  # later ones are for people
                    said = said.partition(b"\0")[0]  # of C: behind its end lies what was in memory
                    scan.choices |= self._offer.read(said.decode("utf-8", "replace"))
            else:
                raise InputError("a message of an unsupported kind", where=WHERE, got=kind)
            (kind,) = struct.unpack("<H", self._wire.read(2))
        return scan

    def send(self, images: Sequence[StreamImage], notices: Sequence[str]) -> None:
        """Send notices as TEXT, then the images, then CLOSE.

        Raises:
            InputError: the client has gone.
        """
        for notice in notices:
            self._send(notice)
        for image in images:
            self._send(_image(image))
        self._send()

    def refuse(self, reason: str) -> None:
        """Send why there are no images as TEXT, and CLOSE.

        Raises:
            InputError: the client has gone.
        """
        self._send(f"error: {reason}")
        self._send()

    def _send(self, message: str | ismrmrd.Image | None = None) -> None:
        """Send a message; CLOSE without one."""
        stream = io.BytesIO()
        writer = ProtocolSerializer(stream)
        if message is None:
            writer.close()
        else:
            writer.serialize(message)
        self._wire.write(stream.getbuffer())

    def _acquisition(self, scan: Scan) -> bool:
        self._wire.reserve(ROW)
        head = np.frombuffer(self._wire.read(HEAD.itemsize), HEAD)[0]
        samples, coils = int(head["number_of_samples"]), int(head["active_channels"])
        trajectory = self._wire.read(4 * samples * int(head["trajectory_dimensions"]))
        data = self._wire.read(8 * samples * coils)
        return scan.add(head, np.frombuffer(trajectory, np.float32), np.frombuffer(data, np.float32))

    def _text(self, most: int) -> bytearray:
        (length,) = struct.unpack("<I", self._wire.read(4))
        if length > most:
            raise InputError("a text that is too long", where=WHERE, expected=f"at most {most} bytes", got=length)
        return self._wire.read(length)


def _image(image: StreamImage) -> ismrmrd.Image:
    own = ("image_index", "slice", "field_of_view", "position", "read_dir", "phase_dir", "slice_dir")
    out = ismrmrd.Image.from_array(
        image.data[None],
        image_type=ismrmrd.IMTYPE_MAGNITUDE,
        image_series_index=1,
        **{name: getattr(image, name) for name in own},
        **image.copied,
    )
    out.meta = dict(image.meta)
    return out
