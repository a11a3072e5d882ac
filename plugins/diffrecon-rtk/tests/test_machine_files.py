# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections in the public layouts of Elekta (his) and Varian (hnd, xim), written here and read back."""

import struct
from pathlib import Path

import numpy as np
import pytest

from diffrecon_rtk.machine_files import read_machine_geometry
from diffrecon_rtk.projections_reader import RTKProjectionsReader
from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.find_reader import read_scan

VIEWS, SIZE = 3, 16
COUNTS = np.random.default_rng(0).integers(400, 60000, (VIEWS, SIZE, SIZE))
OBI = """<Acquisitions><CalibratedSAD>1000</CalibratedSAD><CalibratedSID>1500</CalibratedSID>
<CalibratedDetectorOffsetX>0.5</CalibratedDetectorOffsetX><CalibratedDetectorOffsetY>-0.25</CalibratedDetectorOffsetY>
<DetectorPosLat>-148</DetectorPosLat><FanType>HalfFan</FanType></Acquisitions>
"""
TRUEBEAM = "<Scan><Acquisitions><SAD>1000</SAD><SID>1500</SID></Acquisitions></Scan>\n"
XVI = "<ImageInfo><Frames>{}</Frames></ImageInfo>\n"
FRAME = "<Frame><GantryAngle>{}</GantryAngle><UCentre>115</UCentre><VCentre>-2</VCentre></Frame>"
ONE_VIEW = """<RTKThreeDCircularGeometry version="3"><SourceToIsocenterDistance>1000</SourceToIsocenterDistance>
<SourceToDetectorDistance>1500</SourceToDetectorDistance><Projection></Projection></RTKThreeDCircularGeometry>
"""


def write_his(path: Path, counts: np.ndarray) -> None:
    """Write counts (rows, columns), uint16, as Elekta's detector does: 65535 where there is no beam."""
    rows, columns = counts.shape
    header = bytearray(68)
    struct.pack_into("<HH", header, 0, 0x7000, 0x44)
    struct.pack_into("<HHHHHH", header, 10, 32, 1, 1, columns, rows, 1)
    struct.pack_into("<H", header, 32, 4)
    path.write_bytes(bytes(header) + bytes(32) + counts.astype("<u2").tobytes())


def _compressed(counts: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Return the table of lengths, the first row and pixel, and the differences of Varian's compression."""
    flat, columns = counts.astype(np.int64).ravel(), counts.shape[1]
    k = np.arange(columns + 1, flat.size)
    change = flat[k] - flat[k - 1] - flat[k - columns] + flat[k - columns - 1]
    lengths = [0 if abs(d) < 128 else 1 if abs(d) < 2**15 else 2 for d in change]
    codes = np.array(lengths + [0] * (-len(lengths) % 4)).reshape(-1, 4)
    table = (codes << np.array([0, 2, 4, 6])).sum(1).astype(np.uint8).tobytes()
    body = b"".join(int(d).to_bytes(1 << n, "little", signed=True) for d, n in zip(change, lengths, strict=True))
    return table, flat[: columns + 1].astype("<u4").tobytes(), body + bytes(codes.size - len(lengths))


def write_hnd(path: Path, counts: np.ndarray, degrees: float, pixel: float) -> None:
    """Write counts (rows, columns) as Varian's OBI does."""
    rows, columns = counts.shape
    header = bytearray(1024)
    struct.pack_into("<II", header, 32 + 4 + 4 + 4 + 8 + 8 + 16 + 4 + 16 + 4 + 16 + 4, columns, rows)
    numbers = 32 + 4 + 4 + 4 + 8 + 8 + 16 + 4 + 16 + 4 + 16 + 4 + 8 + 8 + 16 + 4 + 4 + 4 + 4
    struct.pack_into("<dd", header, numbers + 8 * 23, pixel, pixel)
    struct.pack_into("<d", header, numbers + 8 * 33, degrees)
    table, first, body = _compressed(counts)
    path.write_bytes(bytes(header) + table[: (rows - 1) * columns // 4] + first + body)


def write_xim(path: Path, counts: np.ndarray, degrees: float, pixel: float, shift: float) -> None:
    """Write counts (rows, columns) as Varian's TrueBeam does; ``shift`` of the detector in mm."""
    rows, columns = counts.shape
    table, first, body = _compressed(counts)
    header = b"VMS.XI\0\0" + struct.pack("<6i", 1, columns, rows, 32, 4, 1)
    pixels = struct.pack("<i", len(table)) + table + struct.pack("<i", len(first + body)) + first + body
    properties = {"KVSourceRtn": degrees, "KVDetectorLat": shift / 10, "KVDetectorLng": 0.0}
    properties |= {"PixelHeight": pixel / 10, "PixelWidth": pixel / 10}
    listed = b"".join(
        struct.pack("<i", len(name)) + name.encode() + struct.pack("<id", 1, value)
        for name, value in properties.items()
    )
    end = struct.pack("<iii", 4 * counts.size, 0, len(properties)) + listed
    path.write_bytes(header + pixels + end)


@pytest.fixture
def elekta(tmp_path: Path) -> Path:
    for i, counts in enumerate(COUNTS):
        write_his(tmp_path / f"{9 + i}.1.his", 65536 - counts)  # 9, 10, 11: not the order of the alphabet
    (tmp_path / "_Frames.xml").write_text(XVI.format("".join(FRAME.format(120 * i) for i in range(VIEWS))))
    return tmp_path


def test_elekta(elekta: Path) -> None:
    name, m = read_scan(elekta, {"name": "rtk_projections", "flat": 65536})
    assert name == "rtk_projections"
    expected = -np.log(COUNTS[:, 4:-4, 4:-4] / 65536).transpose(0, 2, 1)
    np.testing.assert_allclose(m.data, expected, rtol=1e-5)
    np.testing.assert_allclose(m.weights, np.exp(-expected), rtol=1e-5)
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    views = operator.trajectory.views
    assert [view.gantry_angle for view in views] == pytest.approx([0.0, 120.0, 240.0])
    assert views[1][:2] == (1000.0, 1536.0)
    assert views[1][3:5] == (-115.0, 2.0)
    assert operator.detector.spacing == (25.6, 25.6)
    assert operator.detector.offset == pytest.approx((0.0, 0.0))


def test_varian_obi(tmp_path: Path) -> None:
    for i, counts in enumerate(COUNTS):
        write_hnd(tmp_path / f"Proj_{i}.hnd", counts, 120.0 * i, 0.8)
    (tmp_path / "ProjectionInfo.xml").write_text(OBI)
    _, m = read_scan(tmp_path, {"name": "rtk_projections", "flat": 60000, "dark": 100})
    np.testing.assert_allclose(m.data, -np.log((COUNTS - 100) / 59900).transpose(0, 2, 1), rtol=1e-4, atol=1e-6)
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    assert [view.gantry_angle for view in operator.trajectory.views] == pytest.approx([0.0, 120.0, 240.0])
    assert operator.trajectory.views[2][:2] == (1000.0, 1500.0)
    assert operator.trajectory.views[2][3:5] == (-147.5, -0.25)
    assert operator.detector.offset == pytest.approx((0.0, 0.0))


def test_varian_truebeam(tmp_path: Path) -> None:
    for i, counts in enumerate(COUNTS):
        write_xim(tmp_path / f"Proj_{i}.xim", counts, 120.0 * i, 0.8, -3.0)
    (tmp_path / "Scan.xml").write_text(TRUEBEAM)
    _, m = read_scan(tmp_path, {"name": "rtk_projections", "flat": 60000})
    np.testing.assert_allclose(m.data, -np.log(COUNTS / 60000).transpose(0, 2, 1), rtol=1e-4, atol=1e-6)
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    assert [view.gantry_angle % 360.0 for view in operator.trajectory.views] == pytest.approx([180.0, 60.0, 300.0])
    assert operator.trajectory.views[2].projection_offset_x == pytest.approx(-3.0)


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    for name, write in (("a.his", write_his), ("a.hnd", lambda p, c: write_hnd(p, c, 0.0, 0.8))):
        folder = tmp_path / name[2:]
        folder.mkdir()
        (folder / "geometry.xml").write_text(ONE_VIEW)
        write(folder / name, COUNTS[0])
        content = (folder / name).read_bytes()
        assert RTKProjectionsReader(flat=6e4).read(folder).data.shape[0] == 1
        for end in range(0, len(content) - 8, 97):
            (folder / name).write_bytes(content[:end])
            with pytest.raises(InputError) as caught:
                RTKProjectionsReader(flat=6e4).read(folder)
            assert "\n" not in str(caught.value)


def test_a_table_that_is_not_of_the_image(tmp_path: Path) -> None:
    write_xim(tmp_path / "a.xim", COUNTS[0], 0.0, 0.8, 0.0)
    content = bytearray((tmp_path / "a.xim").read_bytes())
    content[32:36] = (10**6).to_bytes(4, "little")
    (tmp_path / "a.xim").write_bytes(content)
    (tmp_path / "geometry.xml").write_text(ONE_VIEW)
    with pytest.raises(InputError) as caught:
        RTKProjectionsReader(flat=6e4).read(tmp_path)
    assert caught.value.where == "a.xim"


@pytest.mark.parametrize("damage", ["<SAD>1000</SAD>", "1500", "</SID>"])
def test_damaged_geometries_of_machines(damage: str, tmp_path: Path) -> None:
    write_xim(tmp_path / "a.xim", COUNTS[0], 0.0, 0.8, 0.0)
    assert damage in TRUEBEAM
    (tmp_path / "Scan.xml").write_text(TRUEBEAM.replace(damage, "x"))
    with pytest.raises(InputError) as caught:
        read_machine_geometry(tmp_path / "Scan.xml", [tmp_path / "a.xim"])
    assert caught.value.where == "Scan.xml"
    assert "\n" not in str(caught.value)
