# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.engine.cases.list_cases import list_cases
from monai_diffrecon.errors import ConfigError, InputError, PluginError
from monai_diffrecon.io import find_reader as module
from monai_diffrecon.io.find_reader import find_reader, read_scan
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.file_reader import MeasurementFileReader
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.io.nifti_reader import NIfTIReader
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement, MeasurementReader

GEOMETRY = geometry_of((4, 5, 6))


class Greedy(NIfTIReader):
    """Takes folders with a file ``marker``, and every NIfTI file."""

    def recognises(self, path: Path) -> bool:
        return (path / "marker").exists() or super().recognises(path)


class Broken(MeasurementReader):
    """Breaks the contract."""

    def recognises(self, path: Path) -> bool:
        raise RuntimeError("no")

    def read(self, path: Path) -> Measurement:
        raise RuntimeError("no")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe_John"
    folder.mkdir()
    write_volume(folder / "volume.nii.gz", torch.rand(1, 4, 5, 6), GEOMETRY)
    data = Measurement(torch.rand(3, 10, 6), GEOMETRY, {"name": "parallel_ct", "views": 3}, unit="HU")
    write_measurement(folder / "scan.h5", data)
    (folder / "notes.txt").write_text("notes")
    return folder


def use(monkeypatch: pytest.MonkeyPatch, **readers: MeasurementReader) -> None:
    monkeypatch.setattr(module, "readers_of", lambda spec: readers)


def test_every_kind_finds_its_reader(scans: Path) -> None:
    assert isinstance(find_reader(scans / "volume.nii.gz"), NIfTIReader)
    assert isinstance(find_reader(str(scans / "scan.h5")), MeasurementFileReader)
    name, image = read_scan(scans / "volume.nii.gz")
    assert name == "nifti"
    assert (image.operator, image.unit) == (None, "arbitrary")
    assert image.source_sha256 == sha256_file(scans / "volume.nii.gz")
    assert image.data.shape == (1, 4, 5, 6)
    name, measured = read_scan(scans / "scan.h5")
    assert name == "measurement_file"
    assert measured.operator == {"name": "parallel_ct", "views": 3}


@pytest.mark.parametrize("spec", ["nifti", {"name": "nifti"}, "monai-diffrecon:nifti", NIfTIReader()])
def test_a_named_reader_is_not_asked(scans: Path, spec: Any) -> None:
    assert isinstance(find_reader(scans / "notes.txt", spec), NIfTIReader)
    with pytest.raises(InputError) as caught:
        read_scan(scans / "notes.txt", spec)
    assert (caught.value.where, caught.value.got) == ("notes.txt", ".txt")


def test_what_no_reader_recognises(scans: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_reader(scans / "notes.txt")
    text = str(caught.value)
    assert text.startswith("notes.txt: not recognized by any reader; expected a scan for ")
    assert "dicom, dicom_ct_pd, dxchange, " in text
    assert "--reader NAME" in text
    assert "Doe" not in text
    with pytest.raises(InputError) as caught:
        find_reader(scans / "none.nii")
    assert caught.value.where == "none.nii"


def test_the_package_that_reads_it_is_named(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, nifti=NIfTIReader())
    with pytest.raises(InputError) as caught:
        find_reader(scans / "notes.txt")
    assert (caught.value.where, caught.value.expected) == ("notes.txt", "a scan for nifti")
    assert "fastmri: diffrecon-mri, ismrmrd: diffrecon-mri" in (caught.value.mend or "")
    use(monkeypatch)
    with pytest.raises(InputError) as caught:
        find_reader(scans / "notes.txt")
    assert (caught.value.where, caught.value.expected) == ("notes.txt", "a scan for a reader, but none is installed")


def test_what_two_readers_recognise(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, greedy=Greedy(), nifti=NIfTIReader())
    with pytest.raises(InputError) as caught:
        find_reader(scans / "volume.nii.gz")
    assert caught.value.where == "volume.nii.gz"
    assert "greedy, nifti" in caught.value.what
    assert "--reader " in (caught.value.mend or "")


def test_a_broken_reader_stops_nothing(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, broken=Broken(), nifti=NIfTIReader())
    assert isinstance(find_reader(scans / "volume.nii.gz"), NIfTIReader)


def test_a_reader_that_is_none(scans: Path) -> None:
    with pytest.raises(PluginError) as caught:
        find_reader(scans / "scan.h5", "nifty")
    assert caught.value.where == "reader"
    assert "'nifti'" in (caught.value.mend or "")
    with pytest.raises(ConfigError) as caught:
        find_reader(scans / "scan.h5", {"name": "nifti", "x": 1})
    assert (caught.value.where, caught.value.expected) == ("reader#x", "one of volume, series")


def test_cases_of_every_kind(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = scans / "series"
    series.mkdir()
    (series / "marker").touch()
    readers = {"greedy": Greedy(), "measurement_file": MeasurementFileReader()}
    monkeypatch.setattr("monai_diffrecon.engine.cases.list_cases.readers_of", lambda spec: readers)
    options = {"output_dir": str(tmp_path / "out")}
    cases = list_cases(dataset_dir=str(scans), **options)
    assert [Path(c["image"]).name for c in cases] == ["scan.h5", "series", "volume.nii.gz"]
    assert list_cases(image=str(series), case_name="a", **options) == [{"image": str(series), "case": "a"}]
    # A folder that is a scan itself: what its own reader recognises in it are parts of it.
    (scans / "marker").touch()
    cases = list_cases(dataset_dir=str(scans), **options)
    assert [Path(c["image"]).name for c in cases] == ["Doe_John", "scan.h5", "series"]


def test_a_named_reader_picks_its_cases(scans: Path, tmp_path: Path) -> None:
    cases = list_cases(dataset_dir=str(scans), output_dir=str(tmp_path / "out"), reader="measurement_file")
    assert [Path(c["image"]).name for c in cases] == ["scan.h5"]


def test_all_readers_are_asked_by_name() -> None:
    installed = {info.name for info in registry.available("readers")}
    assert {"nifti", "measurement_file"} <= set(module.readers_of()) <= installed
