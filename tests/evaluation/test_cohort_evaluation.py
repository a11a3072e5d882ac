# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A small cohort through the whole command: reconstruct, compare, report, and again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError, NumericalError
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

from ..raising import raises

PATIENTS = ("Doe_John_19700101", "Roe_Jane_19691231")
SHAPE = (12, 11, 10)
LABEL = 'Cubic <b>& "more"</b>'
SECTIONS = {"protocol", "summary", "differences", "distributions", "pictures", "agreement", "cases", "versions"}


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


class Folder:
    """Two scans with names of patients, a bundle, and the file of a cohort."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output, self.file = root, root / "out", root / "cohort.json"
        (root / "scans").mkdir()
        for seed, patient in enumerate(PATIENTS):
            write_volume(root / "scans" / f"{patient}.nii.gz", self.volume(seed), geometry_of(SHAPE))
        mask = torch.zeros((1, *SHAPE))
        mask[:, 2:10, 2:9, 2:8] = 1
        write_volume(root / "scans" / f"{PATIENTS[0]}_mask.nii.gz", mask, geometry_of(SHAPE))
        make_bundle(root / "axial")
        shared = {"bundle": "axial", "task": "z_super_resolution"}
        self.content: dict[str, Any] = {
            "title": "Thin <slices>",
            "cases": [
                {"image": f"scans/{PATIENTS[0]}.nii.gz", "mask": f"scans/{PATIENTS[0]}_mask.nii.gz"},
                {"image": f"scans/{PATIENTS[1]}.nii.gz", "name": "second"},
            ],
            "methods": [
                {"label": LABEL, "preset": "cubic", **shared},
                {"label": "Diffusion", "overrides": {"sampler#steps": 2, "device": "cpu"}, **shared},
            ],
            "seed": 3,
            "simulate": {"noise": 0.01},
            "resamples": 200,
        }

    @staticmethod
    def volume(seed: int) -> torch.Tensor:
        noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
        return 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)

    def write(self, **changes: Any) -> Path:
        self.file.write_text(json.dumps(self.content | changes))
        return self.file

    def client(self) -> Any:
        return mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{self.output}/mlflow.db")

    def runs(self) -> list[Any]:
        client = self.client()
        experiment = client.get_experiment_by_name("monai_diffrecon")
        return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def new_folder(root: Path, make_bundle: Callable[..., Path], empty_store: Callable[[Path], Path]) -> Folder:
    empty_store(root / "out")
    return Folder(root, make_bundle)


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path], empty_store: Callable[[Path], Path]
) -> Folder:
    folder = new_folder(tmp_path_factory.mktemp("cohort"), make_bundle, empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFRECON_CASE_KEY", "secret")
        assert cli.main(["evaluate", "--config", str(folder.write()), "--output", str(folder.output)]) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, make_bundle: Callable[..., Path]) -> Folder:
    return Folder(tmp_path, make_bundle)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_case_and_method_is_there_and_right(done: Folder) -> None:
    rows = table(done.output / "cases.csv")
    assert [row["method"] for row in rows] == [LABEL, "Diffusion"] * 2
    assert all(row["status"] == "computed" for row in rows)
    for row, seed, folder in zip(rows, (0, 0, 1, 1), ("cubic-b-more-b", "diffusion") * 2, strict=True):
        path = done.output / folder / f"{row['case']}_recon.provenance.json"
        verify_record(path)
        volume, _ = read_volume(path.with_name(f"{row['case']}_recon.nii.gz"))
        assert float(row["psnr"]) == pytest.approx(volume_metrics(volume, done.volume(seed))["psnr"], rel=1e-5)
        assert bool(row["psnr_mask"]) == (seed == 0)
        assert 0 < float(row["data_residual"]) < 0.3
        assert float(row["jump_ratio"]) > 0
    assert {row["denoiser_calls"] for row in rows if row["method"] == "Diffusion"} == {"2"}


def test_summary_and_differences_agree_with_the_cases(done: Folder) -> None:
    rows = table(done.output / "cases.csv")
    psnr = {m: [float(r["psnr"]) for r in rows if r["method"] == m] for m in (LABEL, "Diffusion")}
    (mean,) = (r for r in table(done.output / "summary.csv") if r["metric"] == "psnr" and r["method"] == "Diffusion")
    assert float(mean["mean"]) == pytest.approx(sum(psnr["Diffusion"]) / 2, rel=1e-6)
    assert mean["n"] == "2"
    (difference,) = (r for r in table(done.output / "differences.csv") if r["metric"] == "psnr")
    assert difference["baseline"] == LABEL
    pairs = [a - b for a, b in zip(psnr["Diffusion"], psnr[LABEL], strict=True)]
    assert float(difference["mean"]) == pytest.approx(sum(pairs) / 2, rel=1e-5)
    assert (difference["p"], difference["p_holm"]) == ("", "")


def test_one_run_a_case_and_method_under_one_for_the_cohort(done: Folder) -> None:
    parent, *children = [run for run in done.runs() if run.data.tags.get("computed") != "false"][:5]
    assert parent.info.run_name == "Thin <slices>"
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 5
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len({(run.data.tags["case"], run.data.tags["method"]) for run in children}) == 4
    assert all("psnr" in run.data.metrics and "data_residual" in run.data.metrics for run in children)
    (data,) = parent.inputs.dataset_inputs
    assert len(data.dataset.digest) == 32
    assert json.loads(data.dataset.source)["sha256"].startswith(data.dataset.digest)
    artifacts = {a.path for a in done.client().list_artifacts(parent.info.run_id)}
    tables = {"cases.csv", "summary.csv", "differences.csv", "results.json"}
    assert artifacts == {"report.html", "montages", "views", *tables}
    assert len(done.client().list_artifacts(parent.info.run_id, "views")) == 2
    rows = table(done.output / "cases.csv")
    for method, folder in ((LABEL, "cubic-b-more-b"), ("Diffusion", "diffusion")):
        values = [float(row["psnr"]) for row in rows if row["method"] == method]
        assert parent.data.metrics[f"psnr/{folder}"] == pytest.approx(sum(values) / 2, rel=1e-6)
        assert parent.data.metrics[f"psnr_worst/{folder}"] == pytest.approx(min(values), rel=1e-6)
        assert f"{min(values):.2f})" in parent.data.tags["mlflow.note.content"]
        assert parent.data.params[f"method.{folder}"].startswith("axial 0.1.0; task z_super_resolution")
    note = parent.data.tags["mlflow.note.content"]
    (picture,) = done.client().list_artifacts(parent.info.run_id, "montages")
    assert f"](get-artifact?path={picture.path}&run_uuid={parent.info.run_id})" in note
    assert "<" not in note.replace("\\<", "").replace("<path>", "")
    scans = [run.inputs.dataset_inputs[0].dataset for run in children]
    assert [scan.name for scan in scans] == [run.data.tags["case"] for run in children]
    assert len({scan.digest for scan in scans}) == 2
    for run in children:
        assert f"`psnr` | {run.data.metrics['psnr']:.2f} |" in run.data.tags["mlflow.note.content"]


def test_several_cohorts_are_nested_under_one_run(
    tmp_path: Path, make_bundle: Callable[..., Path], empty_store: Callable[[Path], Path]
) -> None:
    folder = new_folder(tmp_path, make_bundle, empty_store)
    file = folder.write(cases=folder.content["cases"][1:], methods=folder.content["methods"][:1])
    with TrackedRun(folder.output, "all") as run:
        CohortEvaluation(file, folder.output, parent_run_id=run.run_id).run()
    by_name = {found.info.run_name: found for found in folder.runs()}
    assert by_name["Thin <slices>"].data.tags["mlflow.parentRunId"] == run.run_id
    assert by_name["Thin <slices>"].data.tags["title"] == "Thin <slices>"
    (case,) = (found for name, found in by_name.items() if name not in ("all", "Thin <slices>"))
    assert case.data.tags["mlflow.parentRunId"] == by_name["Thin <slices>"].info.run_id


def test_the_report_is_complete_and_needs_nothing_else(done: Folder) -> None:
    page = Page(done.output / "report.html")
    ids = {a["id"] for _, a in page.tags if a.get("id")}
    assert ids >= SECTIONS
    links = {unquote(str(a["href"])) for tag, a in page.tags if tag == "a"}
    views = {f"views/{path.name}" for path in (done.output / "views").iterdir()}
    assert len(views) == 2
    assert links == {f"#{name}" for name in SECTIONS} | views
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    sources = [a["src"] for _, a in page.tags if a.get("src")]
    assert sources
    assert all(str(s).startswith("data:image/png;base64,") for s in sources)
    assert "://" not in (done.output / "report.html").read_text()
    assert "b" not in {t for t, _ in page.tags} or LABEL in page.text
    text = " ".join("".join(page.text).split())
    assert text.count("n < 6: no power") == sum(a.get("colspan") == "2" for _, a in page.tags) > 5
    assert "Thin <slices>" in page.text
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "svg")
    assert all(a.get("scope") in ("row", "col") for tag, a in page.tags if tag == "th")


def test_nothing_names_a_patient(done: Folder) -> None:
    files = [path for path in done.output.rglob("*") if path.is_file()]
    assert len(files) > 20
    for name in ("Doe_John", "Roe_Jane", "19700101", "19691231"):
        for path in files:
            assert name not in str(path.relative_to(done.output))
            assert name.encode() not in path.read_bytes(), path.name
        assert all(name not in str(run.to_dictionary()) for run in done.runs())


def test_what_is_there_is_not_computed_again(done: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "secret")
    monkeypatch.setattr(DiffReconInferer, "reconstruct", _never)
    before = {p: p.stat().st_mtime_ns for p in done.output.rglob("*.nii.gz")}
    evaluation = CohortEvaluation(done.write(), done.output, track=False)
    rows = evaluation.run()
    assert [row.status for row in rows] == ["reused"] * 4
    assert {p: p.stat().st_mtime_ns for p in done.output.rglob("*.nii.gz")} == before
    stored = table(done.output / "cases.csv")
    assert [float(r["psnr"]) for r in stored] == [pytest.approx(r.value("psnr")) for r in rows]
    # Rows that were lost are made from volumes and records.
    for path in done.output.rglob("*_metrics.json"):
        path.unlink()
    again = CohortEvaluation(done.write(), done.output, track=False).run()
    for old, new in zip(rows, again, strict=True):
        assert new.metrics == pytest.approx(old.metrics, nan_ok=True)
        assert new.agreement == old.agreement


@pytest.mark.parametrize("change", ["seed", "option", "voxel", "weights"])
def test_what_changed_is_computed_again(
    done: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str, make_bundle: Callable[..., Path]
) -> None:
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "secret")
    called: list[str] = []
    monkeypatch.setattr(DiffReconInferer, "reconstruct", lambda self, *a, case, **k: called.append(case) or _never())
    changes: dict[str, Any] = {"cases": done.content["cases"][1:], "methods": done.content["methods"][1:]}
    (method,) = changes["methods"]
    output = done.output
    if change == "seed":
        changes["seed"] = 4
    elif change == "option":
        changes["methods"] = [method | {"overrides": {"sampler#steps": 3, "device": "cpu"}}]
    elif change == "weights":
        make_bundle(tmp_path / "axial", seed=5)
        changes["methods"] = [method | {"bundle": str(tmp_path / "axial")}]
    else:
        output = tmp_path / "out"
        (output / "diffusion").mkdir(parents=True)
        for path in (done.output / "diffusion").glob("second_recon*"):
            (output / "diffusion" / path.name).write_bytes(path.read_bytes())
        volume, geometry = read_volume(output / "diffusion" / "second_recon.nii.gz")
        volume[0, 0, 0, 0] += 1
        write_volume(output / "diffusion" / "second_recon.nii.gz", volume, geometry)
    with raises(DiffReconError, where="cohort", got="second Diffusion: AssertionError"):
        CohortEvaluation(done.write(**changes), output, track=False).run()
    assert called == ["second"]


@pytest.mark.slow
def test_a_failing_method_stops_no_other(
    folder: Folder, empty_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    empty_store(folder.output)
    reconstruct = DiffReconInferer.reconstruct

    def broken(self: DiffReconInferer, *args: Any, case: str, **options: Any) -> Any:
        if self.specs["sampler"]["name"] == "pnp_hqs" and case == "second":
            raise NumericalError("not finite", where=f"{folder.root}/scans/{PATIENTS[1]}.nii.gz")
        return reconstruct(self, *args, case=case, **options)

    monkeypatch.setattr(DiffReconInferer, "reconstruct", broken)
    assert cli.main(["evaluate", "--config", str(folder.write()), "--output", str(folder.output)]) == 5
    assert "1 of 4 reconstructions failed" in capsys.readouterr().err
    rows = table(folder.output / "cases.csv")
    assert [row["status"] for row in rows] == ["computed", "computed", "computed", "failed"]
    assert "not finite" in rows[-1]["error"]
    page = Page(folder.output / "report.html")
    assert "failures" in {a.get("id") for _, a in page.tags}
    by_name = {run.info.run_name: run.info.status for run in folder.runs()}
    assert by_name["Thin <slices>"] == by_name["second diffusion"] == "FAILED"
    assert sorted(by_name.values()) == ["FAILED"] * 2 + ["FINISHED"] * 3
    for path in folder.output.rglob("*"):
        assert not path.is_file() or b"Roe_Jane" not in path.read_bytes()


@pytest.mark.parametrize(
    ("change", "kind", "where", "near"),
    [
        ({"methodz": []}, ConfigError, "cohort.json#methodz", "methods"),
        ({"methods": []}, ConfigError, "cohort.json#methods", ""),
        ({"cases": {}}, ConfigError, "cohort.json#cases", ""),
        ({"cases": "a.nii"}, ConfigError, "cases", ""),
        ({"cases": [{"image": "a", "labl": 1}]}, ConfigError, "cases#0#labl", ""),
        ({"cases": [{"image": ["a"]}]}, InputError, "cases#0#image", ""),
        ({"cases": [{"image": "gone.nii.gz"}]}, InputError, "cases#0#image", ""),
        ({"baseline": "Nobody"}, ConfigError, "baseline", ""),
        ({"baseline": ""}, ConfigError, "baseline", ""),
        ({"title": " "}, ConfigError, "title", ""),
        ({"seed": 1.5}, ConfigError, "seed", ""),
        ({"seed": "1"}, ConfigError, "seed", ""),
        ({"seed": True}, ConfigError, "seed", ""),
        ({"seed": 10**30}, ConfigError, "seed", ""),
        ({"resamples": 10**12}, ConfigError, "resamples", ""),
        ({"data_range": float("inf")}, ConfigError, "data_range", ""),
        ({"data_range": 10**400}, ConfigError, "data_range", ""),
        ({"simulate": {"nose": 1}}, ConfigError, "simulate#nose", "noise"),
        ({"methods": [{"label": "a", "preset": "cubik"}]}, ConfigError, "methods#0#preset", "cubic"),
        ({"methods": [{"label": "a", "preset": 3}]}, ConfigError, "methods#0#preset", ""),
        ({"methods": [{"label": "a", "bundle": "gone"}]}, InputError, "methods#0#bundle", ""),
        ({"methods": [{"label": "a", "auxiliary_bundle": []}]}, InputError, "methods#0#auxiliary_bundle", ""),
        ({"methods": [{"label": "a", "auxiliary_bundle": [3]}]}, InputError, "methods#0#auxiliary_bundle", ""),
        ({"methods": [{"label": "a", "overrides": [1]}]}, ConfigError, "methods#0#overrides", ""),
        ({"methods": [{"label": "a", "prese": 1}]}, ConfigError, "methods#0#prese", "preset"),
        (
            {"methods": [{"label": "a", "overrides": {"sampler#stepz": 1}}]},
            ConfigError,
            "method 'a': overrides#sampler#stepz",
            "sampler#steps",
        ),
        (
            {"methods": [{"label": "a", "overrides": {"sampla": 1}}]},
            ConfigError,
            "method 'a': overrides#sampla",
            "sampler",
        ),
        ({"methods": [{"label": "a", "overrides": {"seed": 1}}]}, ConfigError, "method 'a': overrides#seed", ""),
        ({"methods": [{"label": "A b"}, {"label": "a-b"}]}, ConfigError, "methods#1#label", ""),
        ({"methods": [{"label": "a", "task": "generate"}]}, ConfigError, "method 'a': operator", ""),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    folder: Folder,
    change: dict[str, Any],
    kind: type[DiffReconError],
    where: str,
    near: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DiffReconInferer, "reconstruct", _never)
    for method in change.get("methods", ()):
        method.setdefault("bundle", "axial")
    with pytest.raises(kind) as caught:
        CohortEvaluation(folder.write(**change), folder.output)
    assert (caught.value.where, caught.value.exit_code) == (where, 2)
    assert not near or caught.value.mend == f"did you mean {near!r}?"
    assert "\n" not in str(caught.value)
    assert not (folder.output / "mlflow.db").exists()


def test_a_truth_that_a_simulation_would_replace(folder: Folder) -> None:
    cases = [folder.content["cases"][1] | {"reference": f"scans/{PATIENTS[1]}.nii.gz"}]
    with raises(ConfigError, where="case second: reference", got="simulate true in method 'Cubic <b>& \"more\"</b>'"):
        CohortEvaluation(folder.write(cases=cases), folder.output)


def test_a_measured_scan_and_its_truth(folder: Folder) -> None:
    thick = torch.nn.functional.avg_pool3d(folder.volume(1), (1, 1, 5))
    write_volume(folder.root / "thick.nii.gz", thick, geometry_of(thick.shape[1:], np.diag([1.0, 1, 5, 1])))
    cases = [{"image": "thick.nii.gz", "reference": f"scans/{PATIENTS[1]}.nii.gz", "name": "thick"}]
    changes = {"cases": cases, "methods": folder.content["methods"][:1], "simulate": False}
    (row,) = CohortEvaluation(folder.write(**changes), folder.output, track=False).run()
    volume, _ = read_volume(folder.output / "cubic-b-more-b" / "thick_recon.nii.gz")
    assert volume.shape == (1, *SHAPE)
    assert row.value("psnr") == pytest.approx(volume_metrics(volume, folder.volume(1))["psnr"], rel=1e-5)
    alone = folder.write(**changes | {"cases": [{"image": "thick.nii.gz", "name": "alone"}]})
    (row,) = CohortEvaluation(alone, folder.output, track=False).run()
    assert set(row.metrics) <= {"seconds", "network_calls", "denoiser_calls", "peak_memory", "data_residual"}
    assert 0 < row.value("data_residual") < 1
    assert "There is no truth" in (folder.output / "report.html").read_text()


def test_an_interrupt_ends_all(
    folder: Folder, empty_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_store(folder.output)

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(DiffReconInferer, "reconstruct", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CohortEvaluation(folder.write(), folder.output).run()
    assert [run.info.status for run in folder.runs()] == ["KILLED", "KILLED"]


def test_files_that_are_damaged_are_found_before_anything_runs(folder: Folder) -> None:
    scan = folder.root / "scans" / f"{PATIENTS[1]}.nii.gz"
    content = scan.read_bytes()
    scan.write_bytes(b"not a scan")
    with raises(InputError, where="case second: image", got=...) as caught:
        CohortEvaluation(folder.write(), folder.output)
    assert "Roe" not in str(caught.value)
    scan.write_bytes(content)
    with (folder.root / "axial/models/model.pt").open("ab") as file:
        file.write(b"\0")
    with raises(
        IntegrityError,
        where="method 'Cubic <b>& \"more\"</b>': bundle axial, models/model.pt",
        got=...,
    ):
        CohortEvaluation(folder.write(), folder.output)


def test_a_monai_datalist_through_bundle_run(folder: Folder) -> None:
    entries = [{"image": f"{PATIENTS[0]}.nii.gz", "label": 1, "fold": 0}]
    (folder.root / "scans" / "datalist.json").write_text(json.dumps({"test": entries, "training": []}))
    methods = [{k: v for k, v in folder.content["methods"][0].items() if k != "bundle"}]
    folder.write(cases={"datalist": "scans/datalist.json", "section": "test"}, methods=methods)
    config = ConfigParser()
    config.read_config(str(folder.root / "axial/configs/evaluate.json"))
    config.update(
        {
            "bundle_root": str(folder.root / "axial"),
            "cohort": str(folder.file),
            "output_dir": str(folder.output),
            "track": False,
        }
    )
    ((row,),) = config.get_parsed_content("run")
    assert row.status == "computed"
    assert row.case.startswith("case-")
    assert (folder.output / "report.html").is_file()
    for section in ("val", ["test"]):
        file = folder.write(cases={"datalist": "scans/datalist.json", "section": section})
        with pytest.raises(ConfigError) as caught:
            CohortEvaluation(file, folder.output, track=False)
        assert (caught.value.where, caught.value.expected) == ("cases#section", "test, training")


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing should be computed")


@pytest.mark.slow
def test_a_truth_or_a_mask_that_lies_elsewhere(folder: Folder) -> None:
    def place(name: str, volume: torch.Tensor, z: float, spacing: float = 1.0) -> str:
        affine = np.diag([1.0, 1.0, spacing, 1.0])
        affine[:3, 3] = 30.0, -12.0, z
        write_volume(folder.root / name, volume, geometry_of(volume.shape[1:], affine))
        return name

    truth = folder.volume(1)
    thick = place("thick.nii.gz", torch.nn.functional.avg_pool3d(truth, (1, 1, 5)), 2.0, 5.0)
    right, wrong = place("right.nii.gz", truth, 0.0), place("wrong.nii.gz", truth, 20.0)
    mask = place("mask.nii.gz", torch.ones_like(truth), 3.0)
    larger = place("larger.nii.gz", torch.cat([truth[..., :4], truth, truth[..., -4:]], -1), -4.0)
    method = folder.content["methods"][0]

    def evaluate(case: dict[str, str], **overrides: Any) -> CaseRow:
        changes = {"cases": [{"image": thick, "name": "c", **case}], "methods": [{**method, "overrides": overrides}]}
        (row,) = CohortEvaluation(folder.write(**changes, simulate=False), folder.output, track=False).run()
        return row

    for case in ({"reference": wrong}, {"reference": right, "mask": mask}):
        with raises(InputError, where="cohort"):
            evaluate(case)
    expected = evaluate({"reference": right}).value("psnr")
    got = evaluate({"reference": larger}, resample_reference=True).value("psnr")
    assert got == pytest.approx(expected, abs=0.01)
    record = json.loads(next(folder.output.glob("cubic*/c_recon.provenance.json")).read_text())
    assert [list(step) for step in record["preparation"]] == [["resample_reference"]]
