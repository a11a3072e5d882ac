# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd, LoadVolumed
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import from_tensor, geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import Measurement

from ...raising import raises

GEOMETRY = geometry_of((4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe_John"
    folder.mkdir()
    write_volume(folder / "Doe.nii", torch.rand(1, 4, 5, 6), GEOMETRY)
    operator = {"name": "parallel_ct", "views": 3}
    write_measurement(folder / "Doe.h5", Measurement(torch.rand(3, 10, 6), GEOMETRY, operator, 0.1, unit="HU"))
    return folder


def test_images_and_measurements_go_through_the_loader(scans: Path) -> None:
    cases = [{"image": str(scans / name)} for name in ("Doe.nii", "Doe.h5")]
    loader = DataLoader(Dataset(cases, LoadMeasurementd(["image"])), batch_size=1, num_workers=0)
    image, measured = (from_tensor(batch["image"][0]) for batch in loader)
    assert image.operator is None
    np.testing.assert_allclose(image.geometry.spacing, (1, 2, 3))
    assert measured.operator == {"name": "parallel_ct", "views": 3}
    assert (measured.data.shape, measured.unit, measured.noise_std) == ((3, 10, 6), "HU", 0.1)
    assert [batch["image_reader"] for batch in loader] == [["nifti"], ["measurement_file"]]


def test_nothing_else_travels_along(scans: Path) -> None:
    out = LoadMeasurementd(["image"])({"image": str(scans / "Doe.h5"), "case": "a"})
    assert out.keys() == {"image", "image_reader", "case"}
    assert isinstance(out["image"], MetaTensor)
    assert "Doe" not in str(out["image"].meta)


@pytest.mark.parametrize(
    "scan",
    [np.zeros((4, 5, 6)), ["a.nii"], None, "", torch.zeros(1, 0, 8, 8)],
    ids=["array", "list", "none", "empty", "no voxels"],
)
def test_what_is_neither_a_path_nor_an_image_is_refused(scan: Any) -> None:
    with raises(InputError, where="image"):
        LoadMeasurementd(["image"])({"image": scan})


def test_a_reader_by_name(scans: Path) -> None:
    load = LoadMeasurementd(["image"], reader={"name": "measurement_file"})
    assert load({"image": str(scans / "Doe.h5")})["image_reader"] == "measurement_file"
    with raises(InputError, where="image"):
        load({"image": str(scans / "Doe.nii")})
    with pytest.raises(KeyError):
        load({})
    assert LoadMeasurementd(["image"], allow_missing_keys=True)({}) == {}


def test_a_reference_is_a_volume(scans: Path) -> None:
    load = LoadVolumed(["reference"], allow_missing_keys=True)
    volume = load({"reference": str(scans / "Doe.nii")})["reference"]
    assert volume.shape == (1, 4, 5, 6)
    np.testing.assert_allclose(volume.affine, np.diag([1.0, 2.0, 3.0, 1.0]))
    assert load({}) == {}
    with raises(InputError, where="reference", got="data of parallel_ct"):
        load({"reference": str(scans / "Doe.h5")})


def test_errors_name_the_case(scans: Path) -> None:
    (scans / "Doe.nii").write_bytes(b"junk")
    for key, transform in (("image", LoadMeasurementd(["image"])), ("reference", LoadVolumed(["reference"]))):
        with raises(InputError, where=f"case c-1: {key}", got=...) as caught:
            transform({key: str(scans / "Doe.nii"), "case": "c-1"})
        assert "Doe" not in str(caught.value)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    with raises(InputError, where="case c-1: reference", got="data of parallel_ct"):
        LoadVolumed(["reference"])({"reference": str(scans / "Doe.h5"), "case": "c-1"})
