# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scan of which it is not known how it lies is written without an orientation, and not as DICOM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset

from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.dicom.writer import write_series
from monai_diffrecon.io.measurement.file import read_measurement, write_measurement
from monai_diffrecon.io.measurement.metatensor import from_tensor, geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import Measurement, VolumeGeometry

from ...raising import raises
from ..tiny_networks import CORONAL, SCORE

GEOMETRY = VolumeGeometry((10, 8, 3), (0.7, 0.8, 3.0), affine=None)
VOLUME = torch.rand((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0)) + 1


def measurement(geometry: VolumeGeometry = GEOMETRY, **options: Any) -> Measurement:
    spec = {"name": "cartesian_mri", "mask": torch.ones(geometry.shape[:2]), "complex_volume": True}
    return Measurement(CartesianMRI(geometry, torch.ones(geometry.shape[:2]))(VOLUME), geometry, spec, **options)


def run(scan: Path, output: Path, **options: Any) -> ReconstructionEvaluator:
    cases = Dataset([{"image": str(scan), "case": "one"}], LoadMeasurementd(["image"]))
    inferer = DiffReconInferer(SCORE, "cartesian_mri", sampler="cg_least_squares", progress=False)
    loader = DataLoader(cases, batch_size=1, num_workers=0)
    evaluator = ReconstructionEvaluator("cpu", loader, SCORE.network, inferer, str(output), track=False, **options)
    evaluator.run()
    return evaluator


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write_measurement(tmp_path / "scan.h5", measurement())
    return tmp_path / "scan.h5"


def test_it_stays_unknown_in_tensors_and_files(scan: Path) -> None:
    assert from_tensor(to_tensor(measurement())).geometry == GEOMETRY
    assert from_tensor(to_tensor(Measurement(VOLUME, GEOMETRY))).geometry == GEOMETRY
    assert read_measurement(scan).geometry == GEOMETRY
    known = geometry_of(GEOMETRY.shape, np.diag([0.7, 0.8, 3.0, 1.0]))
    assert from_tensor(to_tensor(measurement(known))).geometry == known
    write_measurement(scan, measurement(known))
    assert read_measurement(scan).geometry == known


def test_the_output_says_no_orientation_and_keeps_the_order_of_voxels(scan: Path, tmp_path: Path) -> None:
    run(scan, tmp_path / "out")
    for part in ("recon", "phase"):
        header = nib.load(tmp_path / "out" / f"one_{part}.nii.gz").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
        np.testing.assert_allclose(header.get_zooms(), GEOMETRY.spacing)
    volume, geometry = read_volume(tmp_path / "out" / "one_recon.nii.gz")
    torch.testing.assert_close(volume, VOLUME, atol=1e-4, rtol=0)
    assert geometry.affine is None
    np.testing.assert_allclose(geometry.spacing, GEOMETRY.spacing)


def test_dicom_is_refused_before_anything_is_computed(scan: Path, tmp_path: Path) -> None:
    with raises(InputError, where="case one") as caught:
        run(scan, tmp_path / "out", output_format="both")
    assert "axes" in str(caught.value.mend)
    assert not list((tmp_path / "out").glob("one*.nii.gz"))
    with raises(InputError, where="series"):
        write_series(tmp_path / "series", VOLUME, GEOMETRY, case="one")
    assert not (tmp_path / "series").exists()


def test_nifti_without_an_orientation_stays_so(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", VOLUME, GEOMETRY)
    volume, geometry = read_volume(tmp_path / "a.nii.gz")
    assert torch.equal(volume, VOLUME)
    assert geometry.affine is None


def refusal(score: Any, measured: Measurement) -> ConfigError:
    inferer = DiffReconInferer(score, "slice_thickness", sampler={"name": "pnp_hqs", "steps": 1}, progress=False)
    with raises(ConfigError, where=f"bundle {score.name}", got=...) as caught:
        inferer.reconstruct(to_tensor(measured))
    return caught.value


def test_raw_data_of_other_voxels_name_the_reader_option() -> None:
    """Not --resample, which is refused for a measurement with its own operator."""
    mend = str(refusal(SCORE, measurement()).mend)
    assert "--reader \"{'name': 'fastmri', 'spacing': 1.0}\"" in mend
    assert "--resample" not in mend
    thick = replace(GEOMETRY, spacing=(1.0, 1.0, 3.0))
    mend = str(refusal(CORONAL, measurement(thick)).mend)
    assert "3 mm apart" in mend
    assert "spacing'" not in mend


def test_an_image_of_other_voxels_is_resampled() -> None:
    assert "--resample true" in str(refusal(SCORE, Measurement(VOLUME, GEOMETRY)).mend)
    own = Measurement(VOLUME, GEOMETRY, {"name": "slice_thickness", "thickness": 3.0})
    assert "--resample" not in str(refusal(SCORE, own).mend)
