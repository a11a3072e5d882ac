# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where a NIfTI header says its voxels lie: units, sform against qform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.engine.transforms.load_measurement import LoadVolumed
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import Measurement

AFFINE = np.array([[0.8, 0, 0, -20], [0, 0.9, 0, 7], [0, 0, 3.0, 40], [0, 0, 0, 1]])
SHAPE = (12, 11, 6)


def saved(path: Path, sform: np.ndarray = AFFINE, qform: np.ndarray | None = None, **header: Any) -> Measurement:
    image = header.pop("kind", nib.Nifti1Image)(np.random.default_rng(0).random(SHAPE, np.float32), sform)
    image.set_sform(sform, code=header.pop("sform_code", 1))
    image.set_qform(sform if qform is None else qform, code=header.pop("qform_code", 1))
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return read_scan(path)[1]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("code", "in_mm"), [(3, 0.001), (1, 1000.0), (2, 1.0), (0, 1.0), (10, 1.0)])
def test_the_unit_of_length_is_honoured(tmp_path: Path, code: int, in_mm: float, kind: Any) -> None:
    """Code 10 is mm and seconds."""
    given = AFFINE.copy()
    given[:3] /= in_mm
    measured = saved(tmp_path / "v.nii.gz", given, xyzt_units=code, kind=kind)
    np.testing.assert_allclose(affine_of(measured.geometry), AFFINE, rtol=1e-5)
    np.testing.assert_allclose(measured.geometry.spacing, (0.8, 0.9, 3.0), rtol=1e-5)
    assert len(measured.notices) == (0 if in_mm == 1.0 else 1)
    assert all("unit of length" in line for line in measured.notices)
    # What is written says mm.
    write_volume(tmp_path / "out.nii", measured.data, measured.geometry)
    assert nib.load(tmp_path / "out.nii").header.get_xyzt_units()[0] == "mm"


def test_units_that_cannot_be_are_said(tmp_path: Path) -> None:
    (line,) = saved(tmp_path / "v.nii", xyzt_units=5).notices
    assert "code 5" in line
    tiny = AFFINE.copy()
    tiny[:3] *= 1e-3
    (line,) = saved(tmp_path / "v.nii", tiny, xyzt_units=2).notices
    assert "0.0008 x 0.0009 x 0.003 mm" in line
    assert any("800 x 900" in line for line in saved(tmp_path / "v.nii", xyzt_units=1).notices)


def moved(mm: float) -> np.ndarray:
    other = AFFINE.copy()
    other[1, 3] += mm
    return other


@pytest.mark.parametrize(("mm", "said"), [(0.0, False), (0.05, False), (0.3, True), (12.0, True)])
def test_which_of_sform_and_qform_is_used_is_said(tmp_path: Path, mm: float, said: bool) -> None:
    measured = saved(tmp_path / "v.nii", AFFINE, moved(mm))
    np.testing.assert_allclose(affine_of(measured.geometry), AFFINE, rtol=1e-6)
    assert len(measured.notices) == said
    if said:
        (line,) = measured.notices
        assert f"up to {mm:g} mm" in line
        assert "the sform is used" in line


def test_a_difference_that_grows_with_the_distance_is_measured_at_the_corners(tmp_path: Path) -> None:
    larger = AFFINE.copy()
    larger[2, 2] = 3.3
    (line,) = saved(tmp_path / "v.nii", AFFINE, larger).notices
    assert "up to 1.5 mm" in line  # 5 slices, 0.3 mm each


def test_forms_of_code_0_contradict_nothing(tmp_path: Path) -> None:
    qform_only = saved(tmp_path / "v.nii", AFFINE, moved(12.0), sform_code=0)
    assert affine_of(qform_only.geometry)[1, 3] == pytest.approx(19.0)
    assert qform_only.notices == ()
    sform_only = saved(tmp_path / "v.nii", AFFINE, moved(12.0), qform_code=0)
    assert affine_of(sform_only.geometry)[1, 3] == pytest.approx(7.0)
    assert sform_only.notices == ()
    (line,) = saved(tmp_path / "v.nii", AFFINE, sform_code=0, qform_code=0).notices
    assert "no orientation" in line


def test_a_mirrored_form_is_a_warning(tmp_path: Path) -> None:
    mirrored = AFFINE.copy()
    mirrored[0, 0], mirrored[0, 3] = -0.8, -20 + 0.8 * 11  # the same box, left and right swapped
    (line,) = saved(tmp_path / "v.nii", AFFINE, mirrored).notices
    assert line.startswith("WARNING")
    assert "left and right" in line
    assert "sform is used" in line


def test_a_damaged_qform_stops_nothing(tmp_path: Path) -> None:
    (line,) = saved(tmp_path / "v.nii", quatern_b=float("nan")).notices
    assert "qform is damaged" in line


def test_what_is_to_be_said_of_a_reference_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path / "secret.nii", AFFINE, moved(12.0))
    LoadVolumed(["reference"])({"reference": str(tmp_path / "secret.nii"), "case": "one"})
    (record,) = caplog.records
    assert record.getMessage().startswith("case one: reference: the header's sform and qform differ by up to 12 mm")
    assert "secret" not in caplog.text
