# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Files that declare what they do not hold, point elsewhere, or never end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from diffrecon_mri.simulate import write_fastmri, write_ismrmrd
from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.hdf5_heaps import check_heaps

VOLUME = torch.ones(16, 14, 3, dtype=torch.complex64)


def replace(file: h5py.File, name: str, make: Callable[[h5py.File], object]) -> None:
    del file[name]
    make(file)


def header(file: h5py.File, old: str, new: str) -> None:
    text = file["dataset/xml"][0].decode()
    assert re.search(old, text)
    file["dataset/xml"][0] = re.sub(old, new, text, count=1)


def acquisitions(file: h5py.File, field: str, value: float) -> None:
    table = file["dataset/data"][:]
    table["head"][field] = value
    file["dataset/data"][:] = table


def same_list_a_million_times(file: h5py.File) -> None:
    """Rows that all point to one list: 3000 of them hold 100 times the file."""
    row = file["dataset/data"][:1]
    kind = file["dataset/data"].dtype
    del file["dataset/data"]
    table = file.create_dataset("dataset/data", shape=(3000,), dtype=kind, chunks=(3000,), compression="gzip")
    row["data"][0] = np.zeros(200_000, np.float32)
    table[:1] = row
    raw = np.frombuffer(zlib_inflated(table), dtype=np.uint8).reshape(3000, -1).copy()
    raw[:] = raw[0]
    table.id.write_direct_chunk((0,), zlib_deflated(raw))


def zlib_inflated(table: h5py.Dataset) -> bytes:
    import zlib

    table.file.flush()
    return zlib.decompress(table.id.read_direct_chunk((0,))[1])


def zlib_deflated(raw: np.ndarray) -> bytes:
    import zlib

    return zlib.compress(raw.tobytes())


HUGE = {"shape": (10**4,) * 3, "dtype": "c8", "chunks": (1, 1000, 1000), "compression": "gzip"}
FAULTS: dict[str, tuple[Callable[[h5py.File], object], dict[str, Any]]] = {
    "a table of 8 TB": (
        lambda f: replace(f, "dataset/data", lambda g: g.create_dataset("dataset/data", **HUGE)),
        {"where": "scan.h5#dataset/data", "got": "8000000000000 bytes"},
    ),
    "lists that share their bytes": (
        same_list_a_million_times,
        {"where": "scan.h5#dataset/data", "what": "declares more data than the file contains"},
    ),
    "a soft link": (
        lambda f: replace(f, "dataset/xml", lambda g: g.__setitem__("dataset/xml", h5py.SoftLink("/x"))),
        {"where": "scan.h5#dataset/xml"},
    ),
    "a group instead of a table": (
        lambda f: replace(f, "dataset/data", lambda g: g.create_group("dataset/data")),
        {"where": "scan.h5#dataset/data"},
    ),
    "10^9 lines": (
        lambda f: header(f, r"<y>14</y>", "<y>1000000000</y>"),
        {"where": "scan.h5", "got": "[32, 1000000000, 1] samples, [32.0, 14.0, 1.0] mm"},
    ),
    "far more lines than were measured": (
        lambda f: header(f, r"<y>14</y>", "<y>60000</y>"),
        {"where": "scan.h5", "got": 5760000},
    ),
    "a field of view without end": (
        lambda f: header(f, r"<x>32\.0</x>", "<x>1e308</x>"),
        {"where": "scan.h5", "got": "[32, 14, 1] samples, [1e+308, 14.0, 1.0] mm"},
    ),
    "a number of 400 digits": (
        lambda f: header(f, r"<y>14</y>", f"<y>{'9' * 400}</y>"),
        {"where": "scan.h5", "what": "matrixSize.y in the XML header is no number"},
    ),
    "a direction that is NaN": (
        lambda f: acquisitions(f, "read_dir", np.nan),
        {"where": "scan.h5", "what": "read_dir of an acquisition is no number of a scan"},
    ),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_hostile_ismrmrd_file_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, VOLUME)
    damage, fields = FAULTS[name]
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(InputError) as caught:
        registry.create("readers", "ismrmrd").read(path)
    assert {name: getattr(caught.value, name) for name in fields} == fields


def test_fastmri_that_lies_in_another_file_is_neither_recognised_nor_read(tmp_path: Path) -> None:
    reader = registry.create("readers", "fastmri")
    write_fastmri(tmp_path / "other.h5", VOLUME)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/kspace")
    assert reader.recognises(tmp_path / "other.h5")
    assert not reader.recognises(tmp_path / "scan.h5")
    with pytest.raises(InputError) as caught:
        reader.read(tmp_path / "scan.h5")
    assert caught.value.where == "scan.h5#kspace"


def test_fastmri_samples_beyond_all_receivers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_fastmri(path, VOLUME)
    with h5py.File(path, "a") as file:
        file["kspace"][...] = 3e38
    with pytest.raises(InputError) as caught:
        registry.create("readers", "fastmri").read(path)
    assert (caught.value.where, caught.value.expected) == ("scan.h5", "numbers below 1e+15")


def test_a_heap_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, VOLUME)
    check_heaps(path)
    content = bytearray(path.read_bytes())
    # The first object of the first heap becomes the free space, of no size.
    at = content.index(b"GCOL\x01") + 16
    content[at : at + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        registry.create("readers", "ismrmrd").read(path)
    assert (caught.value.where, caught.value.what) == ("scan.h5", "a damaged heap")
