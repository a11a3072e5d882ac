# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume on the disk from the command line: option, record, repetition, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.tracking.provenance import verify_record

pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("stored")
    make_bundle(root / "axial")
    make_bundle(root / "coronal", plane="coronal", seed=1)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 14, 4)), indexing="ij")
    blob = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), root / "thick.nii.gz")
    return root


def words(root: Path, output: Path, store: str) -> list[str]:
    given = ["--config_file", root / "axial/configs/inference.json", "--bundle_root", root / "axial"]
    given += ["--image", root / "thick.nii.gz", "--output_dir", output, "--auxiliary_bundle", root / "coronal"]
    given += ["--case_name", "a", "--sampler#steps", "2", "--evaluator#preview_every", "1", "--volume_store", store]
    return [*map(str, given), "--sampler#sigma_start", "0.3", "--evaluator#track", "false"]


@pytest.mark.slow
def test_from_the_command_line(root: Path, tmp_path: Path, python_m: Callable[..., Any]) -> None:
    store = {"name": "zarr", "slab_gb": 1e-5}
    done = python_m("monai.bundle", "run", *words(root, tmp_path / "zarr", json.dumps(store)))
    assert done.returncode == 0, done.stderr[-3000:]
    whole = python_m("monai.bundle", "run", *words(root, tmp_path / "memory", "None"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    record = verify_record(tmp_path / "zarr/a_recon.provenance.json")
    assert record["inferer"]["volume_store"] == store
    assert record["report"]["execution"]["slabs"] == 2
    assert "volume_store" not in verify_record(tmp_path / "memory/a_recon.provenance.json")["inferer"]
    parts, expected = (nib.load(tmp_path / name / "a_recon.nii.gz").get_fdata() for name in ("zarr", "memory"))
    assert np.abs(parts - expected).max() <= 0.01 * expected.max()
    assert {p.name for p in (tmp_path / "zarr").iterdir()} >= {"a_recon.nii.gz", "a_montage.png", "a"}
    assert not list((tmp_path / "zarr").glob("*checkpoint*"))
    assert len(list((tmp_path / "zarr/a/preview").iterdir())) == 2
    again = rerun(
        tmp_path / "zarr/a_recon.provenance.json", root / "thick.nii.gz", root / "axial", [str(root / "coronal")]
    )
    assert again.same


def test_refused_in_one_line(root: Path, tmp_path: Path, python_m: Callable[..., Any]) -> None:
    done = python_m("monai.bundle", "run", *words(root, tmp_path / "out", "hdf5"))
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.strip().splitlines()[-1].startswith("error: inferer#volume_store: ")
