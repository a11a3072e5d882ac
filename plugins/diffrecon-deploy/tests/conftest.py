# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A DICOM series as a scanner writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread

from monai_diffrecon.io.dicom.writer import write_series
from monai_diffrecon.io.measurement.metatensor import geometry_of

# The environment of the other packages does not have this one; what needs no SDK is tested there too.
sys.path.append(str(Path(__file__).parents[1]))

AFFINE = np.array([[1.0, 0, 0, -4], [0, 1, 0, 6], [0, 0, 4, 10], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Return a folder with 5 slices, 4 mm apart, in the folder ``in``."""
    volume = torch.rand((1, 12, 10, 5), generator=torch.Generator().manual_seed(0)) * 100 + 20
    folder = tmp_path / "in" / "scan"
    folder.parent.mkdir()
    write_series(folder, volume, geometry_of((12, 10, 5), AFFINE), case="x", template={"Modality": "MR"}, entropy="1")
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.Manufacturer = "Doe^Jane", "4711", "Example"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        dataset.save_as(path)
    return folder
