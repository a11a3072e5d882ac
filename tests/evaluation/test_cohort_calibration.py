# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whether the intervals of a method that draws samples hold the truth, in the rows and the report of a cohort."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.tracking.provenance import verify_record

SHAPE = (12, 11, 10)
SAMPLES = 3
NOMINAL = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
NEW = {"coverage_90", "calibration_error"}
CUBIC = {"label": "Cubic", "bundle": "axial", "task": "z_super_resolution", "preset": "cubic"}
DRAWS = {
    "label": "Draws",
    "bundle": "axial",
    "task": "z_super_resolution",
    "preset": "dds",
    "overrides": {"calls": 2, "num_samples": SAMPLES, "device": "cpu"},
}
COMPLEX = DRAWS | {
    "label": "Complex",
    "task": "accelerated_mri",
    "overrides": DRAWS["overrides"]  # type: ignore[dict-item]
    | {"operator": {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2, "complex_volume": True}},
}


def truth(seed: int) -> torch.Tensor:
    """A volume with air on one side."""
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
    volume[:, :3] = 0
    return volume


def region() -> torch.Tensor:
    mask = torch.zeros((1, *SHAPE))
    mask[:, 2:10, 2:9, 2:8] = 1
    return mask


class Cohort:
    """Two scans, one of them with a mask, and a bundle."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output = root, root / "out"
        for seed, name in enumerate(("masked", "whole")):
            write_volume(root / f"{name}.nii.gz", truth(seed), geometry_of(SHAPE))
        write_volume(root / "mask.nii.gz", region(), geometry_of(SHAPE))
        make_bundle(root / "axial")

    def run(self, methods: list[dict[str, Any]], output: Path, **changes: Any) -> list[CaseRow]:
        content = {
            "title": "Samples",
            "cases": [
                {"image": "masked.nii.gz", "mask": "mask.nii.gz", "name": "masked"},
                {"image": "whole.nii.gz", "name": "whole"},
            ],
            "methods": methods,
            "simulate": {"noise": 0.01},
            "resamples": 100,
        }
        file = self.root / "cohort.json"
        file.write_text(json.dumps(content | changes))
        return CohortEvaluation(file, output, track=False).run()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("calibration"), make_bundle)


@pytest.fixture(scope="module")
def rows(cohort: Cohort) -> list[CaseRow]:
    return cohort.run([CUBIC, DRAWS], cohort.output)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def naive(folder: Path, case: str, reference: np.ndarray, inside: np.ndarray) -> list[float]:
    """Observed coverages of Student's intervals of three samples, voxel by voxel, from the written files."""
    mean, std = (np.asarray(nib.load(folder / f"{case}_{name}.nii.gz").dataobj) for name in ("recon", "std"))
    voxels = [tuple(v) for v in np.argwhere(inside)]
    observed = []
    for level in NOMINAL:
        p = 0.5 + level / 2
        quantile = (2 * p - 1) / (2 * p * (1 - p)) ** 0.5  # Student's t of 2 degrees of freedom
        width = quantile * (1 + 1 / SAMPLES) ** 0.5
        held = [abs(float(reference[v]) - float(mean[v])) <= width * float(std[v]) for v in voxels]
        observed.append(sum(held) / len(voxels))
    return observed


@pytest.mark.slow
@pytest.mark.parametrize(("case", "seed"), [("masked", 0), ("whole", 1)])
def test_the_numbers_are_those_of_the_files(cohort: Cohort, rows: list[CaseRow], case: str, seed: int) -> None:
    (row,) = (r for r in rows if (r.case, r.method) == (case, "Draws"))
    reference = truth(seed)[0].numpy()
    body = reference - reference.min() > 0.01 * (reference.max() - reference.min())
    assert 0 < (~body).sum() < body.sum()
    expected = naive(cohort.output / "draws", case, reference, body if seed else region()[0].numpy() > 0)
    assert [nominal for nominal, _ in row.coverage] == NOMINAL
    assert [observed for _, observed in row.coverage] == pytest.approx(expected, abs=1e-9)
    assert 0 < expected[0] < expected[-1]
    assert row.value("coverage_90") == pytest.approx(expected[4], abs=1e-9)
    error = sum(abs(o - n) for o, n in zip(expected, NOMINAL, strict=True)) / len(NOMINAL)
    assert row.value("calibration_error") == pytest.approx(error, abs=1e-9)


@pytest.mark.slow
def test_tables_have_the_metrics_of_who_drew_samples(cohort: Cohort, rows: list[CaseRow]) -> None:
    for stored, row in zip(table(cohort.output / "cases.csv"), rows, strict=True):
        if row.method == "Cubic":
            assert not row.coverage
            assert not NEW & set(row.metrics)
            assert [stored[key] for key in NEW] == ["", ""]
        else:
            assert float(stored["coverage_90"]) == pytest.approx(row.value("coverage_90"), rel=1e-6)
    summary = {(r["metric"], r["method"]): r for r in table(cohort.output / "summary.csv")}
    for key in NEW:
        mean = sum(r.value(key) for r in rows if r.method == "Draws") / 2
        assert float(summary[key, "Draws"]["mean"]) == pytest.approx(mean, rel=1e-6)
        assert summary[key, "Cubic"]["n"] == "0"
    assert not NEW & {r["metric"] for r in table(cohort.output / "differences.csv")}
    results = json.loads((cohort.output / "results.json").read_text())
    assert [set(entry["metrics"]) >= NEW for entry in results["cases"]] == [False, True] * 2


@pytest.mark.slow
def test_the_report_shows_a_line_a_method_that_drew_samples(cohort: Cohort, rows: list[CaseRow]) -> None:
    page = (cohort.output / "report.html").read_text()
    assert page.count('<a href="#calibration">') == 1
    (section,) = re.findall(r'<section id="calibration".*?</section>', page, re.DOTALL)
    (points,) = re.findall(r'<polyline class="curve" points="([^"]*)"', section)
    assert len(points.split()) == len(NOMINAL)
    cells = [float(c) for c in re.findall(r"<td>([\d.]+)</td>", section)]
    drawn = [dict(r.coverage) for r in rows if r.method == "Draws"]
    means = [sum(curve[level] for curve in drawn) / 2 for level in NOMINAL]
    assert cells == pytest.approx([*means, 2], abs=6e-4)
    assert "Draws" in section
    assert "Cubic" not in section
    assert "On the diagonal" in section


@pytest.mark.slow
def test_methods_that_give_one_volume_have_no_calibration(cohort: Cohort, tmp_path: Path) -> None:
    one = DRAWS | {"overrides": {"calls": 2, "device": "cpu"}}
    (row,) = cohort.run([one], tmp_path, cases=[{"image": "whole.nii.gz", "name": "whole"}])
    assert row.value("psnr") > 0
    assert not row.coverage
    assert "alibration" not in (tmp_path / "report.html").read_text()
    assert not NEW & set(table(tmp_path / "cases.csv")[0])


@pytest.mark.slow
def test_a_rerun_keeps_the_curve(cohort: Cohort, rows: list[CaseRow], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing should be computed")

    monkeypatch.setattr(DiffReconInferer, "reconstruct", never)
    curves = [row.coverage for row in rows]
    kept = sorted((cohort.output / "draws").glob("*_metrics.json"))
    assert len(kept) == 2
    with monkeypatch.context() as patch:
        patch.setattr("monai_diffrecon.evaluation.cohort.case_runner.interval_coverage", never)
        again = cohort.run([CUBIC, DRAWS], cohort.output)
    assert [row.status for row in again] == ["reused"] * 4
    assert [row.coverage for row in again] == curves
    assert 'id="calibration"' in (cohort.output / "report.html").read_text()
    # A row that was lost, and one that was kept before there were curves, are made from the files.
    kept[0].unlink()
    old = json.loads(kept[1].read_text())
    del old["coverage"]
    kept[1].write_text(json.dumps(old))
    made = cohort.run([CUBIC, DRAWS], cohort.output)
    assert [row.status for row in made] == ["reused"] * 4
    assert [row.coverage for row in made] == curves
    assert [row.value("coverage_90") for row in made] == pytest.approx(
        [row.value("coverage_90") for row in rows], nan_ok=True
    )


def test_without_a_truth_there_is_none(cohort: Cohort, tmp_path: Path) -> None:
    thick = torch.nn.functional.avg_pool3d(truth(1), (1, 1, 5))
    write_volume(cohort.root / "thick.nii.gz", thick, geometry_of(thick.shape[1:], np.diag([1.0, 1, 5, 1])))
    (row,) = cohort.run([DRAWS], tmp_path, cases=[{"image": "thick.nii.gz", "name": "thick"}], simulate=False)
    assert (tmp_path / "draws" / "thick_std.nii.gz").is_file()
    assert not row.coverage
    assert not NEW & set(row.metrics)


@pytest.mark.slow
def test_complex_volumes_have_none(cohort: Cohort, tmp_path: Path) -> None:
    (row,) = cohort.run([COMPLEX], tmp_path, cases=[{"image": "whole.nii.gz", "name": "whole"}])
    for name in ("std", "phase"):
        assert (tmp_path / "complex" / f"whole_{name}.nii.gz").is_file()
    verify_record(tmp_path / "complex" / "whole_recon.provenance.json")
    assert row.value("psnr") > 0
    assert not row.coverage
    assert not NEW & set(row.metrics)
    assert 'id="calibration"' not in (tmp_path / "report.html").read_text()
