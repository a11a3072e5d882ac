# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A sweep: a cohort at each value of a setting, through the whole command, also after a kill."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imsave

from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.cases import case_record
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, NumericalError
from monai_diffrecon.evaluation.cohort import case_task
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.evaluation.sweep.point import run_point
from monai_diffrecon.evaluation.sweep.runner import Sweep
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking.mlflow_client import mlflow_module

from ..raising import raises

SHAPE = (14, 13, 12)
VIEWS = [8, 16, 64]
STEPS = 4
COSTS = {"seconds", "network_calls", "denoiser_calls", "peak_memory"}


class Folder:
    """Two scans, a bundle, and the file of a sweep."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output, self.file = root, root / "out", root / "views.json"
        for seed, name in enumerate(("Doe_1", "Doe_2")):
            noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
            smooth = torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
            write_volume(root / f"{name}.nii.gz", 500 * smooth, geometry_of(SHAPE))
        make_bundle(root / "axial")
        shared = {"bundle": "axial", "task": "z_super_resolution"}
        ct = {"operator": {"name": "parallel_ct", "views": 5}, "device": "cpu"}
        self.fbp = {"label": "FBP", "preset": "fbp", "overrides": ct, **shared}
        self.diffusion = {"label": "Diffusion", "overrides": {**ct, "sampler#steps": STEPS}, **shared}
        self.cohort: dict[str, Any] = {
            "title": "Two",
            "cases": [{"image": "Doe_1.nii.gz", "name": "a"}, {"image": "Doe_2.nii.gz"}],
            "methods": [self.fbp, self.diffusion],
            "seed": 3,
            "simulate": {"noise": 0.01},
            "resamples": 200,
        }

    def write(self, **changes: Any) -> Path:
        content = {"cohort": self.cohort, "vary": {"operator#views": VIEWS}, "title": "Views <b>"} | changes
        self.file.write_text(json.dumps({key: said for key, said in content.items() if said is not None}))
        return self.file

    def sweep(self, output: Path | None = None, **changes: Any) -> Sweep:
        options = {key: changes.pop(key) for key in ("shard", "executor") if key in changes}
        sweep = Sweep(self.write(**changes), output or self.output, track=False, **options)
        sweep.run()
        return sweep

    def command(self, output: Path, *words: str, vary: list[int] = VIEWS) -> list[str]:
        file = str(self.write(vary={"operator#views": vary}))
        return ["sweep", "--config", file, "--output", str(output), "--checkpoint-every", "1", *words]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def small_picture(volumes: Any, truth: Any, path: Path, **_: Any) -> Path:
    imsave(path, np.zeros((2, 2)))
    return path


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Any:
    """Pictures, of which nothing is asked here, cost nothing; cases without a name get the same one in all folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFRECON_CASE_KEY", "secret")
        for module in (case_task, case_record):
            patch.setattr(module, "montage", small_picture)
        yield


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path], empty_store: Callable[[Path], Path]
) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("sweep"), make_bundle)
    empty_store(folder.output)
    assert cli.main(folder.command(folder.output)) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, make_bundle: Callable[..., Path]) -> Folder:
    return Folder(tmp_path, make_bundle)


@pytest.mark.slow
def test_the_table_is_that_of_the_cohorts(done: Folder, tmp_path: Path) -> None:
    rows = table(done.output)
    assert {row["parameter"] for row in rows} == {"operator#views"}
    assert [row["value"] for row in rows] == [v for v in map(str, VIEWS) for _ in range(len(rows) // 3)]
    assert not COSTS & {row["metric"] for row in rows}
    assert {"psnr", "ssim", "nmse"} <= {row["metric"] for row in rows}
    for views in VIEWS:
        with (done.output / f"points/views-{views}/summary.csv").open(newline="") as file:
            summary = {(row["metric"], row["method"]): row for row in csv.DictReader(file)}
        of_point = [row for row in rows if row["value"] == str(views)]
        for row in of_point:
            said = summary[row["metric"], row["method"]]
            assert (row["n"], row["mean"]) == (said["n"], said["mean"])
            assert row["low"] == row["high"] == ""  # two cases
    psnr = [float(row["mean"]) for row in rows if (row["method"], row["metric"]) == ("FBP", "psnr")]
    assert psnr == sorted(psnr)
    assert psnr[-1] > psnr[0] + 3  # more views are better
    # One point is what the cohort alone would be.
    done.cohort["methods"][0]["overrides"]["operator"]["views"] = 16
    (done.root / "cohort.json").write_text(json.dumps(done.cohort | {"methods": [done.fbp]}))
    alone = CohortEvaluation(done.root / "cohort.json", tmp_path, track=False).run()
    mean = sum(row.value("psnr") for row in alone) / 2
    assert psnr[1] == pytest.approx(mean, rel=1e-6)
    done.cohort["methods"][0]["overrides"]["operator"]["views"] = 5


@pytest.mark.slow
def test_the_page_has_a_chart_a_metric_and_links(done: Folder) -> None:
    page = (done.output / "sweep.html").read_text()
    assert "<title>Views &lt;b&gt;</title>" in page
    metrics = {row["metric"] for row in table(done.output)}
    assert set(re.findall(r'<section id="(\w+)"', page)) == {*metrics, "points"}
    assert page.count("<svg") == len(metrics)
    links = re.findall(r'href="([^"]*)"', page)
    assert links == [f"points/views-{views}/report.html" for views in VIEWS]
    assert all((done.output / link).is_file() for link in links)
    section = page.split('<section id="psnr"')[1].split("</g>")[0]
    (points,) = re.findall(r'<polyline class="curve" points="([^"]*)"', section)
    x = [float(point.split(",")[0]) for point in points.split()]
    assert (x[2] - x[1]) / (x[1] - x[0]) == pytest.approx(2.0, abs=0.02)  # 8 to 16 to 64, logarithmic
    assert "://" not in page


def test_results_as_json(done: Folder) -> None:
    results = json.loads((done.output / "sweep.json").read_text())
    assert [point["value"] for point in results["points"]] == VIEWS
    assert len(results["rows"]) == len(table(done.output))
    assert results["rows"][0]["low"] is None


def test_the_cohorts_are_nested_under_one_run(done: Folder) -> None:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{done.output}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    parent = by_name["Views <b>"]
    assert "mlflow.parentRunId" not in parent.data.tags
    cohorts = [by_name[f"Views <b>, {views}"] for views in VIEWS]
    assert {run.data.tags["mlflow.parentRunId"] for run in cohorts} == {parent.info.run_id}
    assert len(runs) == 1 + 3 + 3 * 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"sweep.csv", "sweep.html", "sweep.json"}
    curve = [point.value for point in client.get_metric_history(parent.info.run_id, "psnr/fbp")]
    said = [float(r["mean"]) for r in table(done.output) if (r["method"], r["metric"]) == ("FBP", "psnr")]
    assert curve == pytest.approx(said, rel=1e-6)


def test_no_output_but_the_cohorts_files_names_a_scan(done: Folder) -> None:
    for path in done.output.rglob("*"):
        if path.is_file() and path.name != "cohort.json":
            assert b"Doe_" not in path.read_bytes(), path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Folder:
    """A sweep of two points that nobody interrupted."""
    folder = Folder(tmp_path_factory.mktemp("two"), make_bundle)
    assert cli.main(folder.command(folder.output, "--no-tracking", vary=VIEWS[:2])) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_sweep_goes_on_to_the_same_bytes(two: Folder, fork_server: Any, tmp_path: Path) -> None:
    """Killed within the diffusion of the first point, and of the second."""
    argv = two.command(tmp_path / "out", "--no-tracking", vary=VIEWS[:2])
    for steps, point in ((2, "views-8"), (2 * STEPS + 3, "views-16")):
        code, said = fork_server.run(tmp_path / "log", argv=argv, kill=(steps, 0.0))
        assert code == -signal.SIGKILL, said
        assert list((tmp_path / "out/points" / point).glob("diffusion/*_checkpoint.pt"))
        assert not (tmp_path / "out/sweep.csv").exists()
    code, said = fork_server.run(tmp_path / "log", argv=argv)
    assert code == 0, said
    assert re.search(r"2 points, 8 reconstructions, [4-7] reused", said), said
    for name in ("sweep.csv", "sweep.json"):
        assert (tmp_path / "out" / name).read_bytes() == (two.output / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_processes_give_the_same_bytes(two: Folder, tmp_path: Path) -> None:
    words = ("--executor", "processes", "--executor-option", "workers=1", "--no-tracking")
    assert cli.main(two.command(tmp_path, *words, vary=VIEWS[:2])) == 0
    assert (tmp_path / "sweep.csv").read_bytes() == (two.output / "sweep.csv").read_bytes()


@pytest.mark.slow
def test_shards_and_once_more(two: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 1):
        assert cli.main(two.command(tmp_path, "--no-tracking", "--shard", f"{number}/2", vary=VIEWS[:2])) == 0
        assert f"shard {number}/2: 2 points, 4 reconstructions, 0 reused" in capsys.readouterr().out
    assert not (tmp_path / "sweep.csv").exists()
    assert cli.main(two.command(tmp_path, "--no-tracking", vary=VIEWS[:2])) == 0
    assert "2 points, 8 reconstructions, 8 reused" in capsys.readouterr().out
    assert (tmp_path / "sweep.csv").read_bytes() == (two.output / "sweep.csv").read_bytes()


@pytest.mark.slow
def test_a_failing_point_stops_no_other(folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    reconstruct = DiffReconInferer.reconstruct

    def broken(self: DiffReconInferer, posed: Any, **options: Any) -> Any:
        if self.specs["operator"]["views"] == 16 and options["case"] == "a":
            raise NumericalError("not finite", where="test")
        return reconstruct(self, posed, **options)

    monkeypatch.setattr(DiffReconInferer, "reconstruct", broken)
    folder.cohort["methods"] = [folder.fbp]
    assert cli.main(folder.command(folder.output, "--no-tracking")) == NumericalError.exit_code
    assert "1 of 3 points failed" in capsys.readouterr().err
    found = {row["value"]: row["n"] for row in table(folder.output) if row["metric"] == "psnr"}
    assert found == {"8": "2", "16": "1", "64": "2"}
    assert 'id="failures"' in (folder.output / "sweep.html").read_text()
    monkeypatch.setattr(DiffReconInferer, "reconstruct", reconstruct)
    assert cli.main(folder.command(folder.output, "--no-tracking")) == 0
    assert "6 reconstructions, 5 reused" in capsys.readouterr().out


@pytest.mark.slow
def test_intervals_are_of_the_mean_over_the_cases(folder: Folder) -> None:
    """Six realizations of the noise of one scan; the noise itself varies."""
    folder.cohort["cases"] = [{"image": "Doe_1.nii.gz", "name": f"r{n}", "realization": n} for n in range(6)]
    folder.cohort["methods"] = [folder.fbp]
    (folder.root / "sub").mkdir()
    paths = {"image": "../Doe_1.nii.gz"}
    cohort = folder.cohort | {"cases": [case | paths for case in folder.cohort["cases"]]}
    cohort["methods"] = [folder.fbp | {"bundle": "../axial"}]
    (folder.root / "sub/cohort.json").write_text(json.dumps(cohort))
    vary = {"simulate#noise": [0.3, 0.01]}
    sweep = folder.sweep(cohort="sub/cohort.json", vary=vary, metrics=["psnr", "mae"], title=None)
    assert sweep.spec.title == "simulate#noise: Two"
    rows = table(folder.output)
    assert {row["metric"] for row in rows} == {"psnr", "mae"}
    noisy, clean = (row for row in rows if row["metric"] == "psnr")
    assert (noisy["value"], clean["value"]) == ("0.3", "0.01")
    assert float(clean["mean"]) > float(noisy["mean"])
    values = [row.value("psnr") for row in sweep.points["noise-0.3"].rows]
    drawn = np.random.default_rng(3).integers(6, size=(200, 6))
    low, high = np.quantile(np.asarray(values)[drawn].mean(axis=1), [0.025, 0.975])
    assert (float(noisy["low"]), float(noisy["high"])) == (pytest.approx(low, rel=1e-6), pytest.approx(high, rel=1e-6))
    assert low < float(noisy["mean"]) < high
    assert 'class="band"' in (folder.output / "sweep.html").read_text()


def test_words_and_volumes_of_other_software(folder: Folder) -> None:
    """A value is in the path of the volumes; values that are no numbers are evenly spaced."""
    folder.cohort["cases"] = folder.cohort["cases"][:1]
    truth, geometry = read_volume(folder.root / "Doe_1.nii.gz")
    for name, part in (("ramp", 0.5), ("hann", 0.9)):
        write_volume(folder.root / f"a_{name}.nii.gz", part * truth, geometry)
    folder.cohort["methods"] = [folder.fbp, {"label": "Theirs", "volumes": "{case}_{value}.nii.gz"}]
    sweep = folder.sweep(vary={"operator#filter": ["ramp", "hann"]})
    psnr = {(row.point, row.method): row.mean for row in sweep.rows if row.metric == "psnr"}
    assert psnr["filter-hann", "Theirs"] > psnr["filter-ramp", "Theirs"]
    assert psnr["filter-hann", "FBP"] != psnr["filter-ramp", "FBP"]
    shutil.rmtree(folder.output)
    folder.cohort["methods"][1]["volumes"] = "{case}_ramp.nii.gz"
    with raises(ConfigError, where="methods#1#volumes"):
        folder.sweep(vary={"operator#filter": ["ramp", "hann"]})


def test_one_point_alone(folder: Folder) -> None:
    """The function that runs a point takes a cohort as it is written."""
    content = folder.cohort | {"methods": [folder.fbp | {"bundle": str(folder.root / "axial")}]}
    content["cases"] = [{"image": str(folder.root / "Doe_1.nii.gz"), "name": "a"}]
    result = run_point(content, folder.output, track=False)
    assert [row.status for row in result.rows] == ["computed"]
    assert result.error is None
    assert result.report == folder.output / "report.html"
    result = run_point(content | {"seed": -1}, folder.output, track=False)
    assert isinstance(result.error, ConfigError)
    assert (result.rows, result.report) == ([], None)


@pytest.mark.parametrize(
    ("changes", "kind", "where"),
    [
        ({"vary": {}}, ConfigError, "views.json#vary"),
        ({"vary": {"operator#views": []}}, ConfigError, "vary#operator#views"),
        ({"vary": {"operator#views": 3}}, ConfigError, "vary#operator#views"),
        ({"vary": {"operator#views": [8], "sampler#steps": [1]}}, ConfigError, "vary"),
        ({"vary": {"operator#views": [8, 16, 8]}}, ConfigError, "vary#operator#views"),
        ({"vary": {"operator#views": [8, 16, 0]}}, ConfigError, "operator#views 0: operator#views"),
        ({"vary": {"operator#views": [8, "many"]}}, ConfigError, "operator#views many: operator#views"),
        (
            {"vary": {"operator#viewz": [8]}},
            ConfigError,
            "operator#viewz 8: method 'FBP': overrides#operator#viewz",
        ),
        ({"vary": {"seed": [1]}}, ConfigError, "seed 1: method 'FBP': overrides#seed"),
        ({"vary": {"simulate#noise": [0.1, -1]}}, ConfigError, ...),
        ({"vary": {"simulate#nose": [0.1]}}, ConfigError, "simulate#nose 0.1: simulate#nose"),
        ({"metrics": ["psnr", "seconds"]}, ConfigError, "metrics"),
        ({"metrics": "psnr"}, ConfigError, "metrics"),
        ({"cohort": "gone.json"}, InputError, "gone.json"),
        ({"cohort": {"cases": []}}, ConfigError, "views.json#cohort#cases"),
        ({"cohort": 3}, ConfigError, ...),
        ({"varie": 1}, ConfigError, "views.json#varie"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    folder: Folder, changes: dict[str, Any], kind: type[DiffReconError], where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing should be computed")

    monkeypatch.setattr(DiffReconInferer, "reconstruct", never)
    folder.cohort["cases"] = folder.cohort["cases"][:1]
    with raises(kind, where=where) as caught:
        folder.sweep(**changes)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (folder.output / "sweep.csv").exists()


def test_a_simulation_that_is_off_does_not_vary(folder: Folder) -> None:
    with raises(ConfigError, where="vary#simulate#noise"):
        folder.sweep(cohort=folder.cohort | {"simulate": False}, vary={"simulate#noise": [0.1]})


def test_results_do_not_replace_the_file(folder: Folder) -> None:
    path = folder.write().rename(folder.root / "sweep.json")
    with raises(ConfigError, where="output_dir"):
        Sweep(path, folder.root, track=False)
