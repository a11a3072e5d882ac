# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The code of the quick start runs as it is written, and is as short as it looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/quick_start.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A crop of the example brain as volume.nii.gz in the working directory, and the bundles where a user has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFRECON_BUNDLES", str(ROOT / "bundles"))
    image = nib.load(ROOT / "examples/colin27_t1.nii.gz").slicer[70:110, 80:120, 80:96]
    nib.save(image, "volume.nii.gz")
    return np.asarray(nib.as_closest_canonical(image).get_fdata(dtype=np.float32))


def run(block: str, longest: int) -> dict[str, Any]:
    assert len(block.strip().splitlines()) <= longest
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "quick_start", "exec"), names)
    return names


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((x - truth) ** 2))))


def test_a_tensor_in_and_an_array_out(scan: np.ndarray) -> None:
    names = run(BLOCKS[0], 10)
    volume = names["volume"]
    assert volume.shape == scan.shape
    zero_filled = names["mri"].initial(names["y"])[0].numpy()
    assert psnr(volume, scan) > psnr(zero_filled, scan) + 3
    written = nib.load("reconstruction.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), volume)
    np.testing.assert_allclose(written.affine, names["truth"].geometry.affine)


def test_a_sampler_of_ones_own(scan: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(BLOCKS[1], 25)
    assert np.asarray(names["result"]).shape == scan.shape
    assert names["result"].report.options["sampler"]["name"].endswith(":Renoised")
    assert "Renoised" in capsys.readouterr().out
    assert psnr(np.asarray(names["result"]), scan) > 20
