# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Spacing

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, to_tensor
from monai_diffrecon.operators.slice_thickness import SliceThickness

TO_RAS = np.array([-1.0, -1.0, 1.0])


def world(affine: np.ndarray, *index: float) -> np.ndarray:
    return (affine @ [*index, 1.0])[:3]


@pytest.fixture
def mr(tmp_path: Path, dicom: Any) -> Path:
    """An oblique MR series: 5 slices of 3 mm, 4 mm apart."""
    return dicom.save(tmp_path / "mr", dicom.make_series(dicom.stored(), SliceThickness=3.0))


def test_every_voxel_of_an_oblique_series_lies_where_its_header_says(mr: Path, dicom: Any) -> None:
    assert DicomSeriesReader().recognises(mr)
    measured = DicomSeriesReader().read(mr)
    stored, axes = dicom.stored(), dicom.OBLIQUE
    assert measured.data.dtype == torch.float32
    assert measured.data.shape == (1, 9, 8, 5)
    affine = affine_of(measured.geometry)
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    for c, r, k in [(0, 0, 0), (8, 0, 0), (0, 7, 0), (0, 0, 4), (3, 5, 2)]:
        expected = TO_RAS * (dicom.ORIGIN + c * axes[:, 0] + r * axes[:, 1] + 4 * k * axes[:, 2])
        x, y = 8 - c, 7 - r  # LPS to RAS+
        np.testing.assert_allclose(world(affine, x, y, k), expected, atol=1e-6)
        assert float(measured.data[0, x, y, k]) == stored[c, r, k]
    assert measured.unit == "arbitrary"
    assert measured.operator is None
    assert re.fullmatch("[0-9a-f]{64}", measured.source_sha256 or "")


def test_ct_is_rescaled_slice_by_slice(tmp_path: Path, dicom: Any) -> None:
    folder = dicom.save(tmp_path / "ct", dicom.make_ct(dicom.stored()))
    measured = DicomSeriesReader().read(folder)
    slopes = 1 + np.arange(5)
    expected = (dicom.stored() * slopes - 1024.0)[::-1, ::-1, ::-1]  # the files go down, and LPS
    np.testing.assert_array_equal(measured.data[0].numpy(), expected)
    np.testing.assert_allclose(measured.geometry.spacing, (0.5, 0.75, 3.0))
    x, y, z = dicom.ORIGIN
    first = [-(x + 8 * 0.5), -(y + 7 * 0.75), z - 4 * 3]
    np.testing.assert_allclose(affine_of(measured.geometry)[:3, 3], first)
    assert measured.unit == "HU"
    assert measured.header is not None
    assert measured.header["Modality"] == "CT"


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_agrees_with_itk(tmp_path: Path, dicom: Any, itk: Any, kind: str) -> None:
    series = dicom.make_series(dicom.stored()) if kind == "mr" else dicom.make_ct(dicom.stored())
    folder = dicom.save(tmp_path / kind, series)
    names, reader = itk.GDCMSeriesFileNames.New(), itk.ImageSeriesReaderIF3.New()
    names.SetInputDirectory(str(folder))
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames(names.GetInputFileNames())
    reader.Update()
    image = reader.GetOutput()
    affine = np.eye(4)
    direction = np.array([[image.GetDirection().GetVnlMatrix().get(i, j) for j in range(3)] for i in range(3)])
    affine[:3, :3] = TO_RAS[:, None] * direction * np.array(list(image.GetSpacing()))
    affine[:3, 3] = TO_RAS * np.array(list(image.GetOrigin()))
    array = np.array(itk.PyBufferIF3.GetArrayViewFromImage(image)).transpose(2, 1, 0)
    theirs = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    ours = DicomSeriesReader().read(folder)
    np.testing.assert_array_equal(ours.data[0].numpy(), np.asarray(theirs.dataobj))
    np.testing.assert_allclose(affine_of(ours.geometry), theirs.affine, atol=1e-4)


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_other_planes_become_ras(tmp_path: Path, dicom: Any, plane: str) -> None:
    columns = {"sagittal": [[0, 0, 1], [1, 0, 0], [0, -1, 0]], "coronal": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}[plane]
    axes = np.array(columns, dtype=float)
    folder = dicom.save(tmp_path / plane, dicom.make_series(dicom.stored(), axes=axes, SliceThickness=3.5))
    measured = DicomSeriesReader().read(folder)
    axis = {"sagittal": 0, "coronal": 1}[plane]
    assert measured.geometry.shape == ((5, 9, 8) if plane == "sagittal" else (9, 5, 8))
    assert measured.geometry.spacing[axis] == pytest.approx(4.0)
    assert measured.geometry.gaps == pytest.approx([0.5 * (a == axis) for a in range(3)])
    stored = dicom.stored()
    for c, r, k in [(0, 0, 0), (8, 7, 4), (2, 5, 1)]:
        at = TO_RAS * (dicom.ORIGIN + c * axes[:, 0] + r * axes[:, 1] + 4 * k * axes[:, 2])
        x, y, z = np.round(np.linalg.solve(affine_of(measured.geometry), [*at, 1.0])[:3]).astype(int)
        assert float(measured.data[0, x, y, z]) == stored[c, r, k]


def test_thickness_and_gap_reach_the_operator(mr: Path, dicom: Any, tmp_path: Path) -> None:
    measured = DicomSeriesReader().read(mr)
    assert measured.geometry.gaps == pytest.approx((0, 0, 1))
    (batch,) = DataLoader([{"image": to_tensor(measured)}], batch_size=1, num_workers=0)
    image = from_tensor(batch["image"][0])
    assert dataclasses.replace(image, data=None) == dataclasses.replace(measured, data=None)
    finer = from_tensor(Spacing(pixdim=(0.5, 0.5, -1))(to_tensor(measured)))  # as ResampleInPlaned does
    for geometry in (image.geometry, finer.geometry):
        options = SliceThickness.resolve_options(geometry)
        assert options == pytest.approx({"thickness": 3.0, "gap": 1.0, "target_spacing": 1.0}, abs=1e-4)
        operator = SliceThickness(SliceThickness.volume_geometry(geometry, **options), **options)
        assert operator.measurement_shape[1:] == geometry.shape
        assert operator.measured_geometry().gaps == pytest.approx((0, 0, 1), abs=1e-4)
    assert SliceThickness.resolve_options(image.geometry, gap=0.5)["thickness"] == pytest.approx(3.5)
    with pytest.raises(ConfigError) as caught:
        SliceThickness.resolve_options(image.geometry, thickness=4.0)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "operator#thickness",
        "thickness + gap = 4 mm",
        "5 mm",
    )
    touching = dicom.save(tmp_path / "touching", dicom.make_series(dicom.stored(), SliceThickness="4.003"))
    assert DicomSeriesReader().read(touching).geometry.gaps == (0.0, 0.0, 0.0)


def test_overlapping_slices_are_read_and_left_to_the_user(tmp_path: Path, dicom: Any) -> None:
    folder = dicom.save(tmp_path / "mr", dicom.make_series(dicom.stored(), SliceThickness=5.0))
    geometry = DicomSeriesReader().read(folder).geometry
    assert geometry.gaps == pytest.approx((0, 0, -1))
    with pytest.raises(ConfigError) as caught:
        SliceThickness.resolve_options(geometry)
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "operator#thickness",
        "slices of at most 4 mm",
        "5 mm",
    )
    assert "operator#thickness 4" in (caught.value.mend or "")
    assert SliceThickness.resolve_options(geometry, thickness=4.0)["thickness"] == 4.0


def test_nothing_returned_identifies(mr: Path, dicom: Any) -> None:
    measured = DicomSeriesReader().read(mr)
    text = repr(measured.header) + repr(to_tensor(measured).meta)
    for secret in [*dicom.SECRETS.values(), dicom.PRIVATE, dicom.ROOT]:
        assert secret not in text
    assert measured.header is not None
    assert measured.header["SequenceVariant"] == "SK\\SP"
    assert measured.header["EchoTime"] == "3.25"


def test_a_name_in_an_allowed_attribute_is_not_kept(tmp_path: Path, dicom: Any) -> None:
    series = dicom.make_series(dicom.stored(), ScanningSequence="DOE", PatientPosition="JOHN")
    header = DicomSeriesReader().read(dicom.save(tmp_path / "mr", series)).header
    assert header is not None
    assert header.keys().isdisjoint({"ScanningSequence", "PatientPosition"})


def test_an_enhanced_file_is_read(tmp_path: Path, dicom: Any) -> None:
    folder = dicom.save(tmp_path / "enhanced", [dicom.make_enhanced(dicom.stored())])
    (path,) = folder.iterdir()
    assert DicomSeriesReader().recognises(path)
    for place in (path, folder):
        measured = DicomSeriesReader().read(place)
        np.testing.assert_array_equal(measured.data[0].numpy(), dicom.stored()[::-1, ::-1] * 0.5 + 3)
        expected = TO_RAS * (dicom.ORIGIN + 8 * dicom.OBLIQUE[:, 0] + 7 * dicom.OBLIQUE[:, 1])
        np.testing.assert_allclose(affine_of(measured.geometry)[:3, 3], expected, atol=1e-6)
        assert measured.geometry.gaps == pytest.approx((0, 0, 1))


def _compressed(tmp_path: Path, dicom: Any, itk: Any, syntax: str) -> Path:
    series = dicom.make_series(dicom.stored((32, 32, 3)), RescaleSlope=0.5, RescaleIntercept=7)
    if syntax == "rle":
        for ds in series:
            ds.compress("1.2.840.10008.1.2.5")
        return dicom.save(tmp_path / syntax, series)
    from pydicom import dcmread

    plain = dicom.save(tmp_path / "plain", dicom.make_series(dicom.stored((32, 32, 3))))
    for ds in series:
        name = f"IM{7 * int(ds.InstanceNumber):03d}.dcm"
        reader, writer, io = itk.ImageFileReaderISS2.New(), itk.ImageFileWriterISS2.New(), itk.GDCMImageIO.New()
        reader.SetFileName(str(plain / name))
        reader.SetImageIO(itk.GDCMImageIO.New())
        reader.Update()
        io.SetCompressionType({"jpeg2000": 1, "jpeg": 0}[syntax])
        writer.SetImageIO(io)
        writer.SetUseCompression(True)
        writer.SetInput(reader.GetOutput())
        writer.SetFileName(str(tmp_path / name))
        writer.Update()
        packed = dcmread(tmp_path / name)
        assert packed.file_meta.TransferSyntaxUID.is_compressed
        ds.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        ds["PixelData"] = packed["PixelData"]
    return dicom.save(tmp_path / syntax, series)


@pytest.mark.parametrize("syntax", ["rle", "jpeg", "jpeg2000"])
def test_lossless_compression_changes_nothing(tmp_path: Path, dicom: Any, itk: Any, syntax: str) -> None:
    measured = DicomSeriesReader().read(_compressed(tmp_path, dicom, itk, syntax))
    np.testing.assert_array_equal(measured.data[0].numpy(), dicom.stored((32, 32, 3))[::-1, ::-1] * 0.5 + 7)


def _compressed_frames(tmp_path: Path, dicom: Any, itk: Any, syntax: str, change: Any = list) -> Path:
    """Write an enhanced file whose frames are those of a compressed series."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, generate_frames

    values = dicom.stored((32, 32, 3))
    enhanced = dicom.make_enhanced(values)
    for k, group in enumerate(enhanced.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence[0].RescaleSlope = 0.5 + k
    if syntax == "rle":
        enhanced.compress("1.2.840.10008.1.2.5")
    else:
        packed = [dcmread(path) for path in sorted(_compressed(tmp_path, dicom, itk, syntax).iterdir())]
        frames = [next(generate_frames(ds.PixelData, number_of_frames=1)) for ds in reversed(packed)]
        enhanced.file_meta.TransferSyntaxUID = packed[0].file_meta.TransferSyntaxUID
        enhanced.PixelData = encapsulate(change(frames))
        enhanced["PixelData"].is_undefined_length = True
    enhanced.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    return tmp_path / "enhanced.dcm"


@pytest.mark.parametrize("syntax", ["rle", "jpeg", "jpeg2000"])
def test_compressed_frames_of_an_enhanced_file(tmp_path: Path, dicom: Any, itk: Any, syntax: str) -> None:
    """With a slope of its own for each frame, in the order of the file: from the last slice to the first."""
    measured = DicomSeriesReader().read(_compressed_frames(tmp_path, dicom, itk, syntax))
    expected = dicom.stored((32, 32, 3))[::-1, ::-1] * np.array([2.5, 1.5, 0.5]) + 3
    np.testing.assert_array_equal(measured.data[0].numpy(), expected)


@pytest.mark.parametrize("change", [lambda frames: frames[:2], lambda frames: [*frames[:2], frames[2][:200]]])
def test_a_compressed_frame_that_is_not_there(
    tmp_path: Path, dicom: Any, itk: Any, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = _compressed_frames(tmp_path, dicom, itk, "jpeg2000", change)
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(path)
    assert caught.value.where == "enhanced.dcm"
    assert not caplog.records  # decoders log what they were given


def test_a_truncated_compressed_file(tmp_path: Path, dicom: Any) -> None:
    folder = _compressed(tmp_path, dicom, None, "rle")
    path = folder / "IM014.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(folder)
    assert caught.value.where == "IM014.dcm"
    assert caught.value.what.startswith("truncated")


def _change(*numbers: int, **changes: Any) -> Callable[[list[Any], Any], None]:
    def change(series: list[Any], dicom: Any) -> None:
        for ds in series if not numbers else [series[n] for n in numbers]:
            for keyword, value in changes.items():
                delattr(ds, keyword) if value is None else setattr(ds, keyword, value)

    return change


def _remove(series: list[Any], dicom: Any) -> None:
    del series[2]


def _shift(series: list[Any], dicom: Any) -> None:
    series[2].ImagePositionPatient = [float(v) for v in dicom.ORIGIN + 9.5 * dicom.OBLIQUE[:, 2]]


def _repeat(series: list[Any], dicom: Any) -> None:
    again = dicom.make_slice(dicom.stored()[..., 1], series[1].ImagePositionPatient, dicom.OBLIQUE, 9)
    series.append(again)


def _tilt(series: list[Any], dicom: Any) -> None:
    for k, ds in enumerate(series):
        ds.ImagePositionPatient = [
            float(v) for v in dicom.ORIGIN + 4 * k * dicom.OBLIQUE[:, 2] + k * dicom.OBLIQUE[:, 1]
        ]


def _turn(series: list[Any], dicom: Any) -> None:
    turned = dicom.OBLIQUE @ dicom.rotation(0.01, 0, 0)
    series[3].ImageOrientationPatient = [float(v) for v in turned[:, :2].T.reshape(-1)]


REFUSALS: dict[str, tuple[Callable[[list[Any], Any], None], dict[str, Any]]] = {
    "missing": (_remove, {"where": "mr", "expected": "4.00 mm from slice to slice"}),
    "uneven": (_shift, {"where": "mr", "got": "5.50 mm between those at 27.88 and 33.38 mm along the normal"}),
    "duplicate": (_repeat, {"where": "mr", "got": "1 more, the first at 27.88 mm along the normal"}),
    "tilt": (_tilt, {"where": "mr", "got": "14.0 degrees"}),
    "orientation": (
        _turn,
        {"where": "mr", "got": "4 slices of one kind and 1 of others, first file 4 of 5"},
    ),
    "spacing": (_change(4, PixelSpacing=[1.0, 1.1]), {"where": "mr", "what": "slices of mixed pixel spacings"}),
    "shape": (_change(4, Rows=9, Columns=8), {"where": "mr", "what": "slices of mixed shapes"}),
    "thickness": (_change(4, SliceThickness=2.0), {"where": "mr", "what": "slices of mixed thicknesses"}),
    "localizer": (_change(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), {"where": "mr", "got": "1 of 5 files"}),
    "mosaic": (_change(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), {"where": "mr", "got": None}),
    "rgb": (
        _change(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
        {"where": "IM007.dcm", "got": "RGB, 3 values"},
    ),
    "inverted": (_change(PhotometricInterpretation="MONOCHROME1"), {"expected": "MONOCHROME2", "got": None}),
    "position": (
        _change(1, ImagePositionPatient=None),
        {"where": "IM014.dcm", "got": "no ImagePositionPatient"},
    ),
    "orientation tag": (
        _change(1, ImageOrientationPatient=None),
        {"where": "IM014.dcm", "got": "no ImageOrientationPatient"},
    ),
    "cosines": (
        _change(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        {"where": "IM014.dcm", "got": "ImageOrientationPatient that is not two perpendicular unit vectors"},
    ),
    "spacing tag": (_change(1, PixelSpacing=None), {"where": "IM014.dcm", "got": "no PixelSpacing"}),
    "zero spacing": (
        _change(1, PixelSpacing=[0, 1]),
        {"where": "IM014.dcm", "got": "PixelSpacing that is not above 0"},
    ),
    "modality": (_change(Modality="US"), {"where": "mr", "got": "5 other images"}),
    "slope": (
        _change(1, RescaleSlope=0, RescaleIntercept=3),
        {"where": "IM014.dcm", "what": "a rescale slope of 0: all values would be equal"},
    ),
    "no rows": (_change(1, Rows=None), {"where": "IM014.dcm", "got": "no Rows"}),
    "no pixels": (_change(1, PixelData=None), {"where": "IM014.dcm", "what": "an image without pixel data"}),
    "frames": (
        _change(1, NumberOfFrames=2, Rows=4),
        {"where": "IM014.dcm", "got": "several frames without functional groups"},
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_is_no_volume_is_refused_from_the_headers(
    tmp_path: Path, dicom: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fields = REFUSALS[fault]
    series = dicom.make_series(dicom.stored())
    change(series, dicom)
    folder = dicom.save(tmp_path / "mr", series)

    def never(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("monai_diffrecon.io.dicom.series_reader.read_pixels", never)
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(folder)
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    for secret in [*dicom.SECRETS.values(), dicom.PRIVATE, dicom.ROOT, str(tmp_path)]:
        assert secret not in str(caught.value)


def test_a_syntax_that_nothing_decodes(tmp_path: Path, dicom: Any) -> None:
    series = dicom.make_series(dicom.stored())
    for ds in series:
        ds.compress("1.2.840.10008.1.2.5")
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(dicom.save(tmp_path / "mr", series))
    assert (caught.value.where, caught.value.got) == ("IM007.dcm", "MPEG2 Main Profile / Main Level")
    assert "gdcmconv" in (caught.value.mend or "")
    assert "pip install" in (caught.value.mend or "")


def test_truncated_and_foreign_files(mr: Path, tmp_path: Path) -> None:
    (mr / "notes.txt").write_text("no image")
    (mr / ".hidden.dcm").write_bytes(b"")
    whole = DicomSeriesReader().read(mr)
    path = mr / "IM014.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(mr)
    assert caught.value.where == "IM014.dcm"
    assert caught.value.what.startswith("truncated")
    for length in (200, 400, len(content) - 150):  # within the header
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            DicomSeriesReader().read(mr)
        assert caught.value.where == "IM014.dcm"
        assert not caught.value.what.startswith("truncated")
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(mr)
    assert (caught.value.where, caught.value.expected) == ("IM014.dcm", "DICM at byte 128")
    path.write_bytes(content)
    assert torch.equal(DicomSeriesReader().read(mr).data, whole.data)
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(path)
    assert (caught.value.where, caught.value.expected) == ("IM014.dcm", None)
    assert "folder" in (caught.value.mend or "")
    empty = tmp_path / "empty"
    empty.mkdir()
    places = [(empty, "the files of a series"), (mr / "notes.txt", "DICM at byte 128"), (mr / "gone", None)]
    for place, expected in places:
        assert not DicomSeriesReader().recognises(place)
        with pytest.raises(InputError) as caught:
            DicomSeriesReader().read(place)
        assert (caught.value.where, caught.value.expected) == (place.name, expected)


def test_a_folder_of_several_series(tmp_path: Path, dicom: Any) -> None:
    folder = dicom.save(tmp_path / "study", dicom.make_series(dicom.stored()))
    ct = dicom.make_ct(dicom.stored(seed=1), SeriesInstanceUID=dicom.ROOT + "8", SeriesNumber=2)
    for ds in ct:
        ds.InstanceNumber = int(ds.InstanceNumber) + 50
    dicom.save(folder, ct)
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(folder)
    text = str(caught.value)
    assert "got 2 (1: CT, 5 slices of 9 x 8; 2: MR, 5 slices of 9 x 8)" in text
    assert """--reader '{"name":"dicom","series":1}'""" in text
    assert dicom.ROOT not in text
    for choice, unit in [
        (1, "HU"),
        ("1", "HU"),
        (dicom.ROOT + "8", "HU"),
        (2, "arbitrary"),
        (dicom.ROOT + "9", "arbitrary"),
    ]:
        assert DicomSeriesReader(choice).read(folder).unit == unit
    for wrong in (3, dicom.ROOT + "7"):
        with pytest.raises(InputError) as caught:
            DicomSeriesReader(wrong).read(folder)
        assert (caught.value.where, caught.value.expected) == ("study", "one of them")
        assert dicom.ROOT not in str(caught.value)


@pytest.mark.parametrize("series", [0, True, 1.5, ""])
def test_wrong_options(series: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        DicomSeriesReader(series)
    assert (caught.value.where, caught.value.got) == ("reader#series", type(series).__name__)


def test_it_is_a_plugin() -> None:
    reader = registry.build("readers", {"name": "dicom", "series": 2})
    assert isinstance(reader, DicomSeriesReader)
    assert reader.series == 2


def test_ct_shown_inverted_keeps_its_hounsfield_units(tmp_path: Path, dicom: Any) -> None:
    series = dicom.make_ct(dicom.stored())
    plain = DicomSeriesReader().read(dicom.save(tmp_path / "a", series)).data
    for ds in series:
        ds.PhotometricInterpretation = "MONOCHROME1"
    assert torch.equal(DicomSeriesReader().read(dicom.save(tmp_path / "b", series)).data, plain)
