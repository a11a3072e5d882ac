# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Gantry tilt: refused by all who read a scan, or corrected when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd, LoadVolumed
from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.cohort.cases import check_case
from monai_diffrecon.evaluation.cohort.spec import CohortCase
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.io.nifti_reader import NIfTIReader

TILT = 18.5
SHAPE = (40, 44, 12)


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    index = np.stack([*np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), np.ones(shape)])
    return np.tensordot(affine[:3], index, 1)


def blob(points: np.ndarray) -> np.ndarray:
    x, y, z = points
    squared = ((x - 20) / 5) ** 2 + ((y - 24) / 5) ** 2 + ((z - 15) / 12) ** 2
    return 40.0 + 960.0 * np.exp(-0.5 * squared)


@pytest.fixture
def tilted(tmp_path: Path) -> Path:
    """What dcm2niix makes of a tilted gantry: a sheared sform."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 3.0 * np.tan(np.radians(TILT))
    image = nib.Nifti1Image(blob(world(affine, SHAPE)).astype(np.float32), affine)
    image.set_sform(affine, code=1)
    nib.save(image, tmp_path / "tilted.nii.gz")
    return tmp_path / "tilted.nii.gz"


def dicom_series(folder: Path, dicom: Any) -> Path:
    """The same in DICOM: positions that lean, thickness along the normal."""
    step = np.array([0.0, 3.0 * np.tan(np.radians(TILT)), 3.0])
    stored = np.empty(SHAPE, np.int16)
    for k in range(SHAPE[2]):
        columns, rows = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
        # LPS to the blob's coordinates: x and y change sign.
        place = np.stack([columns + 0.0 * rows, rows + step[1] * k, np.full(columns.shape, 3.0 * k)])
        stored[..., k] = np.round(blob(place))
    slices = [dicom.make_slice(stored[..., k], k * step, np.eye(3), k + 1, SliceThickness=2.5) for k in range(SHAPE[2])]
    return Path(dicom.save(folder, slices))


@pytest.mark.parametrize("read", [read_volume, read_scan, NIfTIReader().read])
def test_a_sheared_image_is_refused_by_whatever_reads_it(tilted: Path, read: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(tilted)
    assert caught.value.where == "tilted.nii.gz"
    assert caught.value.exit_code == 2
    assert caught.value.got == "18.5 degrees off"
    assert "--correct_tilt true" in str(caught.value.mend)
    assert "dcm2niix" in str(caught.value.mend)


def test_as_image_as_reference_and_in_a_cohort(tilted: Path) -> None:
    for load in (LoadMeasurementd(["image"]), LoadVolumed(["image"])):
        with pytest.raises(InputError) as caught:
            load({"image": str(tilted), "case": "one"})
        assert (caught.value.where, caught.value.got) == ("case one: image", "18.5 degrees off")
        assert "tilted" not in str(caught.value)  # the file's name
    for case in (CohortCase("one", tilted), CohortCase("one", tilted, mask=tilted)):
        with pytest.raises(InputError) as caught:
            check_case(case)
        assert (caught.value.where, caught.value.got) == ("case one: image", "18.5 degrees off")
    assert check_case(CohortCase("one", tilted), correct_tilt=True).image


def check_corrected(out: dict[Any, Any], scale: float) -> None:
    measured = from_tensor(out["image"])
    affine = affine_of(measured.geometry)
    columns = affine[:3, :3]
    np.testing.assert_allclose(columns.T @ columns, np.diag([1.0, 1.0, 9.0]), atol=1e-4)
    truth = blob(world(affine * np.array([[scale], [scale], [1], [1]]), measured.geometry.shape))
    np.testing.assert_allclose(measured.data[0].numpy(), truth, atol=12.0)
    assert np.abs(measured.data[0].numpy() - truth).mean() < 1.0
    (notice,) = measured.notices
    assert "18.5 degrees" in notice
    assert json.loads(out["image_preparation"]) == [{"correct_tilt": {"degrees": pytest.approx(TILT, abs=0.01)}}]


def test_nifti_is_corrected_when_asked(tilted: Path, tmp_path: Path) -> None:
    out = LoadMeasurementd(["image"], correct_tilt=True)({"image": str(tilted)})
    check_corrected(out, 1.0)
    # What is written has a qform and a sform that say the same.
    measured = from_tensor(out["image"])
    write_volume(tmp_path / "straight.nii.gz", measured.data, measured.geometry)
    header = nib.load(tmp_path / "straight.nii.gz").header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-3)


def test_dicom_is_refused_or_corrected_alike(tmp_path: Path, dicom: Any) -> None:
    folder = dicom_series(tmp_path / "series", dicom)
    with pytest.raises(InputError) as caught:
        read_scan(folder)
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("series", "0 degrees", "18.5 degrees")
    assert "--correct_tilt true" in str(caught.value.mend)
    out = LoadMeasurementd(["image"], correct_tilt=True)({"image": str(folder)})
    check_corrected(out, -1.0)
    # 2.5 mm thick every 3 mm along the normal.
    assert from_tensor(out["image"]).geometry.gaps == pytest.approx((0.0, 0.0, 0.5), abs=1e-3)


def test_slices_that_wander_are_not_straightened(tmp_path: Path, dicom: Any) -> None:
    stored = dicom.stored((9, 8, 5))
    aside = [0.0, 0.0, 2.0, 0.0, 0.0]
    slices = [dicom.make_slice(stored[..., k], np.array([aside[k], 0.0, 4.0 * k]), np.eye(3), k + 1) for k in range(5)]
    folder = dicom.save(tmp_path / "series", slices)
    for leaning in (False, True):
        with pytest.raises(InputError) as caught:
            read_scan(folder, leaning=leaning)
        assert (caught.value.where, caught.value.got) == ("series", "2.0 mm off")


def test_a_straight_image_is_left_alone(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / "v.nii")
    out = LoadMeasurementd(["image"], correct_tilt=True)({"image": str(tmp_path / "v.nii")})
    assert "image_preparation" not in out
    assert from_tensor(out["image"]).notices == ()


def test_what_no_tilt_explains_is_refused_all_the_same(tmp_path: Path) -> None:
    affine = np.array([[1, 0.3, 0.3, 0], [0, 1, 0.4, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.ones((20, 20, 20), np.float32), affine)
    image.set_sform(affine, code=1)
    nib.save(image, tmp_path / "v.nii")
    with pytest.raises(InputError) as caught:
        LoadMeasurementd(["image"], correct_tilt=True)({"image": str(tmp_path / "v.nii")})
    assert (caught.value.where, caught.value.got) == ("image", "16.7 degrees off")
    assert "--correct_tilt" not in str(caught.value.mend)
