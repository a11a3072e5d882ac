# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The scanner of the canary tests finds what is planted, in every container it opens: one that finds nothing proves
nothing."""

from __future__ import annotations

import base64
import gzip
import json
import runpy
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SCANNER = runpy.run_path(str(Path(__file__).with_name("canary.py")))
canaries_in, canaries_in_text = SCANNER["canaries_in"], SCANNER["canaries_in_text"]
#: Has what must be escaped somewhere.
WORD = "Jäger_Canary 19700101"


def _text(path: Path, word: str, encode: Callable[[str], bytes]) -> None:
    path.write_bytes(b"before, " + encode(word) + b", after\n")


def _nifti(path: Path, word: str) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.int16), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"x {word} y".encode()))
    nib.save(image, path)


def _png(path: Path, word: str, packed: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", f"x {word} y", zip=packed)
    Image.new("L", (3, 3)).save(path, pnginfo=info)


def _sqlite(path: Path, word: str) -> None:
    database = sqlite3.connect(path)
    database.execute("create table t (a text)")
    database.execute("insert into t values (?)", (f"x {word} y",))
    database.commit()
    database.close()


def _dicom(path: Path, word: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds, inner = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128), Dataset()
    ds.SpecificCharacterSet = inner.SpecificCharacterSet = "ISO_IR 192"
    inner.private_block(0x0029, "VENDOR", create=True).add_new(1, "LT", f"x {word} y")
    ds.ReferencedImageSequence = [inner]
    ds.save_as(path, enforce_file_format=True)


def _hdf5(path: Path, word: str, where: str) -> None:
    with h5py.File(path, "w") as file:
        if where == "attribute":
            file.create_group("a/b").attrs["source"] = f"x {word} y"
        elif where == "data":
            data = np.frombuffer(f"x {word} y".encode() * 50, dtype=np.uint8)
            file.create_dataset("a", data=data, compression="gzip")
        else:
            file.create_dataset(f"a/{word}", data=3)


def _zip(path: Path, word: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.json", json.dumps({"a": [{"b": f"x {word} y"}]}))


PLANTED: dict[str, Callable[[Path, str], Any]] = {
    "utf8.txt": lambda p, w: _text(p, w, str.encode),
    "upper.txt": lambda p, w: _text(p, w.replace("ä", "a").upper(), str.encode),
    "utf16.txt": lambda p, w: _text(p, w, lambda s: s.encode("utf-16-le")),
    "utf16be.bin": lambda p, w: _text(p, w, lambda s: s.encode("utf-16-be")),
    "latin1.txt": lambda p, w: _text(p, w, lambda s: s.encode("latin-1")),
    "percent.txt": lambda p, w: _text(p, w, lambda s: quote(s).encode()),
    "everything_percent.txt": lambda p, w: _text(p, w, lambda s: "".join(f"%{b:02x}" for b in s.encode()).encode()),
    "escaped.json": lambda p, w: p.write_text(json.dumps({"a": {w: 1}})),
    "base64_0.html": lambda p, w: _text(p, w, lambda s: base64.b64encode(s.encode())),
    "base64_1.html": lambda p, w: _text(p, w, lambda s: base64.b64encode(b"1" + s.encode() + b"789")),
    "base64_2.html": lambda p, w: _text(p, w, lambda s: base64.b64encode(b"12" + s.encode() + b"78")),
    "picture.html": lambda p, w: p.write_bytes(
        b'<img src="data:application/gzip;base64,' + base64.b64encode(gzip.compress(w.encode())) + b'">'
    ),
    "scan.nii": _nifti,
    "scan.nii.gz": _nifti,
    "twice.gz": lambda p, w: p.write_bytes(gzip.compress(gzip.compress(w.encode()))),
    "behind.gz": lambda p, w: p.write_bytes(gzip.compress(b"nothing") + w.encode()),
    "named.gz": lambda p, w: p.write_bytes(b"\x1f\x8b\x08\x08" + b"\0" * 6 + w.encode("latin-1") + b"\0\3" + b"\0" * 9),
    "archive.zip": _zip,
    "weights.pt": lambda p, w: torch.save({"note": f"x {w} y", "t": torch.zeros(3)}, p),
    "text.png": lambda p, w: _png(p, w, packed=False),
    "packed.png": lambda p, w: _png(p, w, packed=True),
    "mlflow.db": _sqlite,
    "slice.dcm": _dicom,
    "attribute.h5": lambda p, w: _hdf5(p, w, "attribute"),
    "data.h5": lambda p, w: _hdf5(p, w, "data"),
    "member.h5": lambda p, w: _hdf5(p, w, "member"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_canary_is_found(name: str, tmp_path: Path) -> None:
    word = "Jager_Canary 19700101" if name == "upper.txt" else WORD
    PLANTED[name](tmp_path / name, word)
    assert canaries_in([tmp_path], [word]), name
    assert canaries_in([tmp_path / name], [word]), name
    assert canaries_in([tmp_path], ["Jordan_Canary"]) == []


def test_names_of_files_and_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "doe_canary_1").mkdir(parents=True)
    assert canaries_in([tmp_path], ["Doe_Canary"]) == ["name of a/doe_canary_1: Doe_Canary"]


def test_what_is_not_there_is_not_clean(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing to look at"):
        canaries_in([tmp_path / "gone"], ["Doe_Canary"])


def test_a_text_is_read_line_by_line() -> None:
    assert canaries_in_text("one\ntwo DOE_canary\nthree", ["Doe_Canary"]) == ["Doe_Canary in two DOE_canary"]
