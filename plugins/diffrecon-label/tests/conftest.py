# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scan of thick slices, as a file and as a DICOM series."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.io.dicom.writer import write_series
from monai_diffrecon.io.measurement.metatensor import geometry_of

# The environment of the other packages does not have this one; what needs no MONAI Label is tested there too.
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "diffrecon-slicer")]

#: The shipped bundles.
BUNDLES = Path(__file__).parents[3] / "bundles"
#: Slices of 5 mm, oblique: a slice is turned by 20 degrees about the x axis.
_TURN = np.deg2rad(20.0)
AFFINE = np.array(
    [
        [1.0, 0, 0, -12],
        [0, np.cos(_TURN), -5 * np.sin(_TURN), 7],
        [0, np.sin(_TURN), 5 * np.cos(_TURN), -20],
        [0, 0, 0, 1],
    ]
)


@pytest.fixture(scope="session")
def bundles() -> Path:
    return BUNDLES


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scan as ``scan.nii.gz`` and as the series ``1.2.3``, whose name looks like an extension."""
    folder = tmp_path_factory.mktemp("studies")
    y, x = np.mgrid[0:24, 0:24] / 24.0
    voxels = np.stack([400 * np.sin(3 * x + z) ** 2 + 300 * y for z in range(4)], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), folder / "scan.nii.gz")
    placed = geometry_of(voxels.shape, AFFINE)
    write_series(
        folder / "1.2.3", torch.from_numpy(voxels[None]), placed, case="P1", template={"Modality": "MR"}, entropy="1"
    )
    return folder
