# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The command: what it refuses before it listens, and what it says."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from diffrecon_mri.stream import __main__ as command
from diffrecon_mri.stream.server import is_loopback

from .conftest import BUNDLE


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the servers that the command started; they serve nobody."""
    servers: list[Any] = []

    def serve(self: Any) -> None:
        servers.append(self)
        self._socket.close()

    monkeypatch.setattr(command.StreamServer, "serve", serve)
    return servers


def run(*words: str) -> int:
    return command.main(["--bundle", str(BUNDLE), "--device", "cpu", "--port", "0", *words])


def test_it_listens_on_loopback_with_its_limits(started: list[Any]) -> None:
    assert run("--memory", "0.5", "--clients", "2", "--reader", '{"coil_maps": "low_resolution"}') == 0
    (server,) = started
    assert server.address[0] == "127.0.0.1"
    assert (server._limits.memory, server._limits.clients) == (1 << 29, 2)


def test_a_reader_is_typed_as_messages_advise(started: list[Any]) -> None:
    assert run("--reader", "{'name': 'ismrmrd', 'spacing': 1.0}") == 0
    assert len(started) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--host", "0.0.0.0"),
        ("--host", "192.0.2.1", "--open"),  # an address of no machine
        ("--bundle", "nothing_of_this_name"),
        ("--task", "nothing"),
        ("--set", "sampler.stepz=3"),
        ("--reader", "{"),
        ("--reader", '{"name": "fastmri"}'),
        ("--reader", '{"spacings": 1}'),
        ("--clients", "0"),
        ("--silence", "-1"),
        ("--memory", "nan"),
        ("--memory", "0"),
        ("--port", "70000"),
    ],
)
def test_refusals_are_one_line(started: list[Any], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not started


def test_a_port_that_is_taken(started: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("--port", str(taken.getsockname()[1])) == 2


def test_an_open_port_is_said(started: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert run("--host", "0.0.0.0", "--open") == 0
    assert "nothing is encrypted" in caplog.text


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("scanner", False)],
)
def test_what_only_this_machine_reaches(host: str, wanted: bool) -> None:
    assert is_loopback(host) is wanted
