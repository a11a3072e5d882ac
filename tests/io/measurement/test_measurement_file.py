# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from monai_diffrecon import __version__
from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError
from monai_diffrecon.io.measurement.file import read_measurement, write_measurement
from monai_diffrecon.io.measurement.file_reader import MeasurementFileReader
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.protocols import Measurement

AFFINE = np.array([[0, -2.0, 0, 1], [1, 0, 0, 2], [0, 0, 3.5, 3], [0, 0, 0, 1]])
GEOMETRY = geometry_of((4, 5, 6), AFFINE, (0.0, 0.0, 0.5))


def measurement(**changes: Any) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    made = Measurement(
        data=torch.randn((2, 4, 5, 6), generator=generator, dtype=torch.complex64),
        geometry=GEOMETRY,
        operator={
            "name": "cartesian_mri",
            "mask": torch.rand((4, 5), generator=generator) > 0.5,
            "coil_maps": torch.randn((2, 4, 5, 6), generator=generator, dtype=torch.complex64),
            "center_fraction": 0.1,
            "complex_volume": True,
            "unused": None,
        },
        noise_std=0.25,
        weights=torch.rand((2, 4, 5, 6), generator=generator),
        unit="arbitrary",
        source_sha256="ab" * 32,
        header={"Modality": "MR", "BodyPartExamined": "GEHIRN \u00e4"},
    )
    return replace(made, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_measurement(tmp_path / "scan.h5", measurement())
    return tmp_path / "scan.h5"


def test_what_is_written_is_read(path: Path) -> None:
    got, given = read_measurement(path), measurement()
    for field in ("noise_std", "unit", "source_sha256", "header"):
        assert getattr(got, field) == getattr(given, field)
    assert (got.geometry.shape, got.geometry.gaps) == ((4, 5, 6), (0.0, 0.0, 0.5))
    np.testing.assert_array_equal(affine_of(got.geometry), AFFINE)
    assert torch.equal(got.data, given.data)
    assert got.weights is not None
    assert given.weights is not None
    assert torch.equal(got.weights, given.weights)
    assert got.operator is not None
    assert given.operator is not None
    assert got.operator.keys() == given.operator.keys()
    for key, value in given.operator.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got.operator[key], value)
            assert got.operator[key].dtype == value.dtype
        else:
            assert got.operator[key] == value
    assert [p.name for p in path.parent.iterdir()] == ["scan.h5"]


def test_the_layout_is_what_the_documents_say(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"monai_diffrecon measurement"
        assert file.attrs["schema_version"] == 1
        assert file.attrs["software"] == f"monai_diffrecon {__version__}".encode()
        data = file["data"][()]
        assert file["data"].attrs["sha256"] == hashlib.sha256(data.tobytes()).hexdigest().encode()
        assert b'"coil_maps": {"$array": "coil_maps"}' in bytes(file["operator"].attrs["spec"])
        assert sorted(file["operator"]) == ["coil_maps", "mask"]
        assert sorted(file["geometry"].attrs) == ["affine", "gaps", "shape", "spacing"]


def test_little_is_needed(tmp_path: Path) -> None:
    image = Measurement(torch.ones(1, 4, 5, 6), geometry_of((4, 5, 6)))
    write_measurement(tmp_path / "image.h5", image)
    got = read_measurement(tmp_path / "image.h5")
    assert (got.operator, got.weights, got.source_sha256, got.header) == (None, None, None, None)
    assert torch.equal(got.data, image.data)


def test_it_is_known_by_its_first_bytes(path: Path, tmp_path: Path) -> None:
    reader = MeasurementFileReader()
    assert reader.recognises(path)
    (tmp_path / "truncated.h5").write_bytes(path.read_bytes()[:2000])
    assert reader.recognises(tmp_path / "truncated.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    for other in ("other.h5", "none.h5", "."):
        assert not reader.recognises(tmp_path / other)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {"data": torch.full((2, 4, 5, 6), complex("nan"), dtype=torch.complex64)},
            {"where": "bad.h5#data", "got": None},
        ),
        ({"data": torch.zeros(3, dtype=torch.float64)}, {"where": "bad.h5#data", "got": torch.float64}),
        ({"operator": None}, {"where": "bad.h5#data", "got": (2, 4, 5, 6)}),
        ({"operator": {"views": 3}}, {"where": "bad.h5#operator", "expected": '{"name": ..., options}'}),
        ({"operator": {"name": "x", "a b": 3}}, {"where": "bad.h5#operator", "got": "a b"}),
        ({"operator": {"name": "x", "a": {1, 2}}}, {"where": "bad.h5#operator", "what": "cannot be written as JSON"}),
        (
            {"operator": {"name": "x", "a": float("nan")}},
            {"where": "bad.h5#operator", "what": "cannot be written as JSON"},
        ),
        ({"operator": {"name": "x", "a": [0.1] * 20000}}, {"where": "bad.h5#operator", "got": 100020}),
        (
            {"operator": {"name": "x", "a": torch.zeros(2, dtype=torch.float16)}},
            {"where": "bad.h5#operator/a", "got": torch.float16},
        ),
        ({"weights": torch.ones(3)}, {"where": "bad.h5#weights", "got": (3,)}),
        ({"weights": torch.full((2, 4, 5, 6), float("inf"))}, {"where": "bad.h5#weights", "expected": None}),
        (
            {"weights": torch.zeros(2, 4, 5, 6)},
            {"where": "bad.h5#weights", "expected": "numbers of 0 or more, not all of them 0"},
        ),
        (
            {"weights": -torch.ones(2, 4, 5, 6)},
            {"where": "bad.h5#weights", "expected": "numbers of 0 or more, not all of them 0"},
        ),
        ({"noise_std": -1.0}, {"where": "bad.h5@noise_std", "got": -1.0}),
        ({"unit": "hounsfield"}, {"where": "bad.h5@unit", "got": "'hounsfield'"}),
        ({"source_sha256": "abc"}, {"where": "bad.h5@source_sha256", "expected": "64 hexadecimal digits"}),
        ({"geometry": geometry_of((0, 4, 5))}, {"where": "bad.h5#geometry@shape", "got": (0, 4, 5)}),
    ],
)
def test_what_is_no_measurement_is_not_written(tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        write_measurement(tmp_path / "bad.h5", measurement(**changes))
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert list(tmp_path.iterdir()) == []


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    """Replace a dataset, with its right hash."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value
        little = np.ascontiguousarray(file[name][()])
        file[name].attrs["sha256"] = np.bytes_(hashlib.sha256(little.tobytes()).hexdigest())

    return change


def say(owner: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    """Replace an attribute."""

    def change(file: h5py.File) -> None:
        del file[owner].attrs[name]
        if value is not None:
            file[owner].attrs[name] = np.bytes_(value) if isinstance(value, str) else value

    return change


def link(to: Any) -> Callable[[h5py.File], None]:
    """Replace the data by a link."""

    def change(file: h5py.File) -> None:
        file.move("data", "elsewhere")
        file["data"] = to

    return change


def without(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def huge(chunks: tuple[int, ...] | None, **options: Any) -> Callable[[h5py.File], None]:
    """Declare data that take no room in the file."""

    def change(file: h5py.File) -> None:
        del file["data"]
        file.create_dataset("data", shape=(1 << 14, 1 << 14, 1 << 10), dtype="f4", chunks=chunks, **options)
        if chunks:
            file["data"][0, 0, :8] = 1.0

    return change


def elsewhere(file: h5py.File) -> None:
    del file["data"]
    file.create_dataset("data", (4,), dtype="f4", external=[("/etc/hostname", 0, 16)])


def virtual(file: h5py.File) -> None:
    del file["data"]
    layout = h5py.VirtualLayout((4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "data", (4,))
    file.create_virtual_dataset("data", layout)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (without("data"), {"where": "scan.h5#data", "what": "a missing key"}),
        (without("geometry"), {"where": "scan.h5#geometry"}),
        (without("operator/mask"), {"where": "scan.h5#operator/mask", "expected": "the array of the option 'mask'"}),
        (say("/", "unit", None), {"where": "scan.h5@unit"}),
        (say("geometry", "affine", None), {"where": "scan.h5#geometry@affine"}),
        (say("operator", "spec", None), {"where": "scan.h5#operator@spec"}),
        (
            say("/", "format", "something else"),
            {"where": "scan.h5", "expected": "the attribute format = 'monai_diffrecon measurement'"},
        ),
        (say("/", "schema_version", 2), {"where": "scan.h5@schema_version", "got": "2"}),
        (say("/", "schema_version", 0), {"where": "scan.h5@schema_version", "got": "0"}),
        (say("/", "unit", "K"), {"where": "scan.h5@unit", "got": "'K'"}),
        (say("/", "unit", 7), {"where": "scan.h5@unit", "got": "array(7)"}),
        (say("/", "noise_std", "much"), {"where": "scan.h5@noise_std", "expected": "a number"}),
        (say("/", "noise_std", np.nan), {"where": "scan.h5@noise_std", "expected": "0 or more"}),
        (say("/", "header", "[1]"), {"where": "scan.h5@header", "expected": "a JSON object"}),
        (say("geometry", "shape", [4, 5]), {"where": "scan.h5#geometry@shape", "expected": "(3,) numbers below 1e+09"}),
        (say("geometry", "shape", [1 << 15] * 3), {"where": "scan.h5#geometry@shape", "got": 35184372088832}),
        (say("geometry", "spacing", [1.0, 1.0, 1.0]), {"where": "scan.h5#geometry@spacing", "got": [1.0, 1.0, 1.0]}),
        (
            say("geometry", "affine", np.full((4, 4), np.nan)),
            {"where": "scan.h5#geometry@affine", "expected": "(4, 4) numbers below 1e+09"},
        ),
        (say("geometry", "affine", np.zeros((4, 4))), {"where": "scan.h5#geometry@spacing", "got": [1.0, 2.0, 3.5]}),
        (say("operator", "spec", "{"), {"where": "scan.h5#operator@spec", "what": "not JSON"}),
        (say("operator", "spec", "[" * 30000), {"where": "scan.h5#operator@spec", "what": "not JSON"}),
        (
            say("operator", "spec", '{"name": "x", "a": NaN}'),
            {"where": "scan.h5#operator@spec", "got": "the number NaN"},
        ),
        (
            say("operator", "spec", '{"name": "x", "a": {"$array": "../data"}}'),
            {"where": "scan.h5#operator@spec#a", "got": "'../data'"},
        ),
        (
            say("operator", "spec", '{"name": "x", "a": {"$array": "b"}}'),
            {"where": "scan.h5#operator/b", "expected": "the array of the option 'a'"},
        ),
        (
            put("data", np.full((2, 4, 5, 6), np.nan, dtype=np.complex64)),
            {"where": "scan.h5#data", "what": "entries that are not finite"},
        ),
        (put("data", np.zeros((2, 4, 5, 6), dtype=np.float64)), {"where": "scan.h5#data", "got": "float64"}),
        (put("data", np.bytes_(b"text")), {"where": "scan.h5#data", "got": "|S4"}),
        (put("operator/mask", np.array([b"text"], dtype=object)), {"where": "scan.h5#operator/mask", "got": "object"}),
        (put("weights", np.ones(3, dtype=np.float32)), {"where": "scan.h5#weights", "got": (3,)}),
        (
            put("weights", np.full((2, 4, 5, 6), -1, dtype=np.float32)),
            {"where": "scan.h5#weights", "expected": "numbers of 0 or more, not all of them 0"},
        ),
        (link(h5py.SoftLink("/elsewhere")), {"where": "scan.h5#data", "got": "SoftLink"}),
        (link(h5py.ExternalLink("/etc/other.h5", "/data")), {"where": "scan.h5#data", "got": "ExternalLink"}),
        (elsewhere, {"where": "scan.h5#data", "what": "its data are in other files, which are not read"}),
        (virtual, {"where": "scan.h5#data", "what": "its data are in other files, which are not read"}),
        (huge(None), {"where": "scan.h5#data", "got": "1099511627776 bytes"}),
        (huge((1, 1, 8), compression="gzip"), {"where": "scan.h5#data", "got": "1099511627776 bytes"}),
        (huge((64, 64, 1 << 10), compression="gzip"), {"where": "scan.h5#data", "got": "1099511627776 bytes"}),
    ],
)
def test_bad_files_are_refused(path: Path, change: Callable[[h5py.File], None], fields: dict[str, Any]) -> None:
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(InputError) as caught:
        read_measurement(path)
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert "\n" not in str(caught.value)
    assert str(path.parent) not in str(caught.value)


def test_text_of_a_variable_length_is_refused(path: Path) -> None:
    """It points into a heap, and a damaged pointer ends the process."""
    with h5py.File(path, "a") as file:
        file.attrs["unit"] = "HU"
    with pytest.raises(InputError) as caught:
        read_measurement(path)
    assert (caught.value.where, caught.value.expected) == ("scan.h5@unit", "numbers, or fixed-length text")


@pytest.mark.parametrize("name", ["data", "weights", "operator/mask", "operator/coil_maps"])
def test_changed_numbers_are_found(path: Path, name: str) -> None:
    with h5py.File(path, "a") as file:
        array = file[name][()]
        array.reshape(-1)[3] = ~array.reshape(-1)[3] if array.dtype == bool else 2 * array.reshape(-1)[3]
        file[name][...] = array
    with pytest.raises(IntegrityError) as caught:
        read_measurement(path)
    assert caught.value.where == f"scan.h5#{name}"
    assert str(caught.value.expected).startswith("sha256 ")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "options", [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"chunks": True}]
)
def test_compressed_and_big_endian_arrays_are_read(path: Path, options: dict[str, Any]) -> None:
    expected = read_measurement(path)
    with h5py.File(path, "a") as file:
        array, digest = file["weights"][()], file["weights"].attrs["sha256"]
        del file["weights"]
        file.create_dataset("weights", data=array.astype(">f4"), **options).attrs["sha256"] = digest
    got = read_measurement(path)
    assert got.weights is not None
    assert expected.weights is not None
    assert torch.equal(got.weights, expected.weights)


def test_damage_ends_in_one_line(path: Path, tmp_path: Path) -> None:
    """A file cut anywhere, and one with any byte changed, is refused or, where no one reads that byte, read."""
    whole, other = path.read_bytes(), tmp_path / "other.h5"
    for length in range(0, len(whole), 997):
        other.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            read_measurement(other)
        assert caught.value.where == "other.h5"
    used = [i for i, byte in enumerate(whole) if byte]
    generator = np.random.default_rng(0)
    refusals = []
    for position in generator.choice(used, 150, replace=False):
        changed = bytearray(whole)
        changed[position] ^= int(generator.integers(1, 256))
        other.write_bytes(changed)
        try:
            read_measurement(other)
        except DiffReconError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert not any("\n" in text for text in refusals)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.h5").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_measurement(tmp_path / "other.h5")
    assert caught.value.where == "other.h5"
    with pytest.raises(InputError) as caught:
        read_measurement(tmp_path / "none.h5")
    assert caught.value.where == "none.h5"


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_measurement(tmp_path / "scan.h5", measurement())
    before = (tmp_path / "scan.h5").read_bytes()

    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        write_measurement(tmp_path / "scan.h5", measurement(noise_std=1.0))
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]
    assert (tmp_path / "scan.h5").read_bytes() == before


def test_the_example_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "docs/measurement_files.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "measurement_files.md", "exec"), {})
    assert MeasurementFileReader().recognises(tmp_path / "scan.h5")


def test_the_documents_name_every_part(path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/measurement_files.md").read_text(encoding="utf-8")
    with h5py.File(path) as file:
        parts = [f"@{name}" for name in file.attrs] + [f"geometry@{name}" for name in file["geometry"].attrs]
        parts += [name for name in file if isinstance(file[name], h5py.Dataset)]
    assert [part for part in parts if f"`{part}`" not in text] == []
