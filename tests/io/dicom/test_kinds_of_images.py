# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Phases are refused, maps are warned of, and of several volumes one is chosen by a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.io.nifti_reader import NIfTIReader

COMPONENTS = [
    (["ORIGINAL", "PRIMARY", "P", "ND"], "phase"),
    (["ORIGINAL", "PRIMARY", "PHASE MAP", "ND"], "phase"),
    (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "phase"),
    (["ORIGINAL", "PRIMARY", "P_FFE", "P", "FFE"], "phase"),
    (["ORIGINAL", "PRIMARY", "PHASE CONTRAST M", "P", "PCA"], "phase"),
    (["DERIVED", "PRIMARY", "PHASE"], "phase"),
    (["ORIGINAL", "PRIMARY", "PHASE_IMAGE"], "phase"),
    (["ORIGINAL", "PRIMARY", "VELOCITY MAP", "V", "PCA"], "phase"),
    (["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"], "real part"),
    (["ORIGINAL", "PRIMARY", "R", "ND"], "real part"),
    (["ORIGINAL", "PRIMARY", "REAL"], "real part"),
    (["ORIGINAL", "PRIMARY", "I_FFE", "I", "FFE"], "imaginary part"),
    (["ORIGINAL", "PRIMARY", "IMAGINARY"], "imaginary part"),
]
MAGNITUDES = [
    ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
    ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
    ["ORIGINAL", "PRIMARY", "M_PCA", "M", "PCA"],
    ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"],
    ["ORIGINAL", "PRIMARY", "OTHER"],
    ["ORIGINAL", "PRIMARY", "IN_PHASE"],
    ["ORIGINAL", "PRIMARY", "T1", "NONE"],
    ["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"],
    ["ORIGINAL", "PRIMARY"],
    ["DERIVED", "SECONDARY", "MPR"],
]
MAPS = [
    (["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM"], "ADC"),
    (["ORIGINAL", "PRIMARY", "ADC", "ADC", "SE"], "ADC"),
    (["DERIVED", "PRIMARY", "DIFFUSION", "FA"], "FA"),
    (["DERIVED", "PRIMARY", "T1 MAP", "ND"], "T1 MAP"),
    (["DERIVED", "PRIMARY", "M", "T2_STAR MAP"], "T2 STAR MAP"),
    (["DERIVED", "PRIMARY", "PERFUSION", "NONE"], "PERFUSION"),
    (["DERIVED", "SECONDARY", "CBF"], "CBF"),
    (["DERIVED", "SECONDARY", "TTP"], "TTP"),
    (["DERIVED", "SECONDARY", "MTT"], "MTT"),
    (["DERIVED", "SECONDARY", "OTHER", "T2"], "T2"),
]


def is_phase(error: pytest.ExceptionInfo[InputError], component: str) -> bool:
    return error.value.exit_code == 2 and component in error.value.what and "\n" not in str(error.value)


@pytest.mark.parametrize(("image_type", "component"), COMPONENTS)
def test_components_of_complex_images_are_refused(
    tmp_path: Path, dicom: Any, image_type: list[str], component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dicom.save(tmp_path / "mr", dicom.make_series(dicom.stored(), ImageType=image_type))

    def never(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("monai_diffrecon.io.dicom.series_reader.read_pixels", never)
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(folder)
    assert is_phase(caught, component)
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"ImageType": image_type}))
    with pytest.raises(InputError) as caught:
        NIfTIReader().read(tmp_path / "scan.nii.gz")
    assert is_phase(caught, component)


@pytest.mark.parametrize("image_type", MAGNITUDES)
def test_magnitudes_are_read_without_a_word(tmp_path: Path, dicom: Any, image_type: list[str]) -> None:
    folder = dicom.save(tmp_path / "mr", dicom.make_series(dicom.stored(), ImageType=image_type))
    assert DicomSeriesReader().read(folder).notices == ()
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.nii")
    (tmp_path / "scan.json").write_text(json.dumps({"ImageType": image_type}))
    assert NIfTIReader().read(tmp_path / "scan.nii").notices == ()


@pytest.mark.parametrize(("image_type", "word"), MAPS)
def test_maps_are_warned_of(tmp_path: Path, dicom: Any, image_type: list[str], word: str) -> None:
    series = dicom.make_series(dicom.stored(), ImageType=image_type)
    (notice,) = DicomSeriesReader().read(dicom.save(tmp_path / "mr", series)).notices
    assert f"({word})" in notice
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"ImageType": image_type}))
    assert NIfTIReader().read(tmp_path / "scan.nii.gz").notices == (notice,)


def test_letters_mean_nothing_in_ct(tmp_path: Path, dicom: Any) -> None:
    folder = dicom.save(tmp_path / "ct", dicom.make_ct(dicom.stored(), ImageType=["ORIGINAL", "PRIMARY", "P"]))
    assert DicomSeriesReader().read(folder).unit == "HU"


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("word", ["PHASE", "REAL", "IMAGINARY"])
def test_enhanced_images_say_their_component(tmp_path: Path, dicom: Any, word: str, shared: bool) -> None:
    enhanced = dicom.make_enhanced(dicom.stored())
    kind = Dataset()
    kind.FrameType, kind.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"], word
    for group in [enhanced.SharedFunctionalGroupsSequence[0]] if shared else enhanced.PerFrameFunctionalGroupsSequence:
        group.MRImageFrameTypeSequence = Sequence([kind])
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(dicom.save(tmp_path / "mr", [enhanced]))
    assert is_phase(caught, word.lower())


def test_enhanced_images_say_it_for_all_frames(tmp_path: Path, dicom: Any) -> None:
    enhanced = dicom.make_enhanced(dicom.stored(), ComplexImageComponent="PHASE")
    with pytest.raises(InputError) as caught:
        DicomSeriesReader().read(dicom.save(tmp_path / "mr", [enhanced]))
    assert is_phase(caught, "phase")


@pytest.mark.parametrize(("number", "component"), [(1, "phase"), (2, "real part"), (3, "imaginary part")])
def test_ge_says_it_in_an_attribute_of_its_own(tmp_path: Path, dicom: Any, number: int, component: str) -> None:
    for value in (number, 0):
        series = dicom.make_series(dicom.stored(), ImageType=["ORIGINAL", "PRIMARY", "OTHER"])
        for ds in series:
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", value)
        folder = dicom.save(tmp_path / str(value), series)
        if value == 0:
            assert DicomSeriesReader().read(folder).notices == ()
            continue
        with pytest.raises(InputError) as caught:
            DicomSeriesReader().read(folder)
        assert is_phase(caught, component)


@pytest.mark.parametrize("name", ["sub-1_part-phase_T1w.nii.gz", "a_part-real_bold.nii", "a_part-imag.nii.gz"])
def test_names_of_bids_say_it_too(tmp_path: Path, name: str) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / name)
    with pytest.raises(InputError) as caught:
        NIfTIReader().read(tmp_path / name)
    assert (caught.value.where, caught.value.expected) == (name, "magnitude images")
    other = tmp_path / name.replace("part-", "part").replace("phase", "mag")
    (tmp_path / name).rename(other)
    NIfTIReader().read(other)


@pytest.mark.parametrize("text", ["{", "[1]", '{"ImageType": 3}', '{"ImageType": [1, null]}', '{"a": 1}'])
def test_what_lies_beside_a_nifti_file_does_not_disturb(tmp_path: Path, text: str) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.nii")
    (tmp_path / "scan.json").write_text(text)
    assert NIfTIReader().read(tmp_path / "scan.nii").notices == ()


def several(dicom: Any, *variants: dict[str, Any]) -> tuple[list[Any], list[np.ndarray]]:
    """A series in which every position comes once for each variant, in a random order; and what RAS+ volumes hold."""
    series, volumes, number = [], [], 0
    for seed, changes in enumerate(variants):
        stored = dicom.stored(seed=seed)
        volumes.append(stored[::-1, ::-1])
        for ds in dicom.make_series(stored):
            number += 1
            ds.InstanceNumber = number
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{dicom.ROOT}3.{number}"
            for keyword, value in changes.items():
                setattr(ds, keyword, value)
            series.append(ds)
    return [series[i] for i in np.random.default_rng(0).permutation(len(series))], volumes


def save(folder: Path, series: list[Any]) -> Path:
    folder.mkdir()
    for i, ds in enumerate(series):
        ds.save_as(folder / f"{i:03d}.dcm", enforce_file_format=True)
    return folder


def refused(folder: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        DicomSeriesReader(**options).read(folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_echoes_are_chosen_by_the_number_in_the_header(tmp_path: Path, dicom: Any) -> None:
    echoes = [{"EchoTime": t, "EchoNumbers": n} for n, t in ((1, 4.92), (2, 7.38), (3, 9.84))]
    series, volumes = several(dicom, *echoes)
    folder = save(tmp_path / "mr", series)
    error = refused(folder)
    for said in ("3 volumes of 5 slices", "3 echoes", "echo 2 of 7.38 ms", "9.84 ms"):
        assert said in str(error.got)
    assert '"echo":1' in str(error.mend)
    for n, volume in enumerate(volumes, 1):
        read = DicomSeriesReader(echo=n).read(folder)
        np.testing.assert_array_equal(read.data[0].numpy(), volume)
        assert read.header is not None
        assert float(read.header["EchoTime"]) == pytest.approx(echoes[n - 1]["EchoTime"])
        assert read.source_sha256 != DicomSeriesReader(echo=n % 3 + 1).read(folder).source_sha256
        np.testing.assert_array_equal(DicomSeriesReader(volume=n - 1).read(folder).data[0].numpy(), volume)
    assert "echo 3 of 9.84 ms" in str(refused(folder, echo=4).expected)
    assert refused(folder, volume=3).got == "volume 3"


def test_echoes_that_are_all_called_the_first_count_by_their_time(tmp_path: Path, dicom: Any) -> None:
    series, volumes = several(dicom, {"EchoTime": 30, "EchoNumbers": 1}, {"EchoTime": 10, "EchoNumbers": 1})
    folder = save(tmp_path / "mr", series)
    np.testing.assert_array_equal(DicomSeriesReader(echo=1).read(folder).data[0].numpy(), volumes[1])
    np.testing.assert_array_equal(DicomSeriesReader(echo=2).read(folder).data[0].numpy(), volumes[0])


@pytest.mark.parametrize(
    ("keyword", "values", "says"),
    [
        ("TemporalPositionIdentifier", (1, 2), "time point 2"),
        ("AcquisitionNumber", (3, 7), "acquisition 7"),
        ("TriggerTime", (0.0, 412.5), "trigger time 412.5 ms"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value 1000 s/mm2"),
        ("InversionTime", (50.0, 900.0), "inversion time 900 ms"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "F"], ["ORIGINAL", "PRIMARY", "W"]), "water"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "phase"),
        ("StudyID", ("same", "same"), "1: another image"),
    ],
)
def test_volumes_are_listed_and_chosen(
    tmp_path: Path, dicom: Any, keyword: str, values: tuple[Any, Any], says: str
) -> None:
    series, volumes = several(dicom, *({keyword: value} for value in values))
    folder = save(tmp_path / "mr", series)
    error = refused(folder)
    assert "2 volumes of 5 slices" in str(error.got)
    assert says in str(error.got)
    assert '"volume":0' in str(error.mend)
    for secret in [*dicom.SECRETS.values(), dicom.PRIVATE, dicom.ROOT]:
        assert secret not in str(error)
    np.testing.assert_array_equal(DicomSeriesReader(volume=0).read(folder).data[0].numpy(), volumes[0])
    if says == "phase":
        assert "phase" in refused(folder, volume=1).what
    else:
        np.testing.assert_array_equal(DicomSeriesReader(volume=1).read(folder).data[0].numpy(), volumes[1])


def test_echoes_over_time(tmp_path: Path, dicom: Any) -> None:
    variants = [
        {"EchoTime": 5.0 * e, "EchoNumbers": e, "TemporalPositionIdentifier": t} for t in (1, 2, 3) for e in (1, 2)
    ]
    series, volumes = several(dicom, *variants)
    folder = save(tmp_path / "mr", series)
    assert "6 volumes" in str(refused(folder).got)
    assert "3 volumes" in str(refused(folder, echo=2).got)
    read = DicomSeriesReader(echo=2, volume=1).read(folder)
    np.testing.assert_array_equal(read.data[0].numpy(), volumes[3])


def test_a_trigger_time_of_every_slice_is_no_reason_to_mix(tmp_path: Path, dicom: Any) -> None:
    """Slices are acquired one after the other: the first phase of the last one is later than the last of the first."""
    series, volumes = several(dicom, {}, {})
    for ds in series:
        k, phase = (int(ds.InstanceNumber) - 1) % 5, (int(ds.InstanceNumber) - 1) // 5
        ds.TriggerTime = 1000.0 * k + 30 * phase
    folder = save(tmp_path / "mr", series)
    for n in (0, 1):
        np.testing.assert_array_equal(DicomSeriesReader(volume=n).read(folder).data[0].numpy(), volumes[n])


def test_volumes_of_which_slices_are_missing_are_refused(tmp_path: Path, dicom: Any) -> None:
    series, _ = several(dicom, {"EchoTime": 5}, {"EchoTime": 10})
    folder = save(tmp_path / "mr", series)
    (folder / f"{[int(ds.InstanceNumber) for ds in series].index(3):03d}.dcm").unlink()
    error = refused(folder)
    assert "mixed echo times" in error.what
    assert '"echo":1' in str(error.mend)
    assert "mixed echo times" in refused(folder, volume=0).what
    assert "missing slices" in refused(folder, echo=1).what
    assert DicomSeriesReader(echo=2).read(folder).geometry.shape[2] == 5


def test_echoes_of_other_slices_are_not_mixed(tmp_path: Path, dicom: Any) -> None:
    series = dicom.make_series(dicom.stored())
    for k, ds in enumerate(series):
        ds.EchoTime = 5 + 5 * (k % 2)
    assert "mixed echo times" in refused(dicom.save(tmp_path / "mr", series)).what


def test_enhanced_images_of_several_echoes(tmp_path: Path, dicom: Any) -> None:
    stored = dicom.stored((9, 8, 10))
    enhanced = dicom.make_enhanced(stored)
    frames = enhanced.PerFrameFunctionalGroupsSequence  # the last position first
    for k, frame in zip(reversed(range(10)), frames, strict=True):
        echo = Dataset()
        echo.EffectiveEchoTime = 5.0 + 5 * (k // 5)
        frame.MREchoSequence = [echo]
        position = dicom.ORIGIN + (k % 5) * 4.0 * dicom.OBLIQUE[:, 2]
        frame.PlanePositionSequence[0].ImagePositionPatient = [round(float(v), 8) for v in position]
    folder = dicom.save(tmp_path / "mr", [enhanced])
    assert "echo 2 of 10 ms" in str(refused(folder).got)
    for echo in (1, 2):
        read = DicomSeriesReader(echo=echo).read(folder)
        expected = stored[::-1, ::-1, 5 * (echo - 1) : 5 * echo] * 0.5 + 3
        np.testing.assert_array_equal(read.data[0].numpy(), expected)


def test_volumes_of_nifti(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(5, 4, 3, 6)).astype(np.float32)
    for name, content in (("a.nii.gz", array), ("b.nii", array[:, :, :, None, :])):
        nib.save(nib.Nifti1Image(content, np.diag([-2.0, 1, 3, 1])), tmp_path / name)
        with pytest.raises(InputError) as caught:
            NIfTIReader().read(tmp_path / name)
        assert (caught.value.where, caught.value.expected) == (name, "three axes")
        assert "6 volumes, numbered from 0 to 5" in str(caught.value.got)
        assert '"volume":0' in str(caught.value.mend)
        for n in (0, 5):
            read = registry.build("readers", {"name": "nifti", "volume": n}).read(tmp_path / name)
            np.testing.assert_array_equal(read.data[0].numpy(), array[::-1, :, :, n])
            assert read.geometry.shape == (5, 4, 3)
        with pytest.raises(InputError) as caught:
            NIfTIReader(volume=6).read(tmp_path / name)
        assert (caught.value.where, caught.value.got) == (name, 6)
        assert caught.value.expected == "0 to 5"


def test_more_axes_and_colours_are_no_volumes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "b.nii")
    for name, got in (("a.nii", "shape (4, 4, 4, 2, 3)"), ("b.nii", str(colours.dtype))):
        with pytest.raises(InputError) as caught:
            NIfTIReader(volume=0).read(tmp_path / name)
        assert (caught.value.where, caught.value.got) == (name, got)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "c.nii")
    assert NIfTIReader(volume=0).read(tmp_path / "c.nii").data.shape == (1, 4, 4, 4)


@pytest.mark.parametrize("options", [{"echo": True}, {"echo": 1.5}, {"volume": -1}, {"volume": "x"}])
def test_wrong_options(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    with pytest.raises(ConfigError) as caught:
        DicomSeriesReader(**options)
    assert (caught.value.where, caught.value.got) == (f"reader#{option}", repr(value))
    if "volume" in options:
        with pytest.raises(ConfigError) as caught:
            NIfTIReader(**options)
        assert (caught.value.where, caught.value.got) == ("reader#volume", repr(value))
