# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.dicom.attributes import quantized
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.dicom.template import is_uid
from monai_diffrecon.io.dicom.writer import series_sha256, write_series
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.protocols import VolumeGeometry

SHAPE = (7, 6, 4)


def volume(scale: float = 400.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))


def oblique(dicom: Any, spacing: tuple[float, float, float] = (0.9, 1.1, 1.25)) -> VolumeGeometry:
    affine = np.eye(4)
    affine[:3, :3] = dicom.OBLIQUE * spacing
    affine[:3, 3] = -12.3456789, 45.678901, -78.9012345
    return geometry_of(SHAPE, affine)


@pytest.fixture
def written(tmp_path: Path, dicom: Any) -> Path:
    """What is made of an MR series with a patient in it."""
    source = dicom.save(tmp_path / "source", dicom.make_series(dicom.stored(), PixelSpacing=[1.0, 1.0]))
    measured = DicomSeriesReader().read(source)
    write_series(tmp_path / "out", volume(), oblique(dicom), case="case-1", template=measured.header)
    return tmp_path / "out"


def test_round_trip(written: Path, dicom: Any) -> None:
    again = DicomSeriesReader().read(written)
    assert again.geometry.shape == SHAPE
    np.testing.assert_allclose(affine_of(again.geometry), affine_of(oblique(dicom)), atol=1e-6)
    assert again.geometry.gaps == (0.0, 0.0, 0.0)
    step = float(volume().max()) / 65535
    assert 0 < float((again.data - volume()).abs().max()) <= 0.501 * step
    assert sorted(p.name for p in written.iterdir()) == ["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]
    assert not [p for p in written.parent.iterdir() if p.name.startswith(".")]


def test_every_pixel_lies_where_its_voxel_lay(written: Path, dicom: Any) -> None:
    """By the standard's equation C.7.6.2.1-1 alone, from the attributes of the files."""
    affine = affine_of(oblique(dicom))
    for k in range(SHAPE[2]):
        ds = dcmread(written / f"{k + 1:04d}.dcm")
        cosines = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert (ds.Rows, ds.Columns, int(ds.InstanceNumber)) == (SHAPE[1], SHAPE[0], k + 1)
        for row, column in [(0, 0), (5, 0), (0, 6), (2, 3)]:
            place = np.array(ds.ImagePositionPatient, dtype=float)
            place += cosines[0] * float(ds.PixelSpacing[1]) * column + cosines[1] * float(ds.PixelSpacing[0]) * row
            at = np.linalg.solve(affine, [-place[0], -place[1], place[2], 1.0])[:3]
            np.testing.assert_allclose(at, (SHAPE[0] - 1 - column, SHAPE[1] - 1 - row, k), atol=1e-5)
            x, y, z = np.round(at).astype(int)
            assert values[row, column] == pytest.approx(float(volume()[0, x, y, z]), abs=0.01)
        assert (float(ds.SliceThickness), float(ds.SpacingBetweenSlices)) == (1.25, 1.25)
        assert cosines[0][0] > 0.8  # as a display expects it: columns to the left, rows to the back
        assert cosines[1][1] > 0.8


def test_it_says_what_it_is(written: Path, dicom: Any) -> None:
    first, second = (dcmread(written / f"000{k}.dcm") for k in (1, 2))
    assert first.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (first.PatientName, first.PatientID, first.PatientIdentityRemoved) == ("case-1", "case-1", "YES")
    assert (first.PatientBirthDate, first.StudyDate, first.StudyTime) == ("", "", "")
    assert first.DerivationDescription.startswith("Reconstructed by monai_diffrecon")
    assert (first.Modality, first.ScanningSequence, list(first.SequenceVariant)) == ("MR", "GR", ["SK", "SP"])
    assert (float(first.EchoTime), first.PatientPosition, first.BurnedInAnnotation) == (3.25, "HFS", "NO")
    same = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    assert all(first[k].value == second[k].value and is_uid(first[k].value) for k in same)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.FrameOfReferenceUID == dicom.FRAME


def test_no_byte_names_the_patient(written: Path, tmp_path: Path, dicom: Any) -> None:
    # The template may also be the source's data set itself.
    source = dcmread(next((tmp_path / "source").iterdir()))
    write_series(tmp_path / "other", volume(), oblique(dicom), case="case-1", template=source)
    secrets = {*dicom.SECRETS.values(), dicom.PRIVATE, dicom.ROOT, "Canaryman", "SECRET VENDOR"}
    assert all(any(s.encode() in p.read_bytes() for p in (tmp_path / "source").iterdir()) for s in secrets)
    files = [p for folder in (written, tmp_path / "other") for p in folder.iterdir()]
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        assert [s for s in secrets if s.encode() in content] == []
        assert not any(tag.is_private for tag in dcmread(path).keys())  # noqa: SIM118 - a data set yields elements


@pytest.mark.parametrize("kind", ["MR", "MR without a template", "CT", "CT out of range"])
def test_dciodvfy_finds_no_error(tmp_path: Path, dicom: Any, kind: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    template, unit = None, "HU" if kind.startswith("CT") else "arbitrary"
    if "without" not in kind:
        series = dicom.make_ct(dicom.stored()) if unit == "HU" else dicom.make_series(dicom.stored())
        template = DicomSeriesReader().read(dicom.save(tmp_path / "source", series)).header
    scale = 1e6 if "range" in kind else 2000.0
    write_series(tmp_path / "out", volume(scale), oblique(dicom), case="case-1", unit=unit, template=template)
    for path in (tmp_path / "out").iterdir():
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60)
        said = (done.stdout + done.stderr).splitlines()
        assert ("CTImage" if unit == "HU" else "MRImage") in said
        assert [line for line in said if line.startswith("Error")] == []


def test_hounsfield_units_are_stored_as_scanners_store_them(tmp_path: Path, dicom: Any) -> None:
    hu = volume(4000.0) - 1500.0
    write_series(tmp_path / "ct", hu, oblique(dicom), case="a", unit="HU")
    ds = dcmread(tmp_path / "ct" / "0001.dcm")
    assert (ds.Modality, ds.RescaleType, list(ds.ImageType)) == ("CT", "HU", ["DERIVED", "SECONDARY", "AXIAL"])
    assert (float(ds.RescaleSlope), float(ds.RescaleIntercept), ds.PixelRepresentation) == (1, -1024, 1)
    again = DicomSeriesReader().read(tmp_path / "ct")
    assert again.unit == "HU"
    assert torch.equal(again.data, hu.double().round().float())


@pytest.mark.parametrize("unit", ["HU", "arbitrary"])
@pytest.mark.parametrize("ends", [(-1e5, 3e5), (0.0, 1e-6), (1e6, 1e6 + 1), (-3.0, -3.0), (100.0, 1000.0), (0.0, 0.0)])
def test_the_error_is_at_most_half_a_step(unit: str, ends: tuple[float, float]) -> None:
    array = np.linspace(*ends, 100_001)
    stored, slope, intercept = quantized(array, unit)
    assert stored.dtype.itemsize == 2
    assert max(len(slope), len(intercept)) <= 16
    back = stored * float(slope) + float(intercept)
    span = max(ends[1] - min(ends[0], 0.0 if unit == "arbitrary" else ends[0]), ends[1] - ends[0])
    limit = 0.5 if float(slope) == 1.0 else 0.5001 * span / 65535
    assert np.abs(back - array).max() <= limit + 1e-9 * abs(ends[1])
    if unit == "arbitrary" and ends == (100.0, 1000.0):
        assert intercept == "0.0"


def test_equal_input_gives_equal_files(tmp_path: Path, dicom: Any) -> None:
    options: dict[str, Any] = {"case": "a", "entropy": "seed"}
    first, again = (write_series(tmp_path / n, volume(), oblique(dicom), **options) for n in "ab")
    assert first == again == series_sha256(tmp_path / "a")
    ds = dcmread(tmp_path / "a" / "0001.dcm")
    changes: list[dict[str, Any]] = [{"entropy": "other"}, {"entropy": None}, {"case": "b"}, {"derivation": "x"}]
    for n, change in enumerate(changes):
        write_series(tmp_path / f"c{n}", volume(), oblique(dicom), **(options | change))
        other = dcmread(tmp_path / f"c{n}" / "0001.dcm")
        assert ds.SeriesInstanceUID != other.SeriesInstanceUID
        assert ds.SOPInstanceUID != other.SOPInstanceUID


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path, dicom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "out", volume(), oblique(dicom), case="a")
    before = series_sha256(tmp_path / "out")
    count = 0

    def fail(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("monai_diffrecon.io.dicom.writer.atomic_write", fail)
        with pytest.raises(KeyboardInterrupt):
            write_series(tmp_path / "out", volume(seed=1), oblique(dicom), case="a")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert series_sha256(tmp_path / "out") == before
    write_series(tmp_path / "out", volume(seed=1)[..., :2], geometry_of((7, 6, 2)), case="a")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_identity_is_kept_when_asked(tmp_path: Path, dicom: Any) -> None:
    source = dicom.make_series(dicom.stored())[0]
    write_series(tmp_path / "out", volume(), oblique(dicom), case="a", template=source, keep_identity=True)
    ds = dcmread(tmp_path / "out" / "0001.dcm")
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate"):
        assert str(ds[keyword].value) == dicom.SECRETS[keyword]
    assert ds.PatientIdentityRemoved == "NO"
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    for template in (None, {"Modality": "MR"}):
        with pytest.raises(ConfigError) as caught:
            write_series(tmp_path / "x", volume(), oblique(dicom), case="a", template=template, keep_identity=True)
        assert caught.value.where == "keep_identity"


def test_a_template_cannot_smuggle_text(tmp_path: Path, dicom: Any) -> None:
    template = {
        "PatientName": "Canaryman",
        "ScanningSequence": "DOE",
        "EchoTime": "Canaryman",
        "Modality": "MR",
        "FlipAngle": "9",
    }
    write_series(tmp_path / "out", volume(), oblique(dicom), case="a", template=template)
    ds = dcmread(tmp_path / "out" / "0001.dcm")
    assert (ds.PatientName, ds.ScanningSequence, ds.EchoTime, float(ds.FlipAngle)) == ("a", "RM", None, 9.0)


def test_what_cannot_be_written(tmp_path: Path, dicom: Any) -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.2
    nan = volume()
    nan[0, 0, 0, 0] = float("nan")
    cases: list[tuple[torch.Tensor, VolumeGeometry, str | None, str | None]] = [
        (volume(), geometry_of(SHAPE, sheared), None, "perpendicular"),
        (nan, oblique(dicom), None, "finite"),
        (volume()[..., 1:], oblique(dicom), "float32 of shape (1, 7, 6, 3)", None),
        (volume().to(torch.complex64), oblique(dicom), "complex64 of shape (1, 7, 6, 4)", None),
    ]
    for x, geometry, got, what in cases:
        with pytest.raises(InputError) as caught:
            write_series(tmp_path / "out", x, geometry, case="a")
        assert (caught.value.where, caught.value.got) == ("out", got)
        assert (what or "") in caught.value.what
    with pytest.raises(InputError) as caught:
        write_series(tmp_path / "none" / "out", volume(), oblique(dicom), case="a")
    assert caught.value.where == "out"
    with pytest.raises(ConfigError) as caught:
        write_series(tmp_path / "out", volume(), oblique(dicom), case="a", description="x" * 65)
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("description", "1 to 64", 65)
    assert list(tmp_path.iterdir()) == []
