# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Siemens files that are truncated, damaged, or declare what they do not hold."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from diffrecon_twix.simulate import SimulatedLine, write_simulated_twix
from diffrecon_twix.twix_reader import TwixReader
from monai_diffrecon.errors import InputError

N = 8


def scan(path: Path, *, multi_raid: bool = True) -> bytearray:
    """Write a small scan, and return its bytes."""
    rng = np.random.default_rng(0)
    lines = [
        SimulatedLine(
            samples=rng.standard_normal((1, 2 * N)) + 1j,
            quaternion=(1.0, 0.0, 0.0, 0.0),
            counters={"Lin": line},
            centre=(N, N // 2, 0),
        )
        for line in range(N)
    ]
    sizes = {f"sSliceArray.asSlice[0].{name}": 100.0 for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")}
    more = {"sSliceArray.lSize": 1, "sKSpace.lBaseResolution": N, "sKSpace.lPhaseEncodingLines": N}
    write_simulated_twix(path, lines, {**sizes, **more}, multi_raid=multi_raid)
    return bytearray(path.read_bytes())


def refused(path: Path, content: bytes) -> InputError:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        TwixReader().read(path)
    assert caught.value.where == "scan.dat"
    return caught.value


@pytest.mark.parametrize("multi_raid", [True, False])
def test_a_truncated_file_is_one_line(tmp_path: Path, multi_raid: bool) -> None:
    content = scan(tmp_path / "whole.dat", multi_raid=multi_raid)
    TwixReader().read(tmp_path / "whole.dat")
    # The 511 bytes at the end fill the last block of a multi-raid file.
    for length in [0, 1, 7, 8, 100, *range(9000, len(content) - 512, 97)]:
        refused(tmp_path / "scan.dat", bytes(content[:length]))


@pytest.mark.parametrize("multi_raid", [True, False])
def test_damaged_bytes_are_read_or_refused(tmp_path: Path, multi_raid: bool) -> None:
    content = scan(tmp_path / "scan.dat", multi_raid=multi_raid)
    rng = np.random.default_rng(1)
    for _ in range(120):
        damaged = np.frombuffer(bytes(content), np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 40)] = rng.integers(0, 256, 40)
        # Mostly where it counts: the first lines and the protocol.
        damaged[rng.integers(10240, 12288, 8)] = rng.integers(0, 256, 8)
        (tmp_path / "scan.dat").write_bytes(damaged.tobytes())
        reader = TwixReader(coil_maps="low_resolution")
        reader.recognises(tmp_path / "scan.dat")
        with suppress(InputError):
            reader.read(tmp_path / "scan.dat")


def test_a_measurement_beyond_the_file(tmp_path: Path) -> None:
    content = scan(tmp_path / "scan.dat")
    struct.pack_into("<QQ", content, 16, 10240, 1 << 62)
    assert "truncated" in refused(tmp_path / "scan.dat", content).what
    assert not TwixReader().recognises(tmp_path / "scan.dat")
    # An open length is that of the file.
    struct.pack_into("<QQ", content, 16, 10240, 0)
    (tmp_path / "scan.dat").write_bytes(content)
    assert TwixReader().read(tmp_path / "scan.dat").geometry.shape == (N, N, 1)


def test_a_line_without_coils_does_not_stand_still(tmp_path: Path) -> None:
    content = scan(tmp_path / "scan.dat", multi_raid=False)
    (header,) = struct.unpack_from("<I", content)
    struct.pack_into("<H", content, header + 30, 0)
    assert "truncated or damaged" in refused(tmp_path / "scan.dat", content).what


def test_far_more_lines_than_were_measured(tmp_path: Path) -> None:
    content = scan(tmp_path / "scan.dat")
    content = content.replace(b"lBaseResolution\t = \t8\n", b"lBaseResolution = 60000")
    content = content.replace(b"lPhaseEncodingLines\t = \t8\n", b"lPhaseEncodingLines = 60000")
    refused(tmp_path / "scan.dat", content)


@pytest.mark.parametrize("content", [b"", b"\x00" * 20000, b"\x01\x00\x00\x00" * 5000, b"no raw data " * 2000])
def test_what_is_no_siemens_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.dat").write_bytes(content)
    assert not TwixReader().recognises(tmp_path / "scan.dat")
    refused(tmp_path / "scan.dat", content)


def test_no_file(tmp_path: Path) -> None:
    assert not TwixReader().recognises(tmp_path)
    assert not TwixReader().recognises(tmp_path / "none.dat")
    with pytest.raises(InputError) as caught:
        TwixReader().read(tmp_path / "none.dat")
    assert caught.value.where == "none.dat"
