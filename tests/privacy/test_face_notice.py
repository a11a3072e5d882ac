# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.privacy.faces import FACE_NOTICE, face_notice

EXAMPLE = Path(__file__).parents[2] / "examples/colin27_t1.nii.gz"


@pytest.mark.parametrize(
    ("anatomy", "notice"), [(None, FACE_NOTICE), ("head", FACE_NOTICE), ("brain", FACE_NOTICE), ("body", None)]
)
def test_whole_heads_are_told_and_bodies_not_asked(anatomy: str | None, notice: str | None) -> None:
    volume, geometry = read_volume(EXAMPLE)
    assert face_notice(volume, geometry.spacing, anatomy) == notice
    assert face_notice(volume[:, :, :, 100:], geometry.spacing, anatomy) is None
