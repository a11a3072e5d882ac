# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A cohort through the evaluator: files, records, MLflow runs, and nothing that names a patient."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from monai_diffrecon.bundle.score_network import load_auxiliaries, load_score_network
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.cases.list_cases import list_cases
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.transforms.load_measurement import LoadVolumed
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import InputError, NumericalError, ResourceError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking import export_run
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

from ...raising import raises

AFFINE = np.array([[1.0, 0, 0, -9], [0, np.cos(0.2), -np.sin(0.2), 5], [0, np.sin(0.2), np.cos(0.2), 2], [0, 0, 0, 1]])
OPERATOR = {"name": "slice_thickness", "thickness": 3.0}
SAMPLER = {"name": "pnp_hqs", "steps": 4, "sigma_start": 0.2}
PATIENTS = ("Canaryman_John_19700101", "Goldfinch_Jane_19691231")


def volume(seed: int) -> torch.Tensor:
    noise = torch.rand((1, 14, 13, 12), generator=torch.Generator().manual_seed(seed))
    return 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)


class Cohort:
    """Two scans with names of patients, two bundles, and an evaluator that has run over them."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.output, self.scans = root / "out", root / "scans"
        self.scans.mkdir()
        for seed, patient in enumerate(PATIENTS):
            write_volume(self.scans / f"{patient}.nii.gz", volume(seed), geometry_of((14, 13, 12), AFFINE))
        self.score = load_score_network(make_bundle(root / "axial"))
        make_bundle(root / "coronal", plane="coronal", seed=1)
        self.auxiliaries = load_auxiliaries("../coronal", self.score, root / "axial")
        self.evaluator = self.evaluate(preview_every=2)
        self.evaluator.run()
        self.client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{self.output}/mlflow.db")

    def evaluate(self, cases: list[dict[str, Any]] | None = None, **options: Any) -> ReconstructionEvaluator:
        if cases is None:
            cases = list_cases(dataset_dir=str(self.scans), output_dir=str(self.output))
        transforms = [LoadVolumed(["image"]), SimulateMeasurementd(["image"], OPERATOR)]
        inferer = DiffReconInferer(
            self.score,
            OPERATOR,
            "perpendicular",
            {"name": "admm", "regularizers": [{"name": "z_tv"}]},
            SAMPLER,
            self.auxiliaries,
            progress=False,
        )
        dataset = Dataset(cases, lambda case: transforms[1](transforms[0](case)))
        arguments = {"val_data_loader": DataLoader(dataset, batch_size=1, num_workers=0), **options}
        return ReconstructionEvaluator(
            "cpu", network=self.score.network, inferer=inferer, output_dir=str(self.output), **arguments
        )

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("monai_diffrecon")
        return self.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory,
    make_bundle: Callable[..., Path],
    empty_store: Callable[[Path], Path],
) -> Cohort:
    root = tmp_path_factory.mktemp("cohort")
    empty_store(root / "out")
    return Cohort(root, make_bundle)


def test_every_case_is_written_where_it_was_measured(cohort: Cohort) -> None:
    results = cohort.evaluator.results
    assert len({result["case"] for result in results}) == 2
    for seed, result in enumerate(results):
        written, geometry = read_volume(result["output"])
        assert written.shape == volume(seed).shape
        np.testing.assert_allclose(geometry.affine, AFFINE, atol=1e-5)
        assert result["metrics"] == pytest.approx(volume_metrics(written, volume(seed)), rel=1e-4)
        assert result["metrics"]["psnr"] > 20
    last = cohort.evaluator.state.output
    assert isinstance(last["pred"], MetaTensor)
    assert torch.equal(last["pred"].as_tensor(), read_volume(results[-1]["output"])[0])
    np.testing.assert_allclose(last["pred"].affine, AFFINE, atol=1e-5)
    assert last["report"].denoiser_calls == 4


def test_every_case_has_its_record_and_pictures(cohort: Cohort) -> None:
    for result in cohort.evaluator.results:
        case = result["case"]
        path = cohort.output / f"{case}_recon.provenance.json"
        verify_record(path)
        record = json.loads(path.read_text())
        assert record["config"]["sampler"] == SAMPLER
        assert list(record["weights"]) == ["axial 0.1.0", "coronal 0.1.0"]
        assert record["versions"]["monai-diffrecon"] == record["versions"]["monai_diffrecon"]
        assert len(record["report"]["steps"]) == 4
        assert record["report"]["steps"][-1]["residual"] < 0.1
        assert record["report"]["network_calls"] == 2 * 2 + 2 * 2  # axial, coronal: 12 and 13 slices in eights
        assert (cohort.output / f"{case}_montage.png").stat().st_size > 1000
        previews = sorted(p.name for p in (cohort.output / case / "preview").iterdir())
        assert previews == ["step_0002.png", "step_0004.png"]


def test_a_run_ends_by_saying_where_its_volumes_are(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    again = cohort.evaluate(track=False)
    with caplog.at_level(logging.INFO):
        again.run()
    lines = [message for message in caplog.messages if "the volume is in" in message]
    for line, result in zip(lines, again.results, strict=True):
        assert line.startswith(
            f"case {result['case']}: the volume is in {cohort.output / result['case']}_recon.nii.gz; "
        )
        truth = result["metrics"]
        assert f"PSNR {truth['psnr']:.2f} dB" in line
        assert all(f"{plane} {truth[f'ssim_{plane}']:.4f}" in line for plane in ("sagittal", "coronal", "axial"))


def test_one_run_a_case_under_one_for_the_cohort(cohort: Cohort) -> None:
    parent, *children = cohort.runs()[:3]
    assert parent.info.run_name == "cohort"
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    for run, result in zip(children, cohort.evaluator.results, strict=True):
        assert run.info.run_name == result["case"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["psnr"] == pytest.approx(result["metrics"]["psnr"])
        assert run.data.params["operator.name"] == "slice_thickness"
        assert run.data.params["seed"] == "0"
        assert [name for name in run.data.params if name.startswith("versions")] == ["versions"]
        assert run.data.params["versions"].count("monai_diffrecon") == 1
        assert run.data.tags["mlflow.source.name"].startswith("monai_diffrecon ")
        (data,) = run.inputs.dataset_inputs
        record = json.loads((cohort.output / f"{result['case']}_recon.provenance.json").read_text())
        assert (data.dataset.name, data.dataset.digest) == (result["case"], record["measurement_sha256"][:32])
        note = run.data.tags["mlflow.note.content"]
        assert f"| `psnr` | {result['metrics']['psnr']:.2f} | dB |" in note
        assert f"get-artifact?path={result['case']}_montage.png&run_uuid={run.info.run_id}" in note
        history = cohort.client.get_metric_history(run.info.run_id, "residual")
        assert [point.step for point in history] == [1, 2, 3, 4]
        artifacts = {artifact.path for artifact in cohort.client.list_artifacts(run.info.run_id)}
        assert artifacts == {f"{result['case']}_{end}" for end in ("montage.png", "recon.provenance.json", "view.html")}


def test_the_run_above_several_cases_has_their_means(cohort: Cohort) -> None:
    parent = cohort.runs()[0]
    values = [result["metrics"]["psnr"] for result in cohort.evaluator.results]
    assert parent.data.metrics["psnr"] == pytest.approx(sum(values) / 2)
    assert parent.data.metrics["psnr_worst"] == pytest.approx(min(values))
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"| {result['case']} | {result['metrics']['psnr']:.2f} |" in note for result in cohort.evaluator.results)
    median = min(cohort.evaluator.results, key=lambda result: result["metrics"]["psnr"])["case"]
    assert [a.path for a in cohort.client.list_artifacts(parent.info.run_id)] == [f"{median}_montage.png"]
    experiment = cohort.client.get_experiment_by_name("monai_diffrecon")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_curve_of_a_case_is_seen_while_it_runs_and_is_of_its_first_sample(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_run, "_FLUSH_SECONDS", 0.0)
    seen: dict[str, list[list[int]]] = {"live": [], "live#sample1": []}

    def curve() -> list[Any]:
        run = next(run for run in cohort.runs() if run.info.run_name == "live")
        assert run.info.status == ("RUNNING" if len(seen["live#sample1"]) < 4 else "FINISHED")
        return list(cohort.client.get_metric_history(run.info.run_id, "residual"))

    class Watch:
        def attach(self, engine: Any) -> None:
            engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

        def __call__(self, engine: Any) -> None:
            steps = [point.step for point in curve()]
            seen[engine.state.recon.case].append(steps)

    evaluator = cohort.evaluate([{"image": str(cohort.scans / f"{PATIENTS[0]}.nii.gz"), "case": "live"}])
    evaluator.inferer.specs = {**evaluator.inferer.specs, "sampler": SAMPLER | {"name": "ddim"}}
    evaluator.inferer.num_samples = 2
    evaluator.inferer.handlers = (Watch(),)  # before the one that tracks
    evaluator.run()
    assert seen == {"live": [[], [1], [1, 2], [1, 2, 3]], "live#sample1": [[1, 2, 3, 4]] * 4}
    steps = verify_record(cohort.output / "live_recon.provenance.json")["report"]["steps"]
    assert [(point.step, point.value) for point in curve()] == [(row["step"], row["residual"]) for row in steps]


def test_nothing_names_a_patient(cohort: Cohort) -> None:
    assert sorted(p.name for p in cohort.scans.iterdir()) == sorted(f"{p}.nii.gz" for p in PATIENTS)
    files = [path for path in cohort.output.rglob("*") if path.is_file()]
    assert len(files) > 10
    for name in ("Canaryman", "Goldfinch", "19700101", "19691231"):
        for path in files:
            assert name not in str(path.relative_to(cohort.output))
            assert name.encode() not in path.read_bytes(), path.name
        assert all(name not in str(run.to_dictionary()) for run in cohort.runs())


def test_a_case_that_fails_fails_its_run(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = cohort.evaluate([{"image": str(cohort.scans / f"{PATIENTS[0]}.nii.gz"), "case": "broken"}])
    monkeypatch.setattr(cohort.score.network, "forward", lambda x, sigma: x / 0)
    with raises(NumericalError, where="network of the axial plane (axial)") as caught:
        evaluator.run()
    for fact in ("step 1", "axial slice 0", "sigma 0.2"):
        assert fact in caught.value.what
    by_name = {run.info.run_name: run for run in cohort.runs()[-1:]}
    assert {name: run.info.status for name, run in by_name.items()} == {"broken": "FAILED"}
    assert "mlflow.parentRunId" not in by_name["broken"].data.tags
    assert by_name["broken"].data.tags["error"] == "NumericalError"
    # No output, but the state before the step that failed.
    assert [path.name for path in cohort.output.glob("broken*")] == ["broken_checkpoint.pt"]


def test_a_case_that_fails_stops_no_other(cohort: Cohort, make_bundle: Any, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for seed, name in enumerate(("a", "b", "d")):
        write_volume(scans / f"{name}.nii.gz", volume(seed), geometry_of((14, 13, 12), AFFINE))
    (scans / "c.nii.gz").write_bytes(b"damaged")
    write_volume(scans / "b.nii.gz", volume(1) * 0, geometry_of((14, 13, 12), AFFINE))  # nothing is measured
    cases = [{"image": str(scans / f"{name}.nii.gz"), "case": f"case-{name}"} for name in "abcd"]
    evaluator = cohort.evaluate(cases, track=False)
    evaluator.recorder.output_dir = tmp_path / "out"
    with raises(InputError, where="cases") as caught:
        evaluator.run()
    assert "case case-c: image: " in caught.value.got
    assert caught.value.exit_code == 2
    assert [result["case"] for result in evaluator.results] == ["case-a", "case-d"]
    assert len(evaluator.failures) == 2
    for name in "ad":
        verify_record(tmp_path / "out" / f"case-{name}_recon.provenance.json")
    before = (tmp_path / "out" / "case-a_recon.nii.gz").stat().st_mtime_ns
    write_volume(scans / "c.nii.gz", volume(2), geometry_of((14, 13, 12), AFFINE))
    again = cohort.evaluate([cases[0], *cases[2:]], track=False)
    again.recorder.output_dir = tmp_path / "out"
    again.run()
    assert [result["case"] for result in again.results] == ["case-a", "case-c", "case-d"]
    assert (tmp_path / "out" / "case-a_recon.nii.gz").stat().st_mtime_ns == before


def test_a_full_disk_stops_all(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr("monai_diffrecon.engine.cases.case_record.write_volume", full)
    evaluator = cohort.evaluate(track=False)
    evaluator.recorder.output_dir = tmp_path / "out"
    with raises(ResourceError, what="the disk is full"):
        evaluator.run()
    assert not evaluator.failures


def test_without_reference_and_tracking(cohort: Cohort, tmp_path: Path) -> None:
    measured = SimulateMeasurementd(["image"], OPERATOR)({"image": MetaTensor(volume(0)), "case": "alone"})
    evaluator = cohort.evaluate(val_data_loader=_loader(measured["image"], case="alone"), track=False)
    evaluator.recorder.output_dir = tmp_path / "new"
    evaluator.run()
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.name != ".diffrecon") == [
        "alone_montage.png",
        "alone_recon.nii.gz",
        "alone_recon.provenance.json",
        "alone_view.html",
    ]
    assert evaluator.results[0]["metrics"] == {}
    verify_record(tmp_path / "new" / "alone_recon.provenance.json")


def test_a_reference_on_another_grid_is_refused(cohort: Cohort) -> None:
    measured = SimulateMeasurementd(["image"], OPERATOR)({"image": MetaTensor(volume(0))})["image"]
    loader = _loader(measured, case="grid", reference=volume(0)[:, :-1])
    with raises(InputError, where="reference", got=(1, 13, 13, 12)):
        cohort.evaluate(val_data_loader=loader, track=False).run()


def test_one_case_a_batch(cohort: Cohort) -> None:
    measured = SimulateMeasurementd(["image"], OPERATOR)({"image": MetaTensor(volume(0))})["image"]
    loader = [{"image": torch.stack([measured, measured]), "case": ["a", "b"]}]
    with raises(InputError, where="dataloader#batch_size", got=2, expected=1):
        cohort.evaluate(val_data_loader=loader, track=False).run()


def _loader(image: torch.Tensor, **rest: Any) -> DataLoader:
    return DataLoader(Dataset([{"image": image, **rest}]), batch_size=1, num_workers=0)
