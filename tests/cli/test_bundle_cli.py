# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bundles through ``monai.bundle run``: once as a user types it, and its options in this process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

#: A sagittal acquisition, tilted by 0.2: thick slices of 4 mm, stored as LPS.
C, S = np.cos(0.2), np.sin(0.2)
THICK = np.array([[-1.0, 0, 0, 12], [0, -C, -4 * S, 7], [0, -S, 4 * C, 40], [0, 0, 0, 1]])
SHAPE = (18, 15, 4)
PATIENT = "Canaryman_John_19700101"


def array(*shape: int) -> np.ndarray:
    """Blobs, in hundreds."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    """Two bundles, a thick scan and a thin one."""
    root = tmp_path_factory.mktemp("bundles")
    make_bundle(root / "axial")
    make_bundle(root / "coronal", plane="coronal", seed=1)
    nib.save(nib.Nifti1Image(array(*SHAPE), THICK), root / f"{PATIENT}.nii.gz")
    thin = np.diag([1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(array(16, 14, 12), thin), root / "thin.nii.gz")
    return root


@pytest.fixture(scope="module")
def reconstructed(
    root: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], Path]
) -> subprocess.CompletedProcess[str]:
    """The command as the README has it, from another folder."""
    empty_store(root / "out")
    command = [sys.executable, "-m", "monai.bundle", "run"]
    options = {
        "config_file": str(root / "axial/configs/inference.json"),
        "bundle_root": str(root / "axial"),
        "auxiliary_bundle": "../coronal",
        "image": str(root / f"{PATIENT}.nii.gz"),
        "output_dir": str(root / "out"),
        "sampler#steps": "3",
    }
    for name, value in options.items():
        command += [f"--{name}", value]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DIFFRECON_CASE_KEY": "secret", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=220
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(elsewhere.iterdir()) == []
    return done


@pytest.fixture(scope="module")
def output(root: Path, reconstructed: object) -> Path:
    (path,) = (root / "out").glob("*_recon.nii.gz")
    assert re.fullmatch("case-[0-9a-f]{16}_recon.nii.gz", path.name)
    return path


@pytest.mark.slow
def test_the_volume_lies_where_the_scan_lies(root: Path, output: Path) -> None:
    image = nib.load(output)
    assert image.shape == (18, 15, 16)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (1, 1, 1), atol=1e-5)
    # Both images begin and end at the same faces: compare the corners of the first and the last voxel in the world.
    scan = nib.as_closest_canonical(nib.load(root / f"{PATIENT}.nii.gz"))
    for corner in ((0, 0, 0), (1, 1, 1), (1, 0, 1)):
        ends = [loaded.affine @ [*(np.array(corner) * loaded.shape - 0.5), 1] for loaded in (image, scan)]
        np.testing.assert_allclose(*ends, atol=1e-4)


@pytest.mark.slow
def test_the_volume_explains_the_scan(root: Path, output: Path) -> None:
    volume, geometry = read_volume(output)
    scan, _ = read_volume(root / f"{PATIENT}.nii.gz")
    measured = SliceThickness(geometry, thickness=4.0)(volume)
    assert float((measured - scan).norm() / scan.norm()) < 0.01


def test_the_record_verifies_and_names_both_bundles(output: Path) -> None:
    path = output.with_name(output.name.replace(".nii.gz", ".provenance.json"))
    verify_record(path)
    record = json.loads(path.read_text())
    assert list(record["weights"]) == ["axial 0.1.0", "coronal 0.1.0"]
    assert record["config"]["prior"]["name"] == "perpendicular"
    assert record["config"]["operator"]["thickness"] == pytest.approx(4.0, abs=1e-5)
    assert len(record["report"]["steps"]) == 3


def test_its_run_is_in_mlflow(root: Path, output: Path) -> None:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{root}/out/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    name = output.name.removesuffix("_recon.nii.gz")
    assert {run.info.run_name: run.info.status for run in runs} == {name: "FINISHED"}


def test_nothing_names_the_patient(root: Path, reconstructed: Any) -> None:
    files = [path for path in (root / "out").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for name in ("Canaryman", "19700101"):
        assert all(name not in str(p.relative_to(root)) and name.encode() not in p.read_bytes() for p in files)


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Run the axial bundle in this process, untracked; return its evaluator."""

    def run(*tasks: str, **options: Any) -> Any:
        parser = ConfigParser()
        configs = root / "axial" / "configs"
        parser.read_config([str(configs / "inference.json"), *(str(configs / "tasks" / f"{t}.json") for t in tasks)])
        given = {
            "bundle_root": str(root / "axial"),
            "device": "cpu",
            "output_dir": str(tmp_path / "out"),
            "image": str(root / "thin.nii.gz"),
            "evaluator#track": False,
            **options,
        }
        parser.update(given)
        parser.get_parsed_content("run")
        return parser.get_parsed_content("evaluator")

    return run


@pytest.mark.parametrize("task", ["z_super_resolution", "accelerated_mri", "sparse_view_ct"])
def test_every_task_is_simulated_and_scored(run: Callable[..., Any], task: str) -> None:
    options: dict[str, Any] = {"sampler#steps": 2, "simulate_noise": 0.01}
    if task == "z_super_resolution":
        options["operator#thickness"] = 4.0
    else:
        options["operator#acceleration" if task == "accelerated_mri" else "operator#views"] = 4
    (result,) = run(task, **options).results
    assert result["metrics"]["psnr"] > 12
    assert read_volume(result["output"])[0].shape == (1, 16, 14, 12)


def test_the_auxiliary_bundle_makes_the_prior_perpendicular(run: Callable[..., Any]) -> None:
    options = {"operator#thickness": 4.0, "sampler#steps": 2, "case_name": "a"}
    alone = run("z_super_resolution", **options).state.output
    both = run("z_super_resolution", auxiliary_bundle="../coronal", **options).state.output
    assert [o["report"].options["prior"]["name"] for o in (alone, both)] == ["slices", "perpendicular"]
    assert not torch.allclose(alone["pred"].as_tensor(), both["pred"].as_tensor(), atol=0.1)


def test_same_seed_same_voxels(run: Callable[..., Any]) -> None:
    sampler = {"name": "ddim", "steps": 2, "sigma_start": 0.5}
    volumes = [
        run("z_super_resolution", **{"operator#thickness": 4.0}, sampler=sampler, seed=seed, case_name="a").state.output
        for seed in (1, 1, 2)
    ]
    first, again, other = (v["pred"].as_tensor() for v in volumes)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_another_voxel_size_is_resampled_when_asked(run: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    scan = tmp_path / "coarse.nii.gz"
    nib.save(nib.Nifti1Image(array(9, 15, 4), np.diag([1.4, 1, 4, 1])), scan)
    with pytest.raises(RuntimeError) as caught:
        run(image=str(scan))
    assert "axial network was trained on" in str(reason(caught.value, ConfigError))
    (result,) = run(image=str(scan), resample=True, **{"sampler#steps": 2}).results
    volume, geometry = read_volume(result["output"])
    np.testing.assert_allclose(geometry.spacing, (1, 1, 1), atol=1e-5)
    assert volume.shape[2:] == (15, 16)
    assert volume.shape[1] == 13  # 12.6 mm


def reason(error: BaseException, kind: type[DiffReconError]) -> DiffReconError:
    """Return the error behind those that MONAI wraps around it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__
    assert isinstance(cause, kind), repr(error)
    return cause


@pytest.mark.parametrize(
    ("options", "where", "nearest"),
    [
        ({"sampler#stepz": 3}, "sampler#stepz", "steps"),
        ({"operator#thicknes": 3}, "operator#thicknes", "thickness"),
    ],
)
def test_a_mistyped_option_is_found_before_the_scan_is_read(
    run: Callable[..., Any], tmp_path: Path, options: dict[str, Any], where: str, nearest: str
) -> None:
    junk = tmp_path / "junk.nii.gz"
    junk.write_bytes(b"not a scan")
    with pytest.raises(RuntimeError) as caught:
        run(image=str(junk), **options)
    error = reason(caught.value, ConfigError)
    assert error.where == where
    assert error.mend == f"did you mean {nearest!r}?"
    with pytest.raises(RuntimeError) as caught:
        run(image=str(junk))
    assert reason(caught.value, InputError).where.endswith(": image")


def test_changed_weights_stop_the_run(
    run: Callable[..., Any], tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(tmp_path / "changed")
    with (bundle / "models/model.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RuntimeError) as caught:
        run(bundle_root=str(bundle))
    assert reason(caught.value, IntegrityError).exit_code == 4
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.nii.gz"))


def test_nothing_to_reconstruct(run: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(image=None)
    assert reason(caught.value, InputError).where == "image, dataset_dir"


def test_what_a_user_did_wrong_is_one_line_and_an_exit_code(
    root: Path, tmp_path: Path, python_m: Callable[..., Any]
) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"not a scan")
    axial = root / "axial"
    words = ["run", "--config_file", axial / "configs/inference.json", "--bundle_root", axial]
    done = python_m("monai.bundle", *words, "--image", tmp_path / "scan.nii.gz", "--output_dir", tmp_path / "out")
    assert done.returncode == InputError.exit_code
    assert [line[:6] for line in done.stderr.splitlines() if "rror" in line] == ["error:"]
    assert "Traceback" not in done.stderr


def test_thick_sagittal_slices_are_reconstructed_along_x(run: Callable[..., Any], tmp_path: Path) -> None:
    thick = array(4, 15, 13)
    nib.save(nib.Nifti1Image(thick, np.diag([4.8, 1.016, 1.016, 1])), tmp_path / "sagittal.nii.gz")
    options = {"image": str(tmp_path / "sagittal.nii.gz"), "operator#gap": 0.8, "sampler#steps": 3}
    for more in ({}, {"auxiliary_bundle": "../coronal"}):
        (result,) = run(**options, **more).results
        volume, geometry = read_volume(result["output"])
        assert volume.shape == (1, 19, 15, 13)
        np.testing.assert_allclose(geometry.spacing, (1.0, 1.016, 1.016), atol=1e-5)
        for number in range(4):  # 4 mm from every 4.8 mm on
            first = 4.8 * number
            shares = [max(0.0, min(k + 1, first + 4) - max(k, first)) / 4 for k in range(19)]
            mean = sum(share * volume[0, k].numpy() for k, share in enumerate(shares))
            np.testing.assert_allclose(mean, thick[number], atol=2.0)
