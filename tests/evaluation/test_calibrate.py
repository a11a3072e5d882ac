# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From a cohort with truths to a calibration file, and from that to the intervals of another scan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.cli.main import main
from monai_diffrecon.engine.calibration.calibration_file import read_calibration
from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.evaluation.cohort.calibrate import calibrate
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

from ..raising import raises

SHAPE = (12, 11, 15)
DRAWS: dict[str, Any] = {
    "label": "Draws",
    "bundle": "axial",
    "task": "z_super_resolution",
    "preset": "posterior",
    "overrides": {"calls": 2, "num_samples": 3, "device": "cpu", "prior": "slices"},
}
CUBIC = {"label": "Cubic", "bundle": "axial", "task": "z_super_resolution", "preset": "cubic"}


def truth(seed: int) -> torch.Tensor:
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
    volume[:, :3] = 0
    return volume


class Work:
    """A bundle, scans, and a cohort of five cases of four subjects."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output, self.file = root, root / "out", root / "calibration.json"
        make_bundle(root / "axial")
        for seed in range(7):
            write_volume(root / f"{seed}.nii.gz", truth(seed), geometry_of(SHAPE))
        mask = torch.zeros((1, *SHAPE))
        mask[:, 4:10, 2:9, 2:8] = 1
        write_volume(root / "mask.nii.gz", mask, geometry_of(SHAPE))
        self.rows = self.evaluate(self.output, [CUBIC, DRAWS])

    def evaluate(
        self, output: Path, methods: list[dict[str, Any]], seeds: tuple[int, ...] = (0, 1, 2, 3, 4), **changes: Any
    ) -> list[CaseRow]:
        cases = [
            {"image": f"{seed}.nii.gz", "mask": "mask.nii.gz", "name": f"n{seed}", "subject": "abcda"[seed % 5]}
            for seed in seeds
        ]
        content = {"cases": cases, "methods": methods, "simulate": {"noise": 0.01}, "resamples": 100, **changes}
        (self.root / "cohort.json").write_text(json.dumps(content))
        return CohortEvaluation(self.root / "cohort.json", output, track=False).run()

    def calibrated(self, **options: Any) -> Path:
        calibrate(self.output, **{"levels": (0.8, 0.5), **options}).write(self.file)
        return self.file

    def reconstruct(self, output: Path, seed: int = 6, **overrides: Any) -> dict[str, Any]:
        """Run the bundle as ``bundle run`` does; return the record."""
        given = {
            "calls": 2,
            "num_samples": 3,
            "device": "cpu",
            "prior": "slices",
            "simulate": True,
            "simulate_noise": 0.01,
            "calibration": str(self.file),
            "image": str(self.root / f"{seed}.nii.gz"),
            "output_dir": str(output),
            "case_name": "x",
            "evaluator#track": False,
            **overrides,
        }
        config: ConfigParser = merged_config(
            self.root / "axial", task="z_super_resolution", method="posterior", overrides=given, where="test"
        )
        content_of(config, "evaluator").run()
        return verify_record(output / "x_recon.provenance.json")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Work:
    return Work(tmp_path_factory.mktemp("calibrate"), make_bundle)


def volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=float)


def by_hand(work: Work, level: float) -> float:
    """The weighted quantile of |truth - mean| / std over the masks, subject by subject, from the written files."""
    inside = volume(work.root / "mask.nii.gz") > 0
    scores: dict[str, list[np.ndarray]] = {}
    for seed in range(5):
        mean, std = (volume(work.output / "draws" / f"n{seed}_{name}.nii.gz") for name in ("recon", "std"))
        std = np.maximum(std, 0.01 * np.sqrt((std**2).mean()))
        scores.setdefault("abcda"[seed], []).append((np.abs(truth(seed)[0].numpy() - mean) / std)[inside])
    pairs = [(s, 1 / len(group) / inside.sum()) for group in scores.values() for case in group for s in case]
    total = 0.0
    for score, weight in sorted(pairs):
        total += weight
        if total >= level * (len(scores) + 1) - 1e-9:
            return score
    return float("inf")


@pytest.mark.slow
def test_factors_are_those_of_the_files(work: Work) -> None:
    found = calibrate(work.output, levels=(0.8, 0.5))
    assert [factors.level for factors in found.levels] == [0.8, 0.5]
    for factors in found.levels:
        hand = by_hand(work, factors.level)
        assert hand <= factors.voxels <= 1.01 * hand * (1 + 1e-6)
    assert len(found.subjects) == 4
    assert sorted(map(len, found.subjects)) == [1, 1, 1, 2]
    rows = [row.residuals for row in work.rows if row.method == "Draws"]
    errors: dict[str, list[float]] = {}
    for row in rows:
        assert row is not None
        errors.setdefault(row["subject"], []).append(abs(row["psnr"][0] - row["psnr"][1]))
    # At 80 % with four subjects the largest counts, at 50 % weights are summed up to 2.5 of 4.
    assert found.nominal.psnr == max(max(group) for group in errors.values())
    assert found.nominal.region is not None
    assert found.nominal.ssim is not None
    assert (found.method["label"], found.method["task"]) == ("Draws", "z_super_resolution")
    text = json.dumps(json.loads(work.calibrated().read_text()))
    assert read_calibration(work.file).levels == found.levels
    for name in ("nii", "n0", str(work.root)):
        assert name not in text


@pytest.mark.slow
def test_intervals_are_written_and_recorded(work: Work, tmp_path: Path, empty_store: Callable[[Path], Path]) -> None:
    factors = read_calibration(work.calibrated()).nominal
    options = {"region": str(work.root / "mask.nii.gz"), "evaluator#track": True}
    record = work.reconstruct(empty_store(tmp_path), **options)
    mean, std, low, high = (volume(tmp_path / f"x_{name}.nii.gz") for name in ("recon", "std", "low", "high"))
    half = factors.voxels * np.maximum(std, 0.01 * np.sqrt((std**2).mean()))
    np.testing.assert_allclose(low, mean - half, atol=1e-3)
    np.testing.assert_allclose(high, mean + half, atol=1e-3)
    assert {"low", "high"} <= record["output"]["spread"].keys()
    said = record["options"]["calibration"]
    assert (said["kind"], said["level"], said["subjects"]) == ("conformal", 0.8, 4)
    assert said["voxels"] == factors.voxels
    inside = volume(work.root / "mask.nii.gz") > 0
    a, b = record["options"]["intervals"]["region_mean"]
    assert (a + b) / 2 == pytest.approx(mean[inside].mean(), rel=1e-5)
    assert (b - a) / 2 == pytest.approx(factors.region * std[inside].mean(), rel=0.02)
    a, b = record["options"]["intervals"]["psnr"]
    assert (b - a) / 2 == pytest.approx(factors.psnr)
    a, b = record["options"]["intervals"]["ssim"]
    assert -1 <= a < b <= 1
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    (run,) = (r for r in runs if "psnr_low" in r.data.metrics)
    assert run.data.metrics["psnr_low"] == pytest.approx(record["options"]["intervals"]["psnr"][0])
    assert run.data.params["calibration.kind"] == "conformal"
    assert run.data.params["calibration.subjects"] == "4"
    # It is done: nothing is computed. Another calibration is another output.
    before = (tmp_path / "x_recon.nii.gz").stat().st_mtime_ns
    again = work.reconstruct(tmp_path, region=options["region"])
    assert again == record
    assert (tmp_path / "x_recon.nii.gz").stat().st_mtime_ns == before
    repeated = rerun(tmp_path / "x_recon.provenance.json", work.root / "6.nii.gz", work.root / "axial", device="cpu")
    assert repeated.same
    assert set(repeated.files) == {f"x_{name}.nii.gz" for name in ("recon", "std", "std_measured", "std_null")}
    work.calibrated(kind="inflation")
    other = work.reconstruct(tmp_path)
    assert other["options"]["calibration"]["kind"] == "inflation"
    assert "region_mean" not in other["options"]["intervals"]


@pytest.mark.slow
def test_a_scan_of_the_calibration_set_gets_a_notice(work: Work, tmp_path: Path) -> None:
    work.calibrated()
    (case,) = (s for s in calibrate(work.output, levels=(0.8,)).subjects if len(s) == 2)
    record = work.reconstruct(tmp_path, seed=0)
    assert record["measurement_sha256"] in case
    assert any("calibrated with this very scan" in notice for notice in record["report"]["notices"])
    shutil.rmtree(tmp_path)
    assert not any("calibrated" in n for n in work.reconstruct(tmp_path)["report"]["notices"])


@pytest.mark.parametrize(
    ("overrides", "got"),
    [
        ({"num_samples": 4}, "inferer.num_samples (3, now 4)"),
        ({"calls": 4}, "config.sampler.steps (1, now 2)"),
        ({"operator#thickness": 3.0}, "config.operator.thickness (5.0, now 3.0)"),
        ({"consistency#iterations": 7}, "config.consistency.iterations (5, now 7)"),
        ({"simulate_noise": 0.05}, ...),
        ({"inferer#overlap": 0.5}, "inferer.overlap (0.25, now 0.5)"),
    ],
)
def test_outside_of_what_was_calibrated(work: Work, tmp_path: Path, overrides: dict[str, Any], got: Any) -> None:
    work.calibrated()
    with raises(ConfigError, where="calibration", got=got):
        work.reconstruct(tmp_path, **overrides)
    assert not list(tmp_path.glob("*.nii.gz"))


def test_another_voxel_size(work: Work, tmp_path: Path) -> None:
    work.calibrated()
    write_volume(work.root / "7.nii.gz", truth(7), geometry_of(SHAPE, np.diag([1.04, 1.04, 1.0, 1.0])))
    write_volume(work.root / "8.nii.gz", truth(7), geometry_of(SHAPE, np.diag([1.2, 1.2, 1.0, 1.0])))
    tolerance = {"inferer#spacing_tolerance": 0.5}
    work.reconstruct(tmp_path, seed=7, **tolerance)
    with raises(ConfigError, where="calibration", got="1.2", expected="1 to 1 mm"):
        work.reconstruct(tmp_path, seed=8, **tolerance)


def test_another_bundle(work: Work, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    said = json.loads(work.calibrated().read_text())
    (name,) = (key for key in said["conditions"] if key.startswith("weights."))
    said["conditions"][name] = json.dumps("1" * 64)
    work.file.write_text(json.dumps(said))
    with raises(ConfigError, where="calibration", got=...) as caught:
        work.reconstruct(tmp_path)
    assert name in str(caught.value.got)


def test_one_sample_has_no_intervals(work: Work, tmp_path: Path) -> None:
    work.calibrated()
    with raises(ConfigError, where="inferer#num_samples", got="1"):
        work.reconstruct(tmp_path, num_samples=1)


def test_a_region_that_was_not_calibrated(work: Work, tmp_path: Path) -> None:
    said = json.loads(work.calibrated().read_text())
    said["levels"][0]["region"] = None
    work.file.write_text(json.dumps(said))
    with raises(ConfigError, where="region", expected="a calibration with one"):
        work.reconstruct(tmp_path, region=str(work.root / "mask.nii.gz"))


def test_files_that_are_missing_are_not_named(work: Work, tmp_path: Path) -> None:
    work.calibrated()
    for option, where in (("region", "region"), ("calibration", "calibration")):
        with raises(InputError, where=where) as caught:
            work.reconstruct(tmp_path, **{option: str(tmp_path / "Doe_Jane.nii.gz")})
        assert "Doe" not in str(caught.value)
    write_volume(work.root / "small.nii.gz", torch.ones(1, 5, 5, 5), geometry_of((5, 5, 5)))
    with raises(InputError, where="region", got=(1, 5, 5, 5), expected=(1, *SHAPE)):
        work.reconstruct(tmp_path, region=str(work.root / "small.nii.gz"))


def test_too_few_subjects(work: Work) -> None:
    with raises(InputError, where="calibration, level 0.9", expected="9 or more subjects", got=4):
        calibrate(work.output)
    assert calibrate(work.output, levels=(0.8,)).nominal.level == 0.8  # as the error advises
    assert calibrate(work.output, kind="inflation").nominal.level == 0.9
    said = json.loads(work.calibrated().read_text())
    said["levels"][0]["level"] = 0.95
    work.file.write_text(json.dumps(said))
    with raises(InputError, where="calibration, level 0.95", expected="19 or more subjects", got=4):
        read_calibration(work.file)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema": 2}, "calibration#schema"),
        ({"kind": "other"}, "calibration#kind"),
        ({"subjects": [[]]}, "calibration#subjects#0"),
        ({"subjects": [["name of a patient"]]}, "calibration#subjects#0#0"),
        ({"noise_std": [0.1, -1]}, "calibration#noise_std#1"),
        ({"levels": [{"level": 1.5, "voxels": 2}]}, "calibration#levels#0#level"),
        ({"levels": [{"level": 0.5, "voxels": float("inf")}]}, "calibration#levels#0#voxels"),
        ({"levels": [{"level": 0.5, "voxel": 2}]}, "calibration#levels#0#voxel"),
        ({"extra": 1}, "calibration#extra"),
        ({"sha256": "0"}, "calibration#sha256"),
    ],
)
def test_files_that_are_none(work: Work, change: dict[str, Any], where: str) -> None:
    said = json.loads(work.calibrated().read_text()) | change
    work.file.write_text(json.dumps(said))
    with raises(ConfigError, where=where):
        read_calibration(work.file)


@pytest.mark.slow
def test_an_evaluation_reports_the_coverage_of_the_intervals(work: Work, tmp_path: Path) -> None:
    file = str(work.calibrated())
    method = DRAWS | {"overrides": DRAWS["overrides"] | {"calibration": file}}
    rows = work.evaluate(tmp_path, [method], seeds=(5, 6))
    inside = volume(work.root / "mask.nii.gz") > 0
    for row, seed in zip(rows, (5, 6), strict=True):
        low, high = (volume(tmp_path / "draws" / f"n{seed}_{name}.nii.gz") for name in ("low", "high"))
        x = truth(seed)[0].numpy()
        assert row.value("coverage_excess") == pytest.approx(((low <= x) & (x <= high))[inside].mean() - 0.8)
    record = verify_record(tmp_path / "draws" / "n5_recon.provenance.json")
    assert "region_mean" in record["options"]["intervals"]


def test_the_command(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.json"
    words = ["calibrate", str(work.output), "--output", str(file), "--level", "0.75"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("75 %, 4 subjects: voxels +- ")
    assert read_calibration(file).nominal.level == 0.75
    assert main(words) == ConfigError.exit_code  # it exists
    assert main([*words, "--force", "--method", "Draws"]) == 0
    assert main([*words, "--force", "--method", "Cubic"]) == ConfigError.exit_code
    assert main(["calibrate", str(tmp_path), "--output", str(file)]) == InputError.exit_code


def test_changed_results_are_refused(work: Work, tmp_path: Path) -> None:
    shutil.copytree(work.output, tmp_path / "copy")
    row = tmp_path / "copy" / "draws" / "n0_metrics.json"
    row.write_text(json.dumps(json.loads(row.read_text()) | {"record_sha256": "0" * 64}))
    with raises(IntegrityError, where="case n0"):
        calibrate(tmp_path / "copy", levels=(0.5,))
    results = tmp_path / "copy" / "results.json"
    said = json.loads(results.read_text())
    shutil.copy(work.output / "draws" / "n0_metrics.json", row)
    said["cases"][1]["status"] = "failed"
    results.write_text(json.dumps(said))
    with raises(InputError, where="method 'Draws'", expected="none", got=1):
        calibrate(tmp_path / "copy", levels=(0.5,))
