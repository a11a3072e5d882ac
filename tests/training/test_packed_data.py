# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes cut down for another machine are read as the whole ones are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_diffrecon.training import SlicePatches

SCRIPT = Path(__file__).parents[2] / "scripts" / "pack_training_data.py"


@pytest.mark.parametrize("mebibytes", [0.5, 100.0])
def test_what_is_packed_fits_and_is_read(tmp_path: Path, mebibytes: float) -> None:
    whole, packed = tmp_path / "whole", tmp_path / "packed"
    whole.mkdir()
    shapes = {"large.npy": (90, 100, 80), "thick.npy": (120, 110, 12), "small.npy": (30, 20, 25)}
    rows = []
    for index, (file, shape) in enumerate(shapes.items()):
        np.save(whole / file, np.random.default_rng(index).random(shape).astype(np.float16))
        rows.append({"file": file, "planes": ["axial"], "spacing": [1.0, 1.0, 2.0]})
    (whole / "datalist.json").write_text(json.dumps({"training": rows[:2], "validation": rows[2:]}))
    subprocess.run([sys.executable, SCRIPT, whole, packed, "--mebibytes", str(mebibytes)], check=True)
    assert sum(path.stat().st_size for path in packed.glob("*.npy")) <= mebibytes * 2**20
    for file, shape in shapes.items():
        box, volume = np.load(packed / file), np.load(whole / file)
        offset = [(n - m) // 2 for n, m in zip(shape, box.shape, strict=True)]
        inside = tuple(slice(o, o + m) for o, m in zip(offset, box.shape, strict=True))
        assert np.array_equal(box, volume[inside])
        assert (box.shape == shape) == (mebibytes > 1 or file == "small.npy")
    patches = SlicePatches(str(packed / "datalist.json"), "axial", patch_size=32, length=3)
    assert patches[0].shape == (1, 32, 32)
