# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A large volume is hashed in parts, with the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.errors import InputError
from monai_diffrecon.io import nifti
from monai_diffrecon.numerics.hashing import sha256_tensor
from monai_diffrecon.protocols import VolumeGeometry

GEOMETRY = VolumeGeometry((7, 5, 6), (1.0, 2.0, 3.0), affine=tuple(map(tuple, np.diag([1.0, 2.0, 3.0, 1.0]).tolist())))
X = torch.randn((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _every_volume_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LARGE", 0), ("_SMALL", 0), ("_PART", 65)):
        monkeypatch.setattr(nifti, name, value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("geometry", [GEOMETRY, replace(GEOMETRY, affine=None)])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_same_hash(tmp_path: Path, name: str, geometry: VolumeGeometry, dtype: str) -> None:
    nifti.write_volume(tmp_path / name, X, geometry, dtype=dtype)
    assert nifti.voxels_sha256(tmp_path / name) == sha256_tensor(nifti.read_volume(tmp_path / name)[0])


def test_a_turned_volume_is_read_as_a_whole(tmp_path: Path) -> None:
    nib.Nifti1Image(X[0].numpy(), np.diag([-1.0, 2.0, 3.0, 1.0])).to_filename(tmp_path / "a.nii")
    assert nifti.voxels_sha256(tmp_path / "a.nii") == sha256_tensor(X.flip(1))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    nifti.write_volume(tmp_path / "a.nii", X, GEOMETRY)
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-8])
    with pytest.raises(InputError):
        nifti.voxels_sha256(tmp_path / "a.nii")
