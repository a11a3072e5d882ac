# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes of other software in a cohort are compared as our own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from skimage.transform import iradon

from monai_diffrecon.cli import main as cli
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.errors import ConfigError, DiffReconError, IntegrityError
from monai_diffrecon.evaluation.cohort.calibrate import calibrate
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.methods import given_volumes
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.dicom.writer import write_series
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.numerics.hashing import sha256_file, sha256_tensor
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import read_record

from ..raising import raises

SHAPE = (25, 23, 12)
CASES = ("a", "b")
VIEWS = 30
CT = {"name": "parallel_ct", "views": VIEWS}
COSTS = {"seconds", "network_calls", "denoiser_calls", "peak_memory", "data_residual"}
GIVEN = {"label": "Other software", "volumes": "given/{case}.nii.gz"}
AFFINE = np.array([[1.0, 0, 0, -30], [0, 1, 0, 12], [0, 0, 1, 7], [0, 0, 0, 1]])


def truth(seed: int) -> torch.Tensor:
    """Blobs in a cylinder: nothing in the corners."""
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, 5, stride=1, padding=2)
    x, y = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    return smooth * torch.from_numpy(x**2 + y**2 < 0.8).float()[None, :, :, None]


class Cohort:
    """Two scans, one with a mask, measured by CT; a bundle; and volumes that were given."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output, self.file = root, root / "out", root / "cohort.json"
        self.geometry = geometry_of(SHAPE, AFFINE)
        for seed, name in enumerate(CASES):
            write_volume(root / f"Doe_{name}.nii.gz", truth(seed), self.geometry)
        mask = torch.zeros((1, *SHAPE))
        mask[:, 6:18, 6:18, 2:8] = 1
        write_volume(root / "mask.nii.gz", mask, self.geometry)
        make_bundle(root / "axial")
        (root / "given").mkdir()
        self.fbp = {"label": "FBP", "bundle": "axial", "task": "z_super_resolution", "preset": "fbp"}
        self.fbp["overrides"] = {"operator": CT}

    def write(self, methods: list[Any], **changes: Any) -> Path:
        content = {
            "cases": [
                {"image": "Doe_a.nii.gz", "name": "a", "mask": "mask.nii.gz"},
                {"image": "Doe_b.nii.gz", "name": "b"},
            ],
            "methods": methods,
            "simulate": {"noise": 0.01},
            "seed": 3,
            "resamples": 100,
        }
        self.file.write_text(json.dumps(content | changes))
        return self.file

    def evaluate(self, methods: list[Any], output: Path | None = None, **changes: Any) -> list[CaseRow]:
        options = {key: changes.pop(key) for key in ("executor", "shard", "resume") if key in changes}
        evaluation = CohortEvaluation(
            self.write(methods, **changes), output or self.output, **{"track": False, **options}
        )
        try:
            return evaluation.run()
        except DiffReconError:
            assert any(row.failed for row in evaluation.rows)
            return evaluation.rows

    def give(self, case: str, volume: torch.Tensor, affine: np.ndarray = AFFINE) -> Path:
        path = self.root / "given" / f"{case}.nii.gz"
        write_volume(path, volume, geometry_of(volume.shape[1:], affine))
        return path


def compared(row: CaseRow) -> dict[str, float]:
    return {key: value for key, value in row.metrics.items() if key not in COSTS}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("given"), make_bundle)


@pytest.fixture(scope="module")
def ours(cohort: Cohort) -> list[CaseRow]:
    """Rows of our own filtered back-projection, whose volumes are then given, one of them in another orientation."""
    rows = cohort.evaluate([cohort.fbp])
    for case in CASES:
        shutil.copyfile(cohort.output / f"fbp/{case}_recon.nii.gz", cohort.root / f"given/{case}.nii.gz")
    image = nib.load(cohort.root / "given/b.nii.gz")
    flipped = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))
    assert nib.aff2axcodes(flipped.affine) == ("A", "L", "S")
    nib.save(flipped, cohort.root / "given/b.nii.gz")
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_our_own_volumes_have_our_own_metrics(
    cohort: Cohort, ours: list[CaseRow], order: tuple[int, int], tmp_path: Path
) -> None:
    methods = [[cohort.fbp, GIVEN][number] for number in order]
    rows = cohort.evaluate(methods, tmp_path, baseline="FBP")
    by_method = {label: [row for row in rows if row.method == label] for label in ("FBP", "Other software")}
    for own, given in zip(*by_method.values(), strict=True):
        assert (given.status, given.case) == ("computed", own.case)
        assert compared(given) == compared(own)
        assert ("psnr_mask" in given.metrics) == (given.case == "a")
        assert (given.agreement, given.sample) == (own.agreement, own.sample)
        assert not COSTS & given.metrics.keys()
        assert COSTS - {"peak_memory"} <= own.metrics.keys()
        copy, _ = read_volume(tmp_path / f"other-software/{given.case}_recon.nii.gz")
        assert torch.equal(copy, read_volume(tmp_path / f"fbp/{given.case}_recon.nii.gz")[0])
    with (tmp_path / "differences.csv").open(newline="") as file:
        differences = list(csv.DictReader(file))
    assert {(row["method"], float(row["mean"])) for row in differences} == {("Other software", 0.0)}
    assert len(list((tmp_path / "montages").iterdir())) == len(list((tmp_path / "views").iterdir())) == 2
    assert (tmp_path / "report.html").read_text().count("volumes of other software") == 1


@pytest.mark.slow
def test_scikit_image_is_compared_with_the_same_truth(cohort: Cohort, ours: list[CaseRow], tmp_path: Path) -> None:
    """The sinogram of the cohort, reconstructed slice by slice by ``iradon`` and brought to our axes."""
    measured, _ = simulate(truth(0), cohort.geometry, Simulation(CT, noise=0.01, seed=3))
    record = read_record(cohort.output / "fbp/a_recon.provenance.json")
    assert record["measurement_sha256"] == sha256_tensor(measured.data)
    sinogram, angles = measured.data.numpy(), np.arange(VIEWS) * 180 / VIEWS
    size = sinogram.shape[1]
    x, y = ((size - n) // 2 for n in SHAPE[:2])
    slices = [iradon(sinogram[:, :, k].T, theta=angles, output_size=size).T[:, ::-1] for k in range(SHAPE[2])]
    volume = np.stack(slices, axis=-1)[x : x + SHAPE[0], y : y + SHAPE[1]]
    (tmp_path / "theirs").mkdir()
    nib.save(nib.Nifti1Image(volume.astype(np.float64), AFFINE), tmp_path / "theirs/a.nii.gz")
    theirs = {"label": "scikit-image", "volumes": str(tmp_path / "theirs/{case}.nii.gz")}
    cases = [{"image": "Doe_a.nii.gz", "name": "a"}]
    own, given = cohort.evaluate([cohort.fbp, theirs], tmp_path / "out", cases=cases)
    expected = volume_metrics(torch.from_numpy(volume.astype(np.float32))[None], truth(0))
    assert given.value("psnr") == pytest.approx(expected["psnr"], rel=1e-6)
    assert given.value("psnr") == pytest.approx(own.value("psnr"), abs=1.0)  # the same algorithm
    assert given.value("psnr") > 20


def test_a_cohort_of_given_volumes_alone(cohort: Cohort, tmp_path: Path) -> None:
    """The truth is the scan, or the reference where there is one."""
    for seed, case in enumerate(CASES):
        write_volume(tmp_path / f"{case}.nii.gz", truth(seed) + 0.01, cohort.geometry)
    method = {"label": "Theirs", "volumes": str(tmp_path / "{case}.nii.gz")}
    rows = cohort.evaluate([method], tmp_path / "out")
    cases = [{"image": "Doe_a.nii.gz", "name": "a", "reference": "Doe_b.nii.gz"}]
    (other,) = cohort.evaluate([method], tmp_path / "other", cases=cases, simulate=False)
    for row, seed in zip([*rows, other], (0, 1, 1), strict=True):
        said = volume_metrics(truth(0 if row is other else seed) + 0.01, truth(seed))
        assert {key: row.metrics[key] for key in said} == pytest.approx(said, nan_ok=True)
    assert rows[0].agreement is not None
    assert rows[0].agreement.bias == pytest.approx(0.01, abs=1e-6)
    assert rows[0].versions.keys() >= {"torch", "monai_diffrecon"}


def test_a_dicom_series_is_a_folder(cohort: Cohort, tmp_path: Path) -> None:
    write_series(tmp_path / "a", 2000 * truth(0) - 1000, cohort.geometry, case="a", unit="HU")
    write_volume(tmp_path / "truth.nii.gz", 2000 * truth(0) - 1000, cohort.geometry)
    cases = [{"image": str(tmp_path / "truth.nii.gz"), "name": "a"}]
    for expected in ("computed", "reused"):
        method = {"label": "Series", "volumes": str(tmp_path / "{case}")}
        (row,) = cohort.evaluate([method], tmp_path / "out", cases=cases)
        assert row.status == expected
        assert row.value("mae") < 0.6  # whole HU


@pytest.mark.slow
def test_thick_slices_have_their_borders(cohort: Cohort, tmp_path: Path) -> None:
    """Metrics along the slices are those of the operator of the cohort."""
    cubic = {"label": "Cubic", "bundle": "axial", "task": "z_super_resolution", "preset": "cubic"}
    cubic["overrides"] = {"operator": {"name": "slice_thickness", "thickness": 3.0}}
    cohort.evaluate([cubic], tmp_path / "out")
    given = {"label": "Given", "volumes": str(tmp_path / "out/cubic/{case}_recon.nii.gz")}
    rows = cohort.evaluate([cubic, given], tmp_path / "out")
    assert [compared(row) for row in rows[::2]] == [compared(row) for row in rows[1::2]]
    assert rows[0].value("jump_ratio") > 0


def shifted() -> np.ndarray:
    return AFFINE + np.outer([0, 0, 0.5, 0], [0, 0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: c.give("b", truth(1)[:, 1:]), "of another shape than the truth"),
        (lambda c: c.give("b", truth(1), shifted()), "at another position than the truth"),
        (lambda c: c.give("b", truth(1), AFFINE @ np.diag([1, 1, 2, 1])), "at another position than the truth"),
        (lambda c: (c.root / "given/b.nii.gz").unlink(), "no such file"),
        (lambda c: (c.root / "given/b.nii.gz").write_bytes(b"?"), "cannot be read as NIfTI"),
        (
            lambda c: nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), AFFINE), c.root / "given/b.nii.gz"),
            "voxels that are not finite",
        ),
        (
            lambda c: nib.save(nib.Nifti1Image(np.ones(SHAPE, np.complex64), AFFINE), c.root / "given/b.nii.gz"),
            "not real numbers",
        ),
    ],
    ids=["shape", "position", "spacing", "missing", "damaged", "nan", "complex"],
)
def test_a_bad_volume_fails_alone(
    cohort: Cohort, ours: list[CaseRow], spoil: Callable[[Cohort], object], said: str, tmp_path: Path
) -> None:
    path = cohort.root / "given/b.nii.gz"
    before = path.read_bytes()
    try:
        spoil(cohort)
        rows = cohort.evaluate([cohort.fbp, GIVEN])
    finally:
        path.write_bytes(before)
    assert [row.status == "failed" for row in rows] == [False, False, False, True]
    assert rows[-1].exit_code == 2
    assert said in rows[-1].error
    assert "\n" not in rows[-1].error
    assert "Doe" not in rows[-1].error
    assert str(cohort.root) not in rows[-1].error


@pytest.mark.parametrize(
    ("method", "where"),
    [
        (GIVEN | {"volumes": "given/all.nii.gz"}, "methods#0#volumes"),
        (GIVEN | {"volumes": ""}, "methods#0#volumes"),
        (GIVEN | {"volumes": 3}, "methods#0#volumes"),
        (GIVEN | {"bundle": "axial"}, "methods#0#bundle"),
        (GIVEN | {"task": "z_super_resolution"}, "methods#0#task"),
        (GIVEN | {"preset": "fbp"}, "methods#0#preset"),
        (GIVEN | {"auxiliary_bundle": "none"}, "methods#0#auxiliary_bundle"),
        (GIVEN | {"overrides": {"seed": 1}}, "methods#0#overrides"),
        ({"label": "Neither"}, "methods#0#bundle"),
    ],
)
def test_mistakes_of_the_file(cohort: Cohort, method: dict[str, Any], where: str) -> None:
    with raises(ConfigError, where=where):
        CohortEvaluation(cohort.write([method]), cohort.output, track=False)


def test_cases_need_names(cohort: Cohort) -> None:
    cases = [{"image": "Doe_a.nii.gz", "name": "a"}, {"image": "Doe_b.nii.gz"}]
    with raises(ConfigError, where="cases#1#name"):
        CohortEvaluation(cohort.write([GIVEN], cases=cases), cohort.output, track=False)


@pytest.mark.slow
def test_rows_are_computed_again_when_something_changed(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume, its copy, the truth or the mask; and nothing is read again otherwise."""
    for seed, case in enumerate(CASES):
        write_volume(tmp_path / f"{case}.nii.gz", truth(seed) * 0.9, cohort.geometry)
        write_volume(tmp_path / f"truth-{case}.nii.gz", truth(seed), cohort.geometry)
    shutil.copyfile(cohort.root / "mask.nii.gz", tmp_path / "mask.nii.gz")
    method = {"label": "Theirs", "volumes": str(tmp_path / "{case}.nii.gz")}
    cases = [{"image": str(tmp_path / f"truth-{c}.nii.gz"), "name": c} for c in CASES]
    cases[0]["mask"] = str(tmp_path / "mask.nii.gz")

    def statuses(**options: Any) -> list[str]:
        return [row.status for row in cohort.evaluate([method], tmp_path / "out", cases=cases, **options)]

    assert statuses() == ["computed"] * 2
    with monkeypatch.context() as patch:
        patch.delattr(given_volumes.GivenVolumes, "read")
        assert statuses() == ["reused"] * 2
    copy = tmp_path / "out/theirs/b_recon.nii.gz"
    whole, first = read_volume(copy)[0], sha256_file(tmp_path / "out/theirs/a_recon.nii.gz")
    copy.write_bytes(b"?")
    assert statuses() == ["reused", "computed"]
    assert torch.equal(read_volume(copy)[0], whole)
    write_volume(tmp_path / "a.nii.gz", truth(0) * 0.8, cohort.geometry)
    assert statuses() == ["computed", "reused"]
    assert sha256_file(tmp_path / "out/theirs/a_recon.nii.gz") != first
    write_volume(tmp_path / "truth-b.nii.gz", truth(1) * 1.1, cohort.geometry)
    assert statuses() == ["reused", "computed"]
    assert len(list((tmp_path / "out/montages").glob("b-*.png"))) == 2  # of both truths
    write_volume(tmp_path / "mask.nii.gz", torch.ones((1, *SHAPE)), cohort.geometry)
    assert statuses() == ["computed", "reused"]
    assert statuses(resume="never") == ["computed"] * 2
    assert statuses(executor={"name": "processes", "workers": 1}) == ["reused"] * 2
    assert [statuses(shard=f"{n}/2") for n in (1, 2)] == [["reused"], ["reused"]]


@pytest.mark.slow
def test_the_copy_is_no_reconstruction_of_ours(
    cohort: Cohort, ours: list[CaseRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = tmp_path / "out/other-software", "a_recon.provenance.json"
    folder.mkdir(parents=True)
    shutil.copyfile(cohort.output / "fbp" / name, folder / name)  # of a method that had this label before
    cohort.evaluate([cohort.fbp, GIVEN], tmp_path / "out")
    note = json.loads((folder / "a_recon.given.json").read_text())
    assert note["source_sha256"] == sha256_file(cohort.root / "given/a.nii.gz")
    assert note["output"] == {"file": "a_recon.nii.gz", "sha256": sha256_file(folder / "a_recon.nii.gz")}
    assert str(cohort.root) not in json.dumps(note)
    assert cli.main(["verify", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("verified") == 2  # ours
    with pytest.raises(IntegrityError):
        read_record(folder / "a_recon.given.json")
    with raises(ConfigError, where="--method", got="Other software"):
        calibrate(tmp_path / "out", method="Other software", kind="inflation")
    pack = {
        "cases": [
            {"name": "a", "volumes": {m: str(tmp_path / f"out/{m}/a_recon.nii.gz") for m in ("fbp", "other-software")}}
        ]
    }
    (tmp_path / "study.json").write_text(json.dumps(pack))
    words = ["--cohort", tmp_path / "study.json", "--output", tmp_path / "pack", "--key", tmp_path / "key"]
    assert cli.main(["reader-study", *map(str, words)]) == 0
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"Doe_" not in path.read_bytes()


@pytest.mark.slow
def test_the_run_says_that_the_volume_was_given(
    cohort: Cohort, ours: list[CaseRow], tmp_path: Path, empty_store: Callable[[Path], Path]
) -> None:
    empty_store(tmp_path)
    CohortEvaluation(cohort.write([cohort.fbp, GIVEN]), tmp_path).run()
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    (run,) = (run for run in runs if run.info.run_name == "a other-software")
    sha = sha256_file(cohort.root / "given/a.nii.gz")
    assert run.data.params == {"volumes.given": "true", "volumes.sha256": sha}
    assert run.data.tags["computed"] == "true"
    assert {"psnr", "psnr_mask"} <= run.data.metrics.keys()
    assert "other software" in run.data.tags["mlflow.note.content"]
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert parent.data.params["method.other-software"] == "volumes of other software"
