# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``scripts/prepare_training_data.py`` splits a volume by region, with a gap, where a subject has one volume."""

from __future__ import annotations

import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/prepare_training_data.py"


@pytest.mark.parametrize(("axis", "folder", "spacing"), [(2, "microct", 1.0), (0, "mr_other", 0.5)])
def test_regions_do_not_touch_and_share_one_scale(tmp_path: Path, axis: int, folder: str, spacing: float) -> None:
    x = np.random.default_rng(axis).uniform(50.0, 80.0, (24, 22, 20)).astype(np.float32)
    (tmp_path / folder).mkdir()
    nib.save(nib.Nifti1Image(x, np.diag([0.5, 0.5, 0.5, 1.0])), tmp_path / folder / "x.nii.gz")
    script = runpy.run_path(str(SCRIPT))
    sections = script["prepare_scans"](script["regions"](f"{folder}/x", axis, 10, 13, 19, air=30.0), tmp_path, tmp_path)
    scaled = (x - 30.0) / np.percentile(x - 30.0, 99.5)
    for section, region in (("training", slice(0, 10)), ("validation", slice(13, 19))):
        (row,) = sections[section]
        assert row["spacing"] == [spacing] * 3  # of a material in voxels of the scan
        expected = scaled[(slice(None),) * axis + (region,)]
        np.testing.assert_allclose(np.load(tmp_path / row["file"]), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["BODY_MR", "MATERIALS"])
def test_no_voxel_both_trains_and_validates(name: str) -> None:
    scans = runpy.run_path(str(SCRIPT))[name]
    for trained in (s for s in scans if not s.validation):
        for kept in (s for s in scans if s.validation and s.file == trained.file):
            assert trained.part is not None  # a whole subject is on one side
            assert trained.part[0] == kept.part[0]
            assert kept.part[1] - trained.part[2] >= 4
