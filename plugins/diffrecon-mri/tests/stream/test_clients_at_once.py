# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Clients that are slow, many, or go while they are served, and reconstructions that fail."""

from __future__ import annotations

import logging
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest

from diffrecon_mri.stream.scan import Scan
from monai_diffrecon.errors import InputError

from .clients import answer, ask, connect, everything, ismrmrd_bytes, mrd_bytes, open_scan, scan_bytes
from .conftest import SUBJECT, error_lines, unit_images

Serve = Callable[..., Any]


def test_a_silent_and_a_slow_client(serve: Serve, scan: Path) -> None:
    data = scan_bytes(scan)
    silent = serve(silence=0.3)
    with connect(silent.address) as connection:
        connection.sendall(data[:5000])
        (text,), _ = answer(everything(connection))
    assert "nothing has arrived" in text
    slow = serve(longest=0.5)
    with connect(slow.address) as connection:
        end = time.monotonic() + 20
        for byte in data:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.01)
            assert time.monotonic() < end
            connection.settimeout(0.001)
            try:
                if connection.recv(1):
                    break
            except TimeoutError:
                continue
            finally:
                connection.settimeout(60)
        assert b"takes too long" in everything(connection)


def test_two_clients_at_once_and_one_at_a_time(serve: Serve, scan: Path) -> None:
    """The second sends its scan while the first is reconstructed, and is reconstructed after it."""
    begun, go, running = threading.Semaphore(0), threading.Event(), []

    def slow(scan: Scan) -> Any:
        running.append(1)
        assert len(running) == 1
        begun.release()
        assert go.wait(60)
        running.pop()
        return unit_images(scan)

    server = serve(slow)
    data = scan_bytes(scan)
    with connect(server.address) as one, connect(server.address) as two:
        one.sendall(data)
        assert begun.acquire(timeout=60)
        two.sendall(data)
        go.set()
        assert [len(answer(everything(c))[1]) for c in (one, two)] == [2, 2]


def test_more_clients_than_places_wait(serve: Serve, scan: Path) -> None:
    server = serve(clients=1)
    with connect(server.address) as one, connect(server.address) as two:
        two.sendall(scan_bytes(scan))
        one.sendall(scan_bytes(scan))
        assert len(answer(everything(one))[1]) == 2
        one.close()
        assert len(answer(everything(two))[1]) == 2


def test_memory_is_shared_and_given_back(serve: Serve, scan: Path) -> None:
    data = scan_bytes(scan)
    server = serve(memory=int(1.8 * len(data)))
    with connect(server.address) as one:
        one.sendall(data[: int(0.9 * len(data))])
        time.sleep(0.5)
        (text,), _ = answer(ask(server.address, data))
        assert "memory" in text
        one.shutdown(1)
        everything(one)
    for _ in range(3):
        assert answer(ask(server.address, data))[1]


def test_a_client_that_goes_while_its_scan_is_reconstructed(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(scan: Scan) -> Any:
        begun.set()
        assert go.wait(60)
        return unit_images(scan)

    server = serve(slow)
    with connect(server.address) as connection:
        connection.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: closing resets the connection
        connection.sendall(scan_bytes(scan))
        assert begun.wait(60)
    go.set()
    assert answer(ask(server.address, scan_bytes(scan)))[1]
    assert any("does not take the answer" in line for line in error_lines(caplog))


@pytest.mark.parametrize("error", [InputError("no use"), ZeroDivisionError(SUBJECT), MemoryError()])
def test_a_reconstruction_that_fails(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(scan: Scan) -> Any:
        raise error

    (text,), images = answer(ask(serve(fail).address, scan_bytes(scan)))
    assert not images
    assert SUBJECT not in caplog.text + text
    assert {"InputError": "no use", "ZeroDivisionError": "a defect", "MemoryError": "memory"}[
        type(error).__name__
    ] in text


def test_waveforms_are_ignored_and_the_last_acquisition_ends_the_scan(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head, acquisitions = open_scan(scan)
    waveform = ismrmrd.Waveform.from_array(np.ones((2, 50), np.uint32))
    acquisitions[0].setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)  # of the noise scan
    acquisitions[9].setFlag(ismrmrd.ACQ_IS_PHASECORR_DATA)
    acquisitions[9].setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    acquisitions[-1].setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    counts: list[int] = []

    def keep(scan: Scan) -> Any:
        counts.append(len(scan))
        return unit_images(scan)

    data = ismrmrd_bytes(head, waveform, *acquisitions, waveform, close=False)
    assert answer(ask(serve(keep).address, data))[1]
    assert counts == [len(acquisitions)]
    assert "1 waveforms ignored" in caplog.text


def test_mrd_2_without_its_package(
    serve: Serve, scan: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mrd")
    data = mrd_bytes(scan)
    for name in [name for name in sys.modules if name.startswith("diffrecon_mri.stream.mrd_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mrd", None)
    assert ask(serve().address, data) == b""
    (line,) = error_lines(caplog)
    assert "diffrecon-mri[mrd]" in line
