# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Folders of folders, files without a preamble, one broken file of many, JPEG that decoders read differently."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.header import is_dicom
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.privacy.file_names import anonymously
from monai_diffrecon.protocols import VolumeGeometry


def error_of(path: Path, case: str | None = None, reader: Any = "auto") -> InputError:
    call = partial(read_scan, path, reader)
    with pytest.raises(InputError) as caught:
        call() if case is None else anonymously(call, path, "image", case)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("reader", ["auto", "dicom"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_folder_of_folders_names_one(tmp_path: Path, dicom: Any, depth: int, reader: str) -> None:
    study = tmp_path / "study"
    for name in ("Canaryman_A", "Canaryman_B"):
        dicom.save(study.joinpath(name, *["Canaryman_deep"] * (depth - 1)), dicom.make_series(dicom.stored()))
    (study / "notes.txt").write_text("notes")
    error = error_of(study, reader=reader)
    assert "2 folders" in str(error.got)
    assert "Canaryman_A" in str(error.mend)
    hidden = error_of(study, "case-1", reader)
    assert "2 folders" in str(hidden.got)
    assert "Canaryman" not in str(hidden)


@pytest.mark.parametrize("name", ["Li", "\udcfc\udcfcxx"])
def test_a_name_that_could_not_be_taken_out_is_not_said(tmp_path: Path, dicom: Any, name: str) -> None:
    dicom.save(tmp_path / "study" / name, dicom.make_series(dicom.stored()))
    assert name not in str(error_of(tmp_path / "study"))


def test_a_folder_of_folders_with_other_scans(tmp_path: Path) -> None:
    (tmp_path / "all" / "first").mkdir(parents=True)
    write_volume(tmp_path / "all" / "first" / "v.nii.gz", torch.rand(1, 4, 4, 4), VolumeGeometry((4, 4, 4)))
    assert "'first'" in str(error_of(tmp_path / "all").mend)
    shutil.rmtree(tmp_path / "all" / "first")
    (tmp_path / "all" / "empty").mkdir()
    assert "not recognized by any reader" in error_of(tmp_path / "all").what


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "ImageType", "SOPClassUID"])
def test_dicom_without_a_preamble_is_read(tmp_path: Path, dicom: Any, meta: bool, syntax: Any, first: str) -> None:
    series = dicom.make_series(dicom.stored())
    plain = read_scan(dicom.save(tmp_path / "plain", series))[1]
    folder = tmp_path / "bare"
    folder.mkdir()
    for ds in series:
        if first == "SpecificCharacterSet":
            ds.SpecificCharacterSet = "ISO_IR 192"
        if first == "SOPClassUID":
            del ds.ImageType
        ds.preamble = None
        if meta:
            ds.file_meta.TransferSyntaxUID = syntax
        else:
            ds.file_meta = FileMetaDataset()
        dcmwrite(
            folder / f"{ds.InstanceNumber:03d}",
            ds,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=True,
            force_encoding=True,
        )
    for path in folder.iterdir():
        assert path.read_bytes()[128:132] != b"DICM"
        assert is_dicom(path)
    bare = read_scan(folder)[1]
    assert torch.equal(bare.data, plain.data)
    assert bare.geometry == plain.geometry
    path = folder / "003"
    path.write_bytes(path.read_bytes()[:-10])
    assert "truncated" in error_of(folder).what
    path.write_bytes(path.read_bytes()[:300])
    assert error_of(folder).where == "003"


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x00", b"\x08\x00\x05\x00", b"\x08\x00\x05\x00\xff\xff\xff\xff" + bytes(8), b"text " * 9]
)
def test_what_only_looks_like_it_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")


def many(folder: Path, dicom: Any, names: str) -> list[Path]:
    """A hundred slices by names with numbers."""
    series = dicom.make_series(dicom.stored((4, 5, 100)))
    folder.mkdir()
    for k, ds in enumerate(series):
        ds.save_as(folder / names.format(k + 1), enforce_file_format=True)
    return [folder / names.format(k + 1) for k in range(100)]


@pytest.mark.parametrize("names", ["Canary_{:03d}.dcm", "Canary{:03d}", "{:02d}"])
def test_which_of_a_hundred_files_is_broken(tmp_path: Path, dicom: Any, names: str) -> None:
    paths = many(tmp_path / "mr", dicom, names)
    place = sorted(path.name for path in paths).index(paths[36].name) + 1
    content = paths[36].read_bytes()
    ds = dcmread(paths[36])
    for what, broken in (("truncated", content[:-9]), ("", content[:500])):
        paths[36].write_bytes(broken)
        error = error_of(tmp_path / "mr", "case-1")
        assert what in error.what
        assert f"file {place}" in str(error.where)
        assert "anary" not in str(error)
        assert error_of(tmp_path / "mr").where == paths[36].name
    ds.Columns, ds.Rows = 5, 4
    ds.save_as(paths[36])
    error = error_of(tmp_path / "mr", "case-1")
    assert f"file {place} of 100" in str(error.got)


def lossless(bits: int, predictor: int) -> bytes:
    """The header of a lossless JPEG image of 8 x 8 pixels (ITU-T T.81), with a comment, and some bytes."""
    comment = b"\xff\xfe" + (7).to_bytes(2, "big") + b"\xff\xda\x06\x06\x06"
    frame = b"\xff\xc3" + (11).to_bytes(2, "big") + bytes([bits, 0, 8, 0, 8, 1, 1, 0x11, 0])
    tables = b"\xff\xc4" + (20).to_bytes(2, "big") + bytes([0, 1] + [0] * 15 + [0])
    scan = b"\xff\xda" + (8).to_bytes(2, "big") + bytes([1, 1, 0, predictor, 0, 0])
    return b"\xff\xd8" + comment + frame + tables + scan + bytes(16) + b"\xff\xd9"


@pytest.mark.parametrize("syntax", ["57", "70"])
def test_lossless_jpeg_of_16_bits_by_predictor_6_is_refused(
    tmp_path: Path, dicom: Any, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "monai_diffrecon.io.dicom.series_reader.read_pixels", lambda *_: np.zeros((8, 8), dtype=np.uint16)
    )
    for bits, predictor in ((16, 6), (16, 1), (16, 7), (12, 6)):
        series = dicom.make_series(dicom.stored((8, 8, 3)))
        for ds in series:
            ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
            ds.PixelData = encapsulate([lossless(bits, predictor)])
            ds["PixelData"].VR = "OB"
        folder = dicom.save(tmp_path / f"{bits}-{predictor}", series)
        if (bits, predictor) == (16, 6):
            assert "predictor 6" in error_of(folder).what
        else:
            assert DicomSeriesReader().read(folder).data.shape == (1, 8, 8, 3)
