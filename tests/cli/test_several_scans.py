# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""`diffrecon reconstruct` with several scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.cli import main as cli
from monai_diffrecon.io.measurement.file import read_measurement
from monai_diffrecon.tracking.provenance import verify_record

SIZE, THICKNESS = 24, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("several")
    make_bundle(root / "bundles/brain_mr")
    at = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
    blob = 400 * (sum(a**2 for a in at) < 90) * (1 + 0.3 * np.cos(at[0] / 2) + 0.2 * np.sin(at[1] / 3 + at[2] / 2))
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        affine = np.eye(4)
        affine[axis, axis], affine[axis, 3] = THICKNESS, (THICKNESS - 1) / 2
        thick = np.stack([part.mean(axis) for part in np.split(blob, SIZE // THICKNESS, axis)], axis)
        nib.save(nib.Nifti1Image(thick.astype(np.float32), affine), root / f"{name}.nii.gz")
    return root


@pytest.mark.slow
def test_three_stacks_make_one_volume(
    root: Path, python_m: Callable[..., Any], empty_store: Callable[[Path], Path]
) -> None:
    folder = empty_store(root / "out")
    words = ["axial.nii.gz", "coronal.nii.gz", "sagittal.nii.gz", "--output", "out", "--case", "a", "--calls", "2"]
    done = python_m(
        *("monai_diffrecon", "reconstruct", *words, "--set", "inferer.progress=false", "--device", "cpu"), cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = verify_record(folder / "a_recon.provenance.json")
    assert record["config"]["operator"]["name"] == "stacks"
    assert any("stack 3 had moved by 0.0 mm" in notice for notice in record["report"]["notices"])
    volume = nib.load(folder / "a_recon.nii.gz")
    assert volume.shape == (SIZE,) * 3
    assert np.allclose(volume.affine, np.eye(4))
    assert len(read_measurement(folder / "stacks.h5").data) == 3 * SIZE**3 // THICKNESS


def test_a_dry_run_aligns_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    words = ["axial.nii.gz", "coronal.nii.gz", "--dry-run", "--output", "nowhere", "--motion", "none"]
    assert cli.main(["reconstruct", *words]) == 0
    assert "nowhere/stacks.h5" in capsys.readouterr().out
    assert not (root / "nowhere").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["axial.nii.gz", "--motion", "slices"],
        ["axial.nii.gz", "--spacing", "2"],
        ["axial.nii.gz", "coronal.nii.gz", "--motion", "some"],
        ["axial.nii.gz", "coronal.nii.gz", "--spacing", "0"],
        ["axial.nii.gz", "no.nii.gz"],
    ],
)
def test_mistakes_are_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(root)
    assert cli.main(["reconstruct", *words, "--output", "nothing"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (root / "nothing").exists()
