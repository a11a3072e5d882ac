# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon check BUNDLE --image SCAN`` says what a run says, before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.errors.uncaught import users_error
from monai_diffrecon.io.nifti_reader import NIfTIReader
from monai_diffrecon.protocols import Measurement


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("checked")
    make_bundle(root / "axial")
    make_bundle(root / "coronal", plane="coronal", seed=1)
    make_bundle(root / "wide", plane="coronal", seed=1, spacing=[1.0, 2.0])
    make_bundle(root / "ct", intensity={"map": "window", "low": -1000.0, "high": 1000.0})
    for name, spacing, shape in (("thick", (1, 1, 3), (16, 14, 4)), ("coarse", (1.4, 1.4, 3), (16, 14, 4))):
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        blob = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
        nib.save(nib.Nifti1Image(blob, np.diag([*spacing, 1.0])), root / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.full((16, 14, 12), 7, np.float32), np.eye(4)), root / "constant.nii.gz")
    (root / "junk.nii.gz").write_bytes(b"junk")
    return root


def error_of_run(root: Path, out: Path, bundle: str, image: str, task: str | None, **options: Any) -> DiffReconError:
    """Return what a run raises; nothing was written."""
    configs, parser = root / bundle / "configs", ConfigParser()
    parser.read_config([str(configs / "inference.json"), *([str(configs / f"tasks/{task}.json")] if task else [])])
    given = {"bundle_root": str(root / bundle), "device": "cpu", "output_dir": str(out), "case_name": "check"}
    parser.update({**given, "image": str(root / image), "evaluator#track": False, **options})
    with pytest.raises((RuntimeError, DiffReconError)) as caught:
        parser.get_parsed_content("run")
    error = users_error(caught.value)
    assert error is not None, caught.value
    assert not list(out.rglob("*.nii.gz"))
    return error


REFUSED: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("axial", "coarse.nii.gz", None, {}),
    ("axial", "thick.nii.gz", None, {"operator#thickness": 5}),
    ("axial", "thick.nii.gz", None, {"auxiliary_bundle": "../wide"}),
    ("axial", "constant.nii.gz", "z_super_resolution", {"operator#thickness": 3}),
    ("axial", "thick.nii.gz", None, {"sampler#sigma_start": 50.0}),
    ("axial", "thick.nii.gz", None, {"prior": {"name": "perpendicular"}}),
    ("axial", "thick.nii.gz", None, {"consistency": {"name": "admm_iterate", "back_projection": "published"}}),
    ("axial", "junk.nii.gz", None, {}),
    ("axial", "none.nii.gz", None, {}),
    ("axial", "thick.nii.gz", None, {"reader": "dicom"}),
    ("axial", "thick.nii.gz", None, {"simulate_photons": 100, "simulate": True}),
    ("ct", "thick.nii.gz", "sparse_view_ct", {"simulate_unit": "1/mm", "operator#views": 3}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "image", "task", "options"), REFUSED)
def test_what_a_run_refuses_is_foreseen(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bundle: str,
    image: str,
    task: str | None,
    options: dict[str, Any],
) -> None:
    expected = error_of_run(root, tmp_path, bundle, image, task, **options)
    words = ["check", str(root / bundle), "--image", str(root / image), *(["--task", task] if task else [])]
    auxiliary = options.pop("auxiliary_bundle", None)
    words += [] if auxiliary is None else ["--auxiliary_bundle", auxiliary]
    for name, value in options.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    capsys.readouterr()
    assert cli.main(words) == expected.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    if image != "none.nii.gz":  # said in other words where paths are looked at
        assert expected.what in line
        assert expected.got is None or " ".join(str(expected.got).split())[:40] in line


@pytest.mark.slow
def test_what_would_run_is_described_with_its_notices(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = NIfTIReader.read

    def noticing(self: NIfTIReader, path: Path) -> Measurement:
        return replace(read(self, path), notices=("two of its headers disagree",))

    monkeypatch.setattr(NIfTIReader, "read", noticing)
    assert cli.main(["check", str(root / "axial"), "--image", str(root / "thick.nii.gz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("the scan would be reconstructed: 16 x 14 x 12 voxels of 1 x 1 x 1 mm, unit arbitrary")
    assert lines[start + 1] == "notice: two of its headers disagree"
    assert lines[start + 2].startswith("notice: only axial slices")
    assert any(line.startswith("memory: roughly ") for line in lines[start + 2 :])
    resampled = ["--set", "resample=true", "--auxiliary_bundle", "../coronal"]
    assert cli.main(["check", str(root / "axial"), "--image", str(root / "coarse.nii.gz"), *resampled]) == 0
    assert " voxels of 1 x 1 x 1 mm" in capsys.readouterr().out
