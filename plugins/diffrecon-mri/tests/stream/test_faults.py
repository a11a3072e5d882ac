# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Streams that lie or end too early: each ends its own connection, in one line, and the server goes on."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd.serialization import ConfigFile, ConfigText
from ismrmrd.serialization import ISMRMRDMessageID as MessageID

from .clients import answer, ask, connect, everything, ismrmrd_bytes, mrd_bytes, open_scan, scan_bytes
from .conftest import SUBJECT, error_lines

Serve = Callable[..., Any]


def acquisition(**fields: Any) -> ismrmrd.Acquisition:
    made = ismrmrd.Acquisition.from_array(np.ones((2, 8), np.complex64))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def declared(**fields: int) -> bytes:
    """Return the header of an acquisition that declares more than follows."""
    head = acquisition().getHead()
    for name, value in fields.items():
        setattr(head, name, value)
    return struct.pack("<H", MessageID.ACQUISITION) + bytes(head)


def header(scan: Path) -> Any:
    return open_scan(scan)[0]


#: What is wrong -> bytes that follow the header, and words of the reason.
BAD: dict[str, tuple[bytes, str]] = {
    "another kind of message": (struct.pack("<H", 999), "unsupported kind"),
    "an image": (ismrmrd_bytes(ismrmrd.Image.from_array(np.ones((4, 4), np.float32))), "unsupported kind"),
    "a text of 4 GB": (struct.pack("<HI", MessageID.TEXT, 2**32 - 1), "too long"),
    "samples of 34 GB": (declared(number_of_samples=65535, active_channels=65535), "memory"),
    "a trajectory of 17 GB": (declared(number_of_samples=65535, trajectory_dimensions=65535), "memory"),
    "no acquisition": (struct.pack("<H", MessageID.CLOSE), "no acquisitions"),
    "a path": (ismrmrd_bytes('{"task": "../../etc/passwd"}'), "unknown choice"),
    "another choice": (ismrmrd_bytes('{"bundle": "body_ct"}'), "no such choice"),
    "a choice of no characters": (ismrmrd_bytes('{"\\ud800\\u001b[2J": 1}'), r"'\ud800\x1b[2J'"),
    "no number": (ismrmrd_bytes('{"steps": "many"}'), "out of range"),
    "too many steps": (ismrmrd_bytes('{"steps": 1000000}'), "out of range"),
    "no JSON": (ismrmrd_bytes("{" * 30000), "not JSON"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_is_one_line_and_a_text(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    bad, words = BAD[what]
    server = serve(memory=1 << 22)
    texts, images = answer(ask(server.address, ismrmrd_bytes(header(scan), close=False) + bad))
    assert not images
    (text,), (line,) = texts, error_lines(caplog)
    assert words in text
    assert "\n" not in text
    assert line.endswith(text.removeprefix("error: "))
    assert SUBJECT not in caplog.text
    assert answer(ask(server.address, scan_bytes(scan)))[1]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([acquisition()], "before the header"),
        ([ConfigFile("default.xml")], "unknown choice"),
        ([ConfigText("<?xml version='1.0'?><gadgetronStreamConfiguration/>")], "unknown choice"),
    ],
)
def test_a_wrong_order_or_configuration(serve: Serve, messages: list[Any], words: str) -> None:
    (text,), images = answer(ask(serve().address, ismrmrd_bytes(*messages)))
    assert words in text
    assert not images


def test_a_second_header(serve: Serve, scan: Path) -> None:
    (text,), _ = answer(ask(serve().address, ismrmrd_bytes(header(scan), header(scan))))
    assert "second header" in text


def test_a_session_without_a_scan_is_closed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Clients of Gadgetron ask so what a server knows."""
    assert answer(ask(serve().address, ismrmrd_bytes(ConfigFile("diffrecon")))) == ([], [])
    assert not error_lines(caplog)


@pytest.mark.parametrize("part", [1, 2, 300, 2500, 0.5, 0.999])
@pytest.mark.parametrize("protocol", ["ismrmrd", "mrd"])
def test_a_client_that_goes_within_a_scan(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, part: float, protocol: str
) -> None:
    server = serve()
    if protocol == "mrd":
        pytest.importorskip("mrd")
    data = scan_bytes(scan) if protocol == "ismrmrd" else mrd_bytes(scan)
    with connect(server.address) as connection:
        connection.sendall(data[: int(part if part >= 1 else part * len(data))])
        connection.shutdown(1)
        said = everything(connection)
        assert not said if protocol == "mrd" else not answer(said or ismrmrd_bytes())[1]
    assert len(error_lines(caplog)) == 1
    assert "ends within" in error_lines(caplog)[0]
    assert answer(ask(server.address, scan_bytes(scan)))[1]


@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_never_end_the_server(serve: Serve, scan: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    streams = [scan_bytes(scan)]
    with suppress(ImportError):
        streams.append(mrd_bytes(scan))
    server = serve(memory=1 << 24, silence=1.0)
    for data in streams:
        bad = np.frombuffer(data, np.uint8).copy()
        start = 5 if bytes(data[:5]) == b"yardl" else 2
        places = random.integers(start, min(len(bad), 40000), 20)
        bad[places] = random.integers(0, 256, 20)
        with connect(server.address) as connection:
            connection.sendall(bad.tobytes())
            connection.shutdown(1)
            everything(connection)
    assert answer(ask(server.address, scan_bytes(scan)))[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data, end: data[:5] + b"\xff" + data[6:], "neither"),
        (lambda data, end: data.replace(b'"protocol"', b'"protocal"', 1), "another version"),
        (lambda data, end: data[:end] + b"\x00", "no header"),
        (lambda data, end: data[:9] + b"\xff" * 12, "damaged"),
        (lambda data, end: data[:9] + b"\xff\xff\xff\xff\x7f", "too long"),
    ],
)
def test_bad_streams_of_mrd(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, change: Callable[[bytes, int], bytes], words: str
) -> None:
    mrd = pytest.importorskip("mrd")
    data = mrd_bytes(scan)
    end = data.index(mrd.BinaryMrdReader.schema.encode()) + len(mrd.BinaryMrdReader.schema)
    assert ask(serve().address, change(data, end)) == b""
    (line,) = error_lines(caplog)
    assert words in line


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"\x01\x00" + b"\x00" * 14 + b"\xff\xff\xff\xff\x0f", "more numbers"),  # a list of stamps that never ends
        (b"\x01\x02", "unsupported kind"),
        (b"\x01\x63", "unsupported kind"),
    ],
)
def test_items_of_mrd_that_never_end_or_do_not_belong(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, item: bytes, words: str
) -> None:
    mrd = pytest.importorskip("mrd")
    stream = io.BytesIO()
    writer = mrd.BinaryMrdWriter(stream)
    writer.write_header(mrd.Header(encoding=[]))
    writer._stream.flush()
    with connect(serve().address) as connection:
        connection.sendall(stream.getvalue() + item + b"\x00" * (2 << 20))
        assert everything(connection) == b""
    assert words in error_lines(caplog)[0]
