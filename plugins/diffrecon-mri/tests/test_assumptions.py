# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What raw files do not say is said: orientation, voxel size, distance of the slices."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from diffrecon_mri.simulate import write_fastmri, write_ismrmrd
from monai_diffrecon import registry

VOLUME = torch.rand((20, 18, 3), generator=torch.Generator().manual_seed(0)) + 0.1j


@pytest.mark.parametrize("axes", [None, "RAS", "PRS", "SAL"])
@pytest.mark.parametrize("header", [True, False])
def test_fastmri(tmp_path: Path, axes: str | None, header: bool) -> None:
    path = tmp_path / "scan.h5"
    over = 2.0 if header else 1.0
    write_fastmri(path, VOLUME, axes=axes or "RAS", spacing=(1.1, 1.2, 3.0), header=header, oversampling=over)
    m = registry.create("readers", "fastmri", **({} if axes is None else {"axes": axes})).read(path)
    assert (m.geometry.affine is None) == (axes is None)
    assert any("orientation" in line and "axes" in line for line in m.notices) == (axes is None)
    assert any(": 1 mm is assumed" in line for line in m.notices) == (not header)
    thickness = {None: "3", "RAS": "3", "PRS": "3", "SAL": "1.1"}[axes]
    assert any(f"{thickness} mm is assumed" in line and "slices" in line for line in m.notices) == header
    assert not any(str(tmp_path) in line or "scan" in line for line in m.notices)
    np.testing.assert_allclose(m.geometry.spacing, (1.1, 1.2, 3.0) if header else (1, 1, 1), rtol=1e-5)


def test_ismrmrd_says_it_or_it_stays_unknown(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, VOLUME, affine=np.diag([1.1, 1.2, 3.0, 1.0]), axes="PRS")
    m = registry.create("readers", "ismrmrd").read(path)
    np.testing.assert_allclose(np.asarray(m.geometry.affine), np.diag([1.1, 1.2, 3.0, 1.0]), atol=1e-5)
    assert m.notices == ()
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        for name in ("read_dir", "phase_dir", "slice_dir"):
            table["head"][name] = 0
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=True)
    m = registry.create("readers", "ismrmrd").read(path)
    assert m.geometry.affine is None
    assert any("orientation" in line for line in m.notices)
