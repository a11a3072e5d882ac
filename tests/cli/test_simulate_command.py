# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon simulate``, and its file through ``monai.bundle run``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError, PluginError
from monai_diffrecon.io.measurement.file import read_measurement, write_measurement
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.provenance import verify_record

SHAPE = (16, 14, 12)
AFFINE = np.array([[1.0, 0, 0, -9], [0, np.cos(0.2), -np.sin(0.2), 5], [0, np.sin(0.2), np.cos(0.2), 2], [0, 0, 0, 1]])
PATIENT = "Doe_John_19700101"
CT = ["--operator", "parallel_ct", "--set", "views=20"]
MRI = ["--operator", '{"name": "cartesian_mri", "mask_type": "gaussian1d"}', "--set", "acceleration=2"]


def blob(inside: float, outside: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = sum(a.square() for a in axes)
    return torch.where(radius < 0.7, inside + 0.2 * inside * torch.cos(4 * axes[0]), outside)[None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("files")
    make_bundle(root / "mr")
    make_bundle(root / "ct", intensity={"map": "window", "low": -1000.0, "high": 1000.0})
    scans = root / PATIENT
    scans.mkdir()
    write_volume(scans / "mr.nii.gz", blob(400.0, 0.0), geometry_of(SHAPE, AFFINE))
    write_volume(scans / "ct.nii.gz", blob(300.0, -1000.0), geometry_of(SHAPE, AFFINE))
    return root


def simulate(root: Path, volume: str, output: Path, *options: str) -> int:
    return cli.main(["simulate", str(root / PATIENT / volume), "--output", str(output), *options])


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run a bundle in this process, untracked; return its evaluator."""

    def run(bundle: str, task: str, **options: Any) -> Any:
        parser = ConfigParser()
        configs = root / bundle / "configs"
        parser.read_config([str(configs / "inference.json"), str(configs / f"tasks/{task}.json")])
        given = {
            "bundle_root": str(root / bundle),
            "device": "cpu",
            "output_dir": str(tmp_path / "out"),
            "evaluator#track": False,
            "sampler#steps": 2,
            "sampler#start": {"name": "admm_tv", "iterations": 10},
            **options,
        }
        parser.update(given)
        parser.get_parsed_content("run")
        return parser.get_parsed_content("evaluator")

    return run


def reason(error: BaseException, kind: type[DiffReconError]) -> DiffReconError:
    """Return the error behind those that MONAI wraps around it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__
    assert isinstance(cause, kind), repr(error)
    return cause


def test_ct_from_volume_to_volume(
    root: Path, tmp_path: Path, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "ct.h5"
    options = (*CT, "--unit", "HU", "--photons", "1e6", "--electronic-std", "5", "--seed", "3")
    assert simulate(root, "ct.nii.gz", scan, *options) == 0
    assert capsys.readouterr().out.startswith(f"{scan}: 20 x ")
    measured = read_measurement(scan)
    assert measured.operator == {"name": "parallel_ct", "views": 20}
    assert measured.unit == "HU"
    assert measured.weights is not None
    assert measured.source_sha256 == sha256_file(root / PATIENT / "ct.nii.gz")
    evaluator = run("ct", "sparse_view_ct", image=str(scan), reference=str(root / PATIENT / "ct.nii.gz"))
    (result,) = evaluator.results
    volume, geometry = read_volume(result["output"])
    np.testing.assert_allclose(affine_of(geometry), AFFINE, atol=1e-5)
    truth = blob(300.0, -1000.0)
    assert float((volume - truth).square().mean().sqrt()) < 200.0
    assert float(volume[truth == -1000.0].median()) == pytest.approx(-1000.0, abs=60.0)
    assert result["metrics"]["psnr"] > 15
    path = Path(result["output"].replace(".nii.gz", ".provenance.json"))
    verify_record(path)
    record = json.loads(path.read_text())
    assert record["source"] == {"reader": "measurement_file", "unit": "HU", "sha256": measured.source_sha256}
    assert record["config"]["operator"] == {"name": "parallel_ct", "views": 20}  # the file's, not the config's
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert all(PATIENT.encode() not in p.read_bytes() and "Doe" not in p.name for p in (*files, scan))


def test_mri_from_volume_to_volume(root: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    scan = tmp_path / "mr.h5"
    assert simulate(root, "mr.nii.gz", scan, *MRI, "--noise", "0.01") == 0
    measured = read_measurement(scan)
    assert measured.data.is_complex()
    assert measured.noise_std > 0
    # An option that is an array comes back as one: here the mask, as a scanner's file would have it.
    mask = measured.data.abs().sum((0, 3)) > 0
    operator = {"name": "cartesian_mri", "mask": mask}
    write_measurement(scan, type(measured)(measured.data, measured.geometry, operator, measured.noise_std))
    evaluator = run("mr", "accelerated_mri", dataset_dir=str(tmp_path), case_name="a", **{"evaluator#track": True})
    (result,) = evaluator.results
    volume, _ = read_volume(result["output"])
    truth = blob(400.0, 0.0)
    assert float((volume - truth).norm() / truth.norm()) < 0.25
    record = json.loads((tmp_path / "out/a_recon.provenance.json").read_text())
    assert record["config"]["operator"]["mask"].startswith("sha256:")
    assert record["source"] == {"reader": "measurement_file", "unit": "arbitrary", "sha256": None}


def test_a_volume_is_simulated_within_the_run_as_before_it(root: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    scan = tmp_path / "ct.h5"
    assert simulate(root, "ct.nii.gz", scan, *CT, "--unit", "HU", "--photons", "1e5") == 0
    common: dict[str, Any] = {"case_name": "a", "operator#views": 20}
    before = run("ct", "sparse_view_ct", image=str(scan), **common).state.output
    within = run(
        "ct",
        "sparse_view_ct",
        image=str(root / PATIENT / "ct.nii.gz"),
        simulate_photons=1e5,
        simulate_unit="HU",
        **common,
    ).state.output
    assert torch.equal(before["pred"].as_tensor(), within["pred"].as_tensor())
    assert within["metrics"]
    assert not before["metrics"]


def test_nothing_is_overwritten_unless_asked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "mr.h5"
    scan.write_text("mine")
    assert simulate(root, "mr.nii.gz", scan, *MRI) == 2
    assert capsys.readouterr().err == "error: mr.h5: the file exists. Fix: choose another name, or use --force\n"
    assert scan.read_text() == "mine"
    assert simulate(root, "mr.nii.gz", scan, *MRI, "--force") == 0
    assert read_measurement(scan).operator is not None


@pytest.mark.parametrize(
    ("volume", "options", "message"),
    [
        ("none.nii", MRI, "none.nii: no such file or folder"),
        ("mr.nii.gz", ["--operator", "{oops"], "--operator: not JSON"),
        ("mr.nii.gz", ["--operator", "parallel"], "operator: unknown operator 'parallel'"),
        ("mr.nii.gz", ["--operator", "parallel_ct", "--set", "view=3"], "operator#view: ParallelCT has no option"),
        ("mr.nii.gz", ["--operator", "parallel_ct", "--set", "views"], "--set: not a declaration"),
        ("mr.nii.gz", [*CT, "--photons", "1e5"], "simulate_photons: photon counts need"),
        ("mr.nii.gz", [*CT, "--unit", "hu"], "simulate_unit: unknown choice"),
        ("mr.nii.gz", [*MRI, "--unit", "HU"], "operator CartesianMRI: a complex measurement of a volume in HU"),
        ("mr.nii.gz", [*MRI, "--reader", "measurement_file"], "mr.nii.gz: not an HDF5 file"),
        ("mr.nii.gz", [*MRI, "--output", "scan.nii"], "--output: not the name of a measurement file"),
    ],
)
def test_what_a_user_did_wrong_is_one_line(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    volume: str,
    options: list[str],
    message: str,
) -> None:
    assert simulate(root, volume, tmp_path / "scan.h5", *options) in (ConfigError.exit_code, 7)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert "Doe" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_is_not_simulated_from(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(root, "mr.nii.gz", tmp_path / "mr.h5", *MRI) == 0
    assert cli.main(["simulate", str(tmp_path / "mr.h5"), "--output", str(tmp_path / "again.h5"), *MRI]) == 2
    assert "mr.h5: a measurement instead of a volume; got data of cartesian_mri" in capsys.readouterr().err


def test_bad_files_stop_the_run_in_one_line(root: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    scan, bad = tmp_path / "ct.h5", tmp_path / "bad.h5"
    assert simulate(root, "ct.nii.gz", scan, *CT, "--unit", "HU") == 0

    def refusal(kind: type[DiffReconError], **options: Any) -> str:
        with pytest.raises((RuntimeError, DiffReconError)) as caught:
            run("ct", "sparse_view_ct", image=str(bad), **options)
        error = str(reason(caught.value, kind))
        assert "\n" not in error
        assert str(tmp_path) not in error
        return error

    bad.write_bytes(scan.read_bytes()[:3000])
    assert "image: cannot be read as HDF5" in refusal(InputError)
    bad.write_bytes(b"not HDF5")
    assert "image: not recognized by any reader; expected a scan for " in refusal(InputError)
    assert "image: not an HDF5 file" in refusal(InputError, reader="measurement_file")
    bad.write_bytes(scan.read_bytes())
    with h5py.File(bad, "a") as file:
        file["data"][0, 0, 0] += 1
    assert "image#data: the data were changed" in refusal(IntegrityError)
    bad.write_bytes(scan.read_bytes())
    with h5py.File(bad, "a") as file:
        file.attrs["schema_version"] = 2
    assert "a newer version of the format" in refusal(InputError)
    measured = read_measurement(scan)
    write_measurement(bad, type(measured)(measured.data[:, 1:].clone(), measured.geometry, measured.operator))
    assert refusal(InputError).startswith(
        "operator parallel_ct: measurement of the wrong shape (views, detectors, Z); expected (20, "
    )
    write_measurement(bad, type(measured)(measured.data, measured.geometry, {"name": "no_such_operator"}))
    assert "unknown operator 'no_such_operator'" in refusal(PluginError)


def test_a_measurement_is_no_reference(root: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    scan = tmp_path / "ct.h5"
    assert simulate(root, "ct.nii.gz", scan, *CT, "--unit", "HU") == 0
    with pytest.raises(RuntimeError) as caught:
        run("ct", "sparse_view_ct", image=str(scan), reference=str(scan))
    assert "reference: a measurement instead of a volume" in str(reason(caught.value, InputError))
