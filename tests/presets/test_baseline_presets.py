# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The classical baselines among a bundle's methods: one command, no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.presets.overlays import METHOD, overlay_path
from monai_diffrecon.protocols import Problem
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

SHAPE = (16, 14, 12)
TASKS: dict[str, dict[str, Any]] = {
    "sparse_view_ct": {"operator": {"name": "parallel_ct", "views": 12}},
    "accelerated_mri": {"operator": {"name": "cartesian_mri", "mask_type": "poisson", "acceleration": 3}},
    "z_super_resolution": {"operator": {"name": "slice_thickness", "thickness": 3.0}},
}


def truth() -> Tensor:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 0.9
    return torch.from_numpy((400 * inside * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32))[None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("baselines")
    make_bundle(root / "axial")
    nib.save(nib.Nifti1Image(truth()[0].numpy(), np.eye(4)), root / "thin.nii.gz")
    return root


@pytest.fixture
def run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a preset in this process with a network that must not be called; return the parsed configuration."""

    def called(*_: Any) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(BiasFreeUNet, "forward", called)

    def run(task: str, method: str, **options: Any) -> ConfigParser:
        parser = ConfigParser()
        configs = root / "axial" / "configs"
        files = [configs / "inference.json", configs / f"tasks/{task}.json"]
        parser.read_config([str(file) for file in (*files, overlay_path(METHOD, method, where="test"))])
        given = {
            "bundle_root": str(root / "axial"),
            "device": "cpu",
            "output_dir": str(tmp_path / "out"),
            "image": str(root / "thin.nii.gz"),
            "evaluator#track": False,
            "case_name": "a",
            **TASKS[task],
            **options,
        }
        parser.update(given)
        parser.get_parsed_content("run")
        return parser

    return run


def directly(operator: dict[str, Any], sampler: dict[str, Any], scale: float) -> Tensor:
    """Return what a sampler makes of the measurement, called by itself in the network's units."""
    made = registry.build("operators", operator, geometry=geometry_of(SHAPE))
    problem = Problem(made, made(truth()) / scale, 0.0)
    classical = registry.build("samplers", sampler)
    with torch.no_grad():
        classical.prepare(problem, sigma_min=1e-4, sigma_max=1.0)
        return classical.estimate(problem.measurement) * scale


@pytest.mark.parametrize(
    ("task", "method", "sampler"),
    [
        ("sparse_view_ct", "fbp", {"name": "initial"}),
        ("sparse_view_ct", "fdk", {"name": "initial"}),
        ("z_super_resolution", "cubic", {"name": "initial"}),
        ("sparse_view_ct", "sirt", {"name": "sirt", "iterations": 50}),
        ("z_super_resolution", "sirt", {"name": "sirt", "iterations": 50}),
        ("accelerated_mri", "cg_least_squares", {"name": "cg_least_squares", "iterations": 15}),
        ("sparse_view_ct", "admm_tv", {"name": "admm_tv", "rho": 0.1, "threshold": 0.01}),
        ("accelerated_mri", "admm_tv", {"name": "admm_tv", "rho": 0.3, "threshold": 0.03}),
    ],
)
def test_a_baseline_is_its_sampler(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    method: str,
    sampler: dict[str, Any],
) -> None:
    if method == "fdk":  # the operator that has it is in a package of its own, which tests it with this preset
        monkeypatch.setattr(ParallelCT, "initial_kind", "fdk")
    evaluator = run(task, method).get_parsed_content("evaluator")
    report, (result,) = evaluator.state.output["report"], evaluator.results
    expected = directly(report.options["operator"], sampler, report.scale)
    written = read_volume(result["output"])[0]
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=0.02)
    assert result["metrics"]["psnr"] > 12
    verify_record(tmp_path / "out" / "a_recon.provenance.json")
    record = json.loads((tmp_path / "out" / "a_recon.provenance.json").read_text())
    # What had no part in the result is not said to have had one.
    assert (record["report"]["network_calls"], record["weights"]) == (0, {})
    assert set(record["config"]) == {"operator", "consistency", "sampler"}
    assert record["config"]["consistency"] == {"name": "none"}


def test_a_baseline_is_tracked_as_any_method(
    run: Callable[..., Any], tmp_path: Path, empty_store: Callable[[Path], Path]
) -> None:
    empty_store(tmp_path / "out")
    run("sparse_view_ct", "fbp", output_format="dicom", **{"evaluator#track": True})
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/out/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"a": "FINISHED"}
    assert len(list((tmp_path / "out/a/dicom").glob("*.dcm"))) == SHAPE[2]


@pytest.mark.parametrize(
    ("task", "method", "estimate", "got"),
    [
        ("accelerated_mri", "fbp", "fbp", "zero_filled"),
        ("z_super_resolution", "fbp", "fbp", "interpolation"),
        ("sparse_view_ct", "fdk", "fdk", "fbp"),
        ("sparse_view_ct", "cubic", "interpolation", "fbp"),
        ("accelerated_mri", "cubic", "interpolation", "zero_filled"),
        ("accelerated_mri", "sirt", None, "complex numbers"),
    ],
)
def test_a_baseline_of_another_task_is_refused(
    run: Callable[..., Any], tmp_path: Path, task: str, method: str, estimate: str | None, got: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(task, method)
    (error,) = [e for e in chain_of(caught.value) if isinstance(e, ConfigError)]
    assert error.got == got
    assert estimate is None or error.expected == f"an operator whose estimate is {estimate}"
    assert error.exit_code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".diffrecon"]


def test_photon_noise_does_not_hide_the_operator(run: Callable[..., Any]) -> None:
    run("sparse_view_ct", "fbp", simulate_photons=1e5, simulate_unit="HU")


def test_a_network_that_must_not_be_called_would_be_noticed(run: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError) as caught:
        run("sparse_view_ct", "ddnm", calls=1)
    assert any(isinstance(e, AssertionError) for e in chain_of(caught.value))
