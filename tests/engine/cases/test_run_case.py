# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A case is understood once and run in one way: by the evaluator, by a cohort and by a rerun."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.handlers import MetricsSaver, StatsHandler
from monai.transforms import Compose, GaussianSmoothd, Lambdad, MapTransform, RandGaussianNoised, SaveImaged

from monai_diffrecon import load, registry
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.cases.case_record import checkpoint_path
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.cases.rerun import rerun
from monai_diffrecon.engine.cases.run_case import run_case
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, PluginError
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.numerics import hashing
from monai_diffrecon.tracking.provenance import verify_record

from ..tiny_networks import SCORE

SHAPE = (14, 13, 12)
THICK = {"name": "slice_thickness", "thickness": 3.0}
FEW = {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.2}


def truth(seed: int = 0) -> torch.Tensor:
    noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)


def scan(seed: int = 0) -> MetaTensor:
    thick = torch.nn.functional.avg_pool3d(truth(seed), (1, 1, 3))
    affine = torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0], dtype=torch.float64))
    affine[2, 3] = 1.0
    return MetaTensor(thick, affine=affine)


def loader(*seeds: int, reference: bool = True) -> list[dict[str, Any]]:
    cases = []
    for seed in seeds:
        batch = {"image": MetaTensor(scan(seed).as_tensor()[None], affine=scan(seed).affine), "case": [f"case{seed}"]}
        cases.append(batch | ({"reference": truth(seed)[None]} if reference else {}))
    return cases


def evaluator(folder: Path, *seeds: int, reference: bool = True, **options: Any) -> ReconstructionEvaluator:
    inferer = options.pop("inferer", None) or DiffReconInferer(SCORE, THICK, sampler=FEW, progress=False)
    cases: Any = loader(*seeds, reference=reference)
    return ReconstructionEvaluator("cpu", cases, SCORE.network, inferer, str(folder), track=False, **options)


class Counts:
    """Counts what is built through the registry, and the hashes of each tensor."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.built: Counter[str] = Counter()
        self.hashed: Counter[str] = Counter()
        build, sha256 = registry.build, hashing.sha256_tensor
        self.scan = sha256(scan())

        def counted_build(kind: str, *given: Any, **options: Any) -> Any:
            self.built[kind] += 1
            return build(kind, *given, **options)

        def counted_sha256(t: torch.Tensor) -> str:
            found = sha256(t)
            self.hashed[found] += 1
            return found

        patch.setattr(registry, "build", counted_build)
        for module in list(sys.modules.values()):
            if vars(module).get("sha256_tensor") is sha256:
                patch.setattr(module, "sha256_tensor", counted_sha256)

    def check(self, samplers: int) -> None:
        assert self.built["operators"] == 1
        assert self.built["samplers"] == self.built["consistency"] == samplers
        assert self.hashed[self.scan] == 1


@pytest.fixture
def files(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    make_bundle(tmp_path / "axial")
    write_volume(tmp_path / "scan.nii.gz", scan().as_tensor(), geometry_of(scan().shape[1:], scan().affine.numpy()))
    write_volume(tmp_path / "truth.nii.gz", truth(), geometry_of(SHAPE))
    return tmp_path


def cohort(root: Path, **overrides: Any) -> CohortEvaluation:
    method = {"label": "few", "bundle": "axial", "overrides": {"operator": THICK, "sampler": FEW, **overrides}}
    case = {"image": "scan.nii.gz", "reference": "truth.nii.gz", "name": "one"}
    content = {"title": "t", "cases": [case], "methods": [method], "simulate": False, "resamples": 200}
    (root / "cohort.json").write_text(json.dumps(content))
    return CohortEvaluation(root / "cohort.json", root / "out", track=False, checkpoint_every=1)


def test_the_evaluator_understands_a_measurement_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, counts = evaluator(tmp_path, 0, checkpoint_every=1), Counts(monkeypatch)
    run.run()
    counts.check(samplers=1)


def test_a_cohort_understands_a_measurement_once(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, counts = cohort(files), Counts(monkeypatch)
    run.run()
    counts.check(samplers=1)


def test_a_rerun_understands_a_measurement_once(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = cohort(files).run()
    assert row.status == "computed"
    counts = Counts(monkeypatch)
    done = rerun(files / "out/few/one_recon.provenance.json", files / "scan.nii.gz", files / "axial")
    assert done.same
    counts.check(samplers=2)  # one when its options are checked


def test_a_case_that_was_done_is_not_posed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator(tmp_path, 0).run()
    again, counts = evaluator(tmp_path, 0), Counts(monkeypatch)
    again.run()
    assert again.state.output["report"] is None
    assert not counts.built
    assert counts.hashed[counts.scan] == 1


@pytest.mark.slow
def test_evaluator_and_cohort_agree_on_what_is_done(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same record is kept, and given up for another version, by both; a checkpoint that was left is removed."""
    cohort(files).run()
    evaluator(files / "run", 0).run()
    left = [checkpoint_path(files / "out/few", "one"), checkpoint_path(files / "run", "case0")]
    for path in left:
        path.write_bytes(b"left behind")

    def computed() -> list[bool]:
        (row,) = cohort(files).run()
        run = evaluator(files / "run", 0)
        run.run()
        return [row.status == "computed", run.state.output["report"] is not None]

    assert computed() == [False, False]
    assert not any(path.exists() for path in left)
    monkeypatch.setattr(
        "monai_diffrecon.engine.problem.posed_case.versions_of", lambda names: dict.fromkeys([*names, "torch"], "99")
    )
    assert computed() == [True, True]


def test_what_a_caller_records_must_be_the_same(tmp_path: Path) -> None:
    inferer = DiffReconInferer(SCORE, THICK, sampler=FEW, progress=False)
    recorder = CaseRecorder(tmp_path, track=False, tracking_uri=None, experiment="")

    def run(**options: Any) -> bool:
        return run_case(inferer, inferer.pose(scan(), case="a"), recorder, options=options).computed

    assert [run(method="x"), run(method="x"), run(), run(method="y")] == [True, False, False, True]


def test_a_posed_case_is_what_is_reconstructed() -> None:
    inferer = DiffReconInferer(SCORE, THICK, sampler=FEW, progress=False)
    posed = inferer.pose(scan(), case="a")
    assert torch.equal(inferer.reconstruct(posed).volume, inferer.reconstruct(scan(), case="a").volume)
    assert posed.identity == inferer.identity(scan(), "a")
    assert posed.geometry == inferer.volume_geometry(scan())
    assert posed.sha256 == hashing.sha256_tensor(scan())
    assert posed.identity != inferer.pose(scan(1), case="a").identity


class Handler:
    """Notes the metrics that an evaluator shows."""

    def __init__(self) -> None:
        self.cases: list[dict[str, float]] = []
        self.means: dict[str, float] = {}

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.cases.append(dict(e.state.metrics)))
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: self.means.update(e.state.metrics))


def test_handlers_see_the_metrics(tmp_path: Path) -> None:
    seen, folder = Handler(), tmp_path / "tables"
    saver = MetricsSaver(str(folder), metric_details="*", batch_transform=lambda b: [{"filename_or_obj": b["case"][0]}])
    run = evaluator(
        tmp_path / "out", 0, 1, val_handlers=[seen, saver, StatsHandler(name="test", output_transform=lambda x: None)]
    )
    run.run()
    expected = [volume_metrics(read_volume(r["output"])[0], truth(s)) for s, r in enumerate(run.results)]
    for got, want in zip(seen.cases, expected, strict=True):
        assert got == pytest.approx(want, rel=1e-4)
    for name, value in seen.means.items():
        assert value == pytest.approx((expected[0][name] + expected[1][name]) / 2, rel=1e-4)
    assert run.state.metric_details["psnr"].shape == (2, 1)
    assert "psnr" in (folder / "metrics.csv").read_text()
    assert "case1" in (folder / "psnr_raw.csv").read_text()


def test_a_case_without_reference_shows_no_metrics_of_another(tmp_path: Path) -> None:
    seen = Handler()
    run = evaluator(tmp_path, 0, val_handlers=[seen])
    run.data_loader.loader += loader(1, reference=False)  # type: ignore[operator]
    run.state.epoch_length = 2
    run.run()
    assert seen.cases[0]
    assert seen.cases[1] == {}
    assert seen.means == pytest.approx(seen.cases[0])
    assert bool(run.state.metric_details["psnr"].isnan().any())


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_postprocessing_is_applied_and_recorded(tmp_path: Path) -> None:
    plain, doubled = (
        evaluator(tmp_path / "a", 0),
        evaluator(tmp_path / "b", 0, postprocessing=Compose([Lambdad(keys="pred", func=double)])),
    )
    plain.run()
    doubled.run()
    before, after = (read_volume(run.results[0]["output"])[0] for run in (plain, doubled))
    assert torch.equal(after, 2 * before)
    assert torch.equal(doubled.state.output["pred"].as_tensor(), after)
    assert doubled.results[0]["metrics"] == pytest.approx(volume_metrics(after, truth()), rel=1e-4)
    record = verify_record(tmp_path / "b" / "case0_recon.provenance.json")
    (step,) = record["options"]["postprocessing"]
    assert step["name"].endswith(":Lambdad")
    assert "double" in json.dumps(step)
    assert "postprocessing" not in verify_record(tmp_path / "a" / "case0_recon.provenance.json")["options"]


@pytest.mark.slow
def test_another_postprocessing_is_another_volume(tmp_path: Path) -> None:
    def computed(postprocessing: Any) -> bool:
        run = evaluator(tmp_path, 0, postprocessing=postprocessing)
        run.run()
        return run.state.output["report"] is not None

    smooth = [GaussianSmoothd(keys="pred", sigma=s) for s in (1.0, 1.0, 2.0)]
    assert [computed(t) for t in smooth] == [True, False, True]
    assert computed(None)
    # Neither a function without a name nor a random transform can be told from another.
    for unknown in (Lambdad(keys="pred", func=lambda x: x), RandGaussianNoised(keys="pred")):
        assert [computed(unknown) for _ in range(2)] == [True, True]


class Moves(MapTransform):
    """Says that the volume lies elsewhere."""

    def __call__(self, data: Any) -> Any:
        data["pred"].affine[0, 3] += 5.0
        return data


@pytest.mark.parametrize(
    ("transform", "error", "got"),
    [
        (Lambdad(keys="gone", func=double), PluginError, None),
        (Lambdad(keys="pred", func=lambda x: x[:, 1:]), PluginError, "(1, 13, 13, 12), float32"),
        (Lambdad(keys="pred", func=lambda x: x / 0), InputError, None),
        (Lambdad(keys="pred", func=lambda x: x.unknown), PluginError, None),
        (Moves(keys="pred"), PluginError, "another affine"),
        (lambda data: None, PluginError, "NoneType"),
        (lambda data: {"pred": "volume"}, PluginError, "dict"),
    ],
)
def test_faulty_postprocessing_is_one_line(tmp_path: Path, transform: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error) as caught:
        evaluator(tmp_path, 0, postprocessing=transform).run()
    found = caught.value
    assert isinstance(found, DiffReconError)
    assert found.where == "postprocessing"
    assert "\n" not in str(found)
    assert got is None or found.got == got
    assert not list(tmp_path.glob("*.nii.gz"))


@pytest.mark.parametrize("given", [3, "Compose", [Lambdad(keys="pred", func=double)]])
def test_what_is_no_transform_is_refused_at_once(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluator(tmp_path, 0, postprocessing=given)
    assert (caught.value.where, caught.value.exit_code) == ("postprocessing", 2)


def test_postprocessing_may_write_files_of_its_own(tmp_path: Path) -> None:
    save = SaveImaged(
        keys="pred", output_dir=str(tmp_path / "mine"), output_postfix="x", separate_folder=False, print_log=False
    )
    evaluator(tmp_path / "out", 0, postprocessing=save).run()
    (written,) = (tmp_path / "mine").iterdir()
    np.testing.assert_allclose(read_volume(written)[0], read_volume(tmp_path / "out/case0_recon.nii.gz")[0], rtol=1e-6)


@pytest.mark.slow
def test_a_bundle_with_postprocessing(files: Path) -> None:
    """Through the configuration: the volume of ``bundle run``, of a cohort, and no rerun from the record."""
    config = files / "axial/configs/inference.json"
    content = json.loads(config.read_text())
    smooth = {"_target_": "GaussianSmoothd", "keys": "pred", "sigma": 1.0}
    (plain,) = cohort(files).run()
    before, _ = read_volume(files / "out/few/one_recon.nii.gz")
    config.write_text(json.dumps(content | {"postprocessing": smooth}))
    (row,) = cohort(files).run()
    assert row.status == "computed"
    after, _ = read_volume(files / "out/few/one_recon.nii.gz")
    expected = GaussianSmoothd(keys="pred", sigma=1.0)({"pred": before})["pred"]
    torch.testing.assert_close(after, expected.float())
    assert row.value("psnr") == pytest.approx(volume_metrics(after, truth())["psnr"], rel=1e-5)
    assert row.value("psnr") != plain.value("psnr")
    done = load(files / "axial", operator=THICK, sampler=FEW).reconstruct(files / "scan.nii.gz", case="one")
    torch.testing.assert_close(done.volume, after)
    assert "GaussianSmoothd" in json.dumps(done.report.options["postprocessing"])
    with pytest.raises(InputError) as caught:
        rerun(files / "out/few/one_recon.provenance.json", files / "scan.nii.gz", files / "axial")
    assert caught.value.where == "options#postprocessing"
