# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MetaImage and NRRD: files of ITK, every field of a header, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.images.metaimage_reader import MetaImageReader
from monai_diffrecon.io.images.nrrd_reader import NRRDReader
from monai_diffrecon.protocols import Measurement

SHAPE = (7, 6, 5)
VALUES = np.random.default_rng(0).integers(-900, 1500, SHAPE).astype("<i2")
RAW = VALUES.tobytes(order="F")
#: An axis that runs to the left, one upwards, one to the front: in RAS+ the array is flipped and swapped.
TURNED = np.array([[-0.7, 0.0, 0.0, 40.0], [0.0, 0.0, 2.0, -20.0], [0.0, 0.9, 0.0, 7.5], [0.0, 0.0, 0.0, 1.0]])
IN_RAS = VALUES[::-1].transpose(0, 2, 1)
AFFINE = [[0.7, 0, 0, 35.8], [0, 2.0, 0, -20], [0, 0, 0.9, 7.5], [0, 0, 0, 1]]

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 0 1 0 -1 0",  # in LPS
    "Offset": "-40 20 7.5",
    "ElementSpacing": "0.7 0.9 2",
    "DimSize": "7 6 5",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "right-anterior-superior",
    "sizes": "7 6 5",
    "space directions": "(-0.7,0,0) (0,0,0.9) (0,2,0)",
    "space origin": "(40,-20,7.5)",
    "endian": "little",
    "encoding": "raw",
}


def meta(path: Path, data: bytes = RAW, **changes: str | None) -> Path:
    fields = {k: v for k, v in (META | changes).items() if v is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    path.write_bytes("".join(f"{k} = {v}\n" for k, v in fields.items()).encode() + data)
    return path


def nrrd(path: Path, data: bytes = RAW, changes: dict[str, str | None] | None = None, further: str = "") -> Path:
    fields = {k: v for k, v in (NRRD | (changes or {})).items() if v is not None}
    path.write_bytes(
        ("NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in fields.items()) + further + "\n").encode() + data
    )
    return path


def check(measured: Measurement) -> None:
    np.testing.assert_array_equal(measured.data[0].numpy(), IN_RAS)
    np.testing.assert_allclose(np.array(measured.geometry.affine), AFFINE, atol=1e-9)
    assert measured.operator is None
    assert measured.unit == "arbitrary"


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compress", [False, True])
def test_files_of_itk(tmp_path: Path, itk_write: Callable[..., None], images: Any, suffix: str, compress: bool) -> None:
    for affine, values in ((TURNED, IN_RAS), (np.array(images.oblique().affine), VALUES)):
        path = tmp_path / f"scan{suffix}"
        itk_write(path, VALUES, affine, compress=compress)
        name, measured = read_scan(path)
        assert name == ("metaimage" if suffix in (".mha", ".mhd") else "nrrd")
        np.testing.assert_array_equal(measured.data[0].numpy(), values)
        expected = AFFINE if affine is TURNED else affine
        np.testing.assert_allclose(np.array(measured.geometry.affine), expected, atol=1e-5)
        assert measured.notices == ()


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (RAW, {}),
        (zlib.compress(RAW), {"CompressedData": "True"}),
        (VALUES.astype(">i2").tobytes(order="F"), {"BinaryDataByteOrderMSB": "True"}),
        (VALUES.astype(">i2").tobytes(order="F"), {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"}),
        (" ".join(map(str, VALUES.flatten(order="F"))).encode(), {"BinaryData": "False"}),
        (VALUES.astype("<f8").tobytes(order="F"), {"ElementType": "MET_DOUBLE"}),
        (bytes(33) + RAW, {"HeaderSize": "-1"}),
        (RAW, {"NDims": "4", "DimSize": "7 6 5 1", "ElementSpacing": "0.7 0.9 2 1", "Offset": "-40 20 7.5 0",
               "TransformMatrix": "1 0 0 0 0 0 1 0 0 -1 0 0 0 0 0 1"}),
        (RAW, {"ElementSize": "9 9 9"}),
        (RAW, {"ElementSize": "0.7 0.9 2", "ElementSpacing": None}),
        (RAW, {"DistanceUnits": "cm", "ElementSpacing": "0.07 0.09 0.2", "Offset": "-4 2 0.75"}),
        (RAW, {"Offset": None, "Position": "-40 20 7.5", "TransformMatrix": None, "Rotation": META["TransformMatrix"]}),
    ],
)  # fmt: skip
def test_fields_of_metaimage(tmp_path: Path, data: bytes, changes: dict[str, str | None]) -> None:
    check(MetaImageReader().read(meta(tmp_path / "scan.mha", data, **changes)))


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (RAW, {}),
        (gzip.compress(RAW), {"encoding": "gzip"}),
        (bz2.compress(RAW), {"encoding": "bz2"}),
        (" ".join(map(str, VALUES.flatten(order="F"))).encode(), {"encoding": "ascii", "endian": None}),
        (VALUES.astype(">i2").tobytes(order="F"), {"endian": "big"}),
        (bytes(33) + RAW, {"byte skip": "-1"}),
        (bytes(33) + RAW, {"byteskip": "33"}),
        (RAW, {"space": "LPS", "space directions": "(0.7,0,0) (0,0,0.9) (0,-2,0)", "space origin": "(-40,20,7.5)"}),
        (RAW, {"space": "LAS", "space directions": "(0.7,0,0) (0,0,0.9) (0,2,0)", "space origin": "(-40,-20,7.5)"}),
        (RAW, {"space units": '"cm" "cm" "cm"', "space directions": "(-.07,0,0) (0,0,.09) (0,.2,0)",
               "space origin": "(4,-2,0.75)"}),
        (RAW, {"dimension": "4", "sizes": "1 7 6 5", "kinds": "list domain domain domain",
               "space directions": "none (-0.7,0,0) (0,0,0.9) (0,2,0)"}),
    ],
)  # fmt: skip
def test_fields_of_nrrd(tmp_path: Path, data: bytes, changes: dict[str, str | None]) -> None:
    check(NRRDReader().read(nrrd(tmp_path / "scan.nrrd", data, changes, "# Doe\nname:=Doe: John\n")))


def test_voxels_beside_the_header(tmp_path: Path) -> None:
    (tmp_path / "voxels.raw").write_bytes(b"ab" + RAW)
    check(MetaImageReader().read(meta(tmp_path / "a.mhd", b"", ElementDataFile="voxels.raw", HeaderSize="2")))
    check(NRRDReader().read(nrrd(tmp_path / "a.nhdr", b"", {"data file": "voxels.raw", "byte skip": "2"})))
    first = MetaImageReader().read(tmp_path / "a.mhd").source_sha256
    (tmp_path / "voxels.raw").write_bytes(b"ac" + RAW)
    assert MetaImageReader().read(tmp_path / "a.mhd").source_sha256 != first


def test_an_unknown_orientation(tmp_path: Path) -> None:
    """The array stays as it is stored, and voxel sizes are known."""
    found = [
        MetaImageReader().read(meta(tmp_path / "a.mha", TransformMatrix=None, AnatomicalOrientation="RAI")),
        NRRDReader().read(nrrd(tmp_path / "a.nrrd", changes={"space": "scanner-xyz"})),
        NRRDReader().read(
            nrrd(tmp_path / "b.nrrd", changes={"space": None, "space directions": None, "spacings": "0.7 0.9 2"})
        ),
    ]
    for measured in found:
        assert measured.geometry.affine is None
        assert measured.geometry.spacing == pytest.approx((0.7, 0.9, 2.0))
        np.testing.assert_array_equal(measured.data[0].numpy(), VALUES)
        assert len(measured.notices) == 1
    plain = NRRDReader().read(nrrd(tmp_path / "c.nrrd", changes={"space": None, "space directions": None}))
    assert plain.geometry.spacing == (1.0, 1.0, 1.0)
    assert len(plain.notices) == 2


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    measured = MetaImageReader().read(meta(tmp_path / "a.mha", Offset=None, ElementToIntensityFunctionSlope="0.5"))
    assert len(measured.notices) == 2
    np.testing.assert_array_equal(measured.data[0].numpy(), IN_RAS * 0.5)
    assert len(NRRDReader().read(nrrd(tmp_path / "a.nrrd", changes={"space origin": None})).notices) == 1
    assert len(NRRDReader().read(nrrd(tmp_path / "a.nrrd", changes={"space units": '"ell"'})).notices) == 1


def test_no_line_that_names_a_subject_is_kept(tmp_path: Path) -> None:
    found = [
        MetaImageReader().read(meta(tmp_path / "a.mha", Comment="Doe", PatientName="Doe")),
        NRRDReader().read(nrrd(tmp_path / "a.nrrd", further="# Doe\nPatient:=Doe\ncontent: Doe\n")),
    ]
    assert "Doe" not in repr(found)


HUGE = "70000 60000 50000"


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (RAW[:-1], {}),
        (RAW, {"DimSize": HUGE}),
        (zlib.compress(RAW), {"CompressedData": "True", "DimSize": HUGE}),
        (zlib.compress(RAW)[:-3], {"CompressedData": "True"}),
        (zlib.compress(RAW + b"ab"), {"CompressedData": "True"}),
        (zlib.compress(RAW)[:50] + b"abcdef" + zlib.compress(RAW)[56:], {"CompressedData": "True"}),
        (b"1 2 x", {"BinaryData": "False"}),
        (RAW, {"BinaryData": "False"}),
        (RAW, {"DimSize": "7 6 -5"}),
        (RAW, {"DimSize": "7 6 5.5"}),
        (RAW, {"DimSize": "7 30"}),
        (RAW, {"NDims": "2", "DimSize": "7 30"}),
        (RAW, {"NDims": "4", "DimSize": "7 6 1 5"}),
        (RAW, {"ElementNumberOfChannels": "3"}),
        (RAW, {"ElementType": "MET_SHORT_ARRAY"}),
        (RAW, {"ElementType": None}),
        (RAW, {"HeaderSize": "-2"}),
        (RAW, {"HeaderSize": "9999999"}),
        (RAW, {"TransformMatrix": "0 0 0 0 0 0 0 0 0"}),
        (RAW, {"TransformMatrix": "1 0 0 0 1 0"}),
        (RAW, {"TransformMatrix": "1 0 0 0.7 0.7 0 0 0 1"}),
        (RAW, {"Offset": "nan 0 0"}),
        (RAW, {"ElementSpacing": "0 1 1"}),
        (RAW, {"ElementDataFile": "LIST"}),
        (RAW, {"ElementDataFile": "slice%03d.raw 1 5 1"}),
        (RAW, {"ElementDataFile": "missing.raw"}),
        (RAW, {"ElementDataFile": "../../etc/passwd"}),
        (RAW, {"ElementDataFile": "/etc/passwd"}),
        (RAW, {"ElementDataFile": "..\\passwd"}),
        (RAW, {"ElementDataFile": "link.raw"}),
        (RAW, {"ElementDataFile": "."}),
        (np.full(SHAPE, np.inf, "<f4").tobytes(), {"ElementType": "MET_FLOAT"}),
        (np.full(SHAPE, 1e300, "<f8").tobytes(), {"ElementType": "MET_DOUBLE"}),
    ],
)
def test_metaimages_that_are_refused(tmp_path: Path, data: bytes, changes: dict[str, str | None]) -> None:
    (tmp_path / "Doe").mkdir()
    (tmp_path / "secret.raw").write_bytes(RAW)
    (tmp_path / "Doe" / "link.raw").symlink_to(tmp_path / "secret.raw")
    refused(MetaImageReader(), meta(tmp_path / "Doe" / "scan.mha", data, **changes))


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (RAW[:-1], {}),
        (RAW, {"sizes": HUGE}),
        (gzip.compress(RAW), {"encoding": "gzip", "sizes": HUGE}),
        (gzip.compress(RAW)[:-3], {"encoding": "gzip"}),
        (bz2.compress(RAW)[:-3], {"encoding": "bzip2"}),
        (RAW, {"encoding": "bzip2"}),
        (RAW, {"encoding": "hex"}),
        (RAW, {"type": "block"}),
        (RAW, {"sizes": None}),
        (RAW, {"dimension": "4"}),
        (RAW, {"sizes": "7 6 x"}),
        (RAW, {"dimension": "2", "sizes": "7 30", "space directions": "(1,0,0) (0,1,0)"}),
        (RAW, {"dimension": "4", "sizes": "7 6 1 5", "space directions": "(1,0,0) (0,1,0) (0,0,1) none"}),
        (RAW, {"dimension": "4", "sizes": "7 3 2 5", "space directions": None}),
        (RAW, {"sizes": "5 6 7", "kinds": "vector domain domain", "space directions": None}),
        (RAW, {"space directions": "(1,0,0) (0,1,0)"}),
        (RAW, {"space directions": "(1,0) (0,1) (0,0)"}),
        (RAW, {"space directions": "(1,0,0) (1,0,0) (0,0,1)"}),
        (RAW, {"space origin": "(nan,0,0)"}),
        (RAW, {"line skip": "3"}),
        (RAW, {"byte skip": "-7"}),
        (RAW, {"data file": "LIST"}),
        (RAW, {"data file": "scan%03d.raw 1 5 1"}),
        (RAW, {"data file": "../secret.raw"}),
        (RAW, {"data file": "link.raw"}),
        (RAW, {"data file": "missing.raw"}),
    ],
)
def test_nrrds_that_are_refused(tmp_path: Path, data: bytes, changes: dict[str, str | None]) -> None:
    (tmp_path / "Doe").mkdir()
    (tmp_path / "secret.raw").write_bytes(RAW)
    (tmp_path / "Doe" / "link.raw").symlink_to(tmp_path / "secret.raw")
    refused(NRRDReader(), nrrd(tmp_path / "Doe" / "scan.nrrd", data, changes))


def refused(reader: MetaImageReader | NRRDReader, path: Path) -> None:
    with pytest.raises(InputError) as caught:
        reader.read(path)
    assert "Doe" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_leaning_stack_is_read_for_who_corrects_it(tmp_path: Path) -> None:
    path = meta(tmp_path / "scan.mha", TransformMatrix="1 0 0 0 1 0 0 0.2 0.98")
    reader = MetaImageReader()
    with pytest.raises(InputError):
        reader.read(path)
    reader.leaning = True
    assert torch.isfinite(reader.read(path).data).all()
