# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Writer of simulated Siemens raw data, for tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from twixtools import write_twix
from twixtools.mdb import Mdb_local
from twixtools.mdh_def import VB17_header

#: What every protocol holds; a value of None takes an entry out.
PROTOCOL: dict[str, object] = {
    "tProtocolName": '""',
    "sKSpace.ucDimension": "0x2",
    "sKSpace.ucTrajectory": "0x1",
    "sKSpace.ucPhasePartialFourier": "0x10",
    "sKSpace.ucSlicePartialFourier": "0x10",
    "sPat.lAccelFactPE": 1,
    "sPat.lAccelFact3D": 1,
    "sPat.ucRefScanMode": "0x1",
    "sFastImaging.lEPIFactor": 1,
}


@dataclass
class SimulatedLine:
    """A line to write.

    Attributes:
        samples: complex (coils, samples).
        quaternion: of its slice (w, x, y, z).
        position: of its slice, LPS, mm.
        counters: ``Lin``, ``Par``, ``Sli``, ``Eco``, ``Ave``, ...
        centre: column, line and partition through the centre of k-space.
        flags: of the line, by the names of twixtools.
        cut: samples to discard at its beginning and its end.
    """

    samples: np.ndarray
    quaternion: tuple[float, float, float, float]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    counters: dict[str, int] = field(default_factory=dict)
    centre: tuple[int, int, int] = (0, 0, 0)
    flags: tuple[str, ...] = ()
    cut: tuple[int, int] = (0, 0)


def write_simulated_twix(
    path: Path, lines: list[SimulatedLine], protocol: dict[str, object], *, multi_raid: bool = True, meas: str = ""
) -> None:
    """Write a file of the layout of VD to XA, by twixtools, or of VB.

    Args:
        path: file to write.
        lines: what was measured.
        protocol: entries of the protocol beside :data:`PROTOCOL`.
        multi_raid: VD to XA; else VB.
        meas: text of the buffer ``Meas``.
    """
    entries = {key: value for key, value in {**PROTOCOL, **protocol}.items() if value is not None}
    text = "".join(f"{key}\t = \t{value}\n" for key, value in entries.items())
    header = _header({"Meas": meas, "MeasYaps": f"### ASCCONV BEGIN ###\n{text}### ASCCONV END ###\n"})
    mdbs = [_mdb(line, multi_raid) for line in lines]
    if multi_raid:
        write_twix({"hdr_str": np.frombuffer(header, "<S1"), "mdb": [*mdbs, _end()]}, path)
        return
    end = VB17_header()
    end.EvalInfoMask, end.FlagsAndDMALength = 1, len(bytes(end))
    with path.open("wb") as file:
        file.write(header)
        for mdb in mdbs:
            for samples in mdb.data:
                file.write(bytes(mdb.mdh) + samples.tobytes())
        file.write(bytes(end))


def _header(buffers: dict[str, str]) -> bytes:
    parts = [
        name.encode() + b"\x00" + struct.pack("<I", len(text)) + text.encode("latin-1")
        for name, text in {"Config": "", **buffers}.items()
    ]
    body = b"".join(parts)
    # VB is told from the others by a long header.
    length = max(10240, -(-(len(body) + 8) // 32) * 32)
    return struct.pack("<II", length, len(parts)) + body.ljust(length - 8, b"\x00")


def _mdb(line: SimulatedLine, multi_raid: bool) -> Mdb_local:
    mdb = Mdb_local(np.ascontiguousarray(line.samples, np.complex64), multi_raid)
    mdh = mdb.mdh
    for name, value in line.counters.items():
        setattr(mdh.Counter, name, value)
    mdh.CenterCol, mdh.CenterLin, mdh.CenterPar = line.centre
    mdh.CutOff.Pre, mdh.CutOff.Post = line.cut
    for name, coordinate in zip(("Sag", "Cor", "Tra"), line.position, strict=True):
        setattr(mdh.SliceData.SlicePos, name, coordinate)
    mdh.SliceData.Quaternion[:] = np.asarray(line.quaternion, np.float32)
    mdb.set_flags(list(line.flags))
    return mdb


def _end() -> Mdb_local:
    end = Mdb_local()
    end.add_flag("ACQEND")
    return end
