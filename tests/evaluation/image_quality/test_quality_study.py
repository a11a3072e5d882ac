# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A study of image quality through the whole command: phantoms, reconstructions, metrics, report, and again."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError
from monai_diffrecon.evaluation.image_quality.study.runner import QualityStudy
from monai_diffrecon.evaluation.image_quality.study.scans import phantom_cases, write_phantoms
from monai_diffrecon.evaluation.image_quality.study.spec import checked_study, read_study
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.tracking.mlflow_client import mlflow_module

BUNDLE = str(Path(__file__).parents[3] / "bundles" / "body_ct")
NODULE = {"kind": "nodule", "diameter": 5.0, "contrast": 80.0}
STUDY: dict[str, Any] = {
    "title": "Small",
    "modality": "CT",
    "grid": {"shape": [48, 48, 12], "spacing": 1.5},
    "phantoms": ["uniform", {"name": "lesions", "lesions": [NODULE], "background": "plain", "most": 9}],
    "methods": [
        {"label": "FBP", "bundle": BUNDLE, "task": "sparse_view_ct", "preset": "fbp"},
        {"label": "Ideal", "volumes": "ideal/{case}.nii.gz"},
    ],
    "simulate": {"photons": 1e6},
}


class Tags(HTMLParser):
    """Ids of sections, and pictures that are not within the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: set[str] = set()
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "section":
            self.sections.add(str(found.get("id")))
        if tag == "img" and not str(found.get("src")).startswith("data:"):
            self.outside.append(str(found.get("src")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study, volumes of another method (the phantoms themselves), and the results."""
    root = tmp_path_factory.mktemp("quality")
    (root / "study.json").write_text(json.dumps(STUDY))
    write_phantoms(phantom_cases(read_study(root / "study.json")), root / "ideal")
    QualityStudy(root / "study.json", root / "out", track=False).run()
    return root


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "findings.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_each_case_has_noise_of_its_own(folder: Path) -> None:
    cases = json.loads((folder / "out" / "cohort.json").read_text())["cases"]
    assert len(cases) == 2 + 4
    assert len({case["realization"] for case in cases}) == len(cases)
    one, two = (read_volume(folder / f"out/reconstructions/fbp/uniform-{i}_recon.nii.gz")[0] for i in (0, 1))
    # Slices of the phantom are alike: what differs between them is noise.
    noises = [(x - x.mean(dim=3, keepdim=True))[:, 16:32, 16:32].flatten() for x in (one, two)]
    assert abs(float(torch.nn.functional.cosine_similarity(*noises, dim=0))) < 0.1


@pytest.mark.slow
def test_the_volumes_of_other_software_are_judged_alike(folder: Path) -> None:
    """The phantoms themselves keep everything and invent nothing; filtered back-projection has noise."""
    found = {(r["method"], r["quantity"]): r for r in rows(folder)}
    assert float(found["Ideal", "lesion_contrast"]["value"]) == pytest.approx(1.0, abs=1e-5)
    assert float(found["Ideal", "null_rmse"]["value"]) == 0.0
    assert float(found["Ideal", "false_lesions"]["value"]) == 0.0
    assert 0.5 < float(found["FBP", "lesion_contrast"]["value"]) < 1.3
    assert float(found["FBP", "null_rmse"]["value"]) > 1.0
    assert float(found["FBP", "noise_std"]["value"]) > 1.0
    measured = {m: found[m, "lesion_measured"]["value"] for m in ("FBP", "Ideal")}
    assert measured["FBP"] == measured["Ideal"]  # it is the operator's, not the method's
    assert 0.2 < float(measured["FBP"]) < 1.0


@pytest.mark.slow
def test_the_report_answers_each_question(folder: Path) -> None:
    page = Tags((folder / "out" / "image_quality.html").read_text())
    assert page.sections == {"answer", "contrast", "noise", "invented", "uncertain", "methods"}
    assert not page.outside
    summary = (folder / "out" / "summary.md").read_text()
    assert "| nodule, 5 mm, 80 HU |" in summary
    assert Tags((folder / "out" / "summary.html").read_text()).sections == {"answer"}


@pytest.mark.slow
def test_running_it_again_gives_the_same(folder: Path) -> None:
    before = (folder / "out" / "findings.csv").read_bytes()
    study = QualityStudy(folder / "study.json", folder / "out", track=False)
    study.run()
    assert {row.status for row in study.evaluation.rows} == {"reused"}
    assert (folder / "out" / "findings.csv").read_bytes() == before


@pytest.mark.slow
def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Phantoms alone for other software, and the whole with MLflow."""
    file, out = str(folder / "study.json"), tmp_path / "out"
    assert cli.main(["image-quality", "--config", file, "--output", str(out), "--phantoms-only"]) == 0
    assert len(list((out / "phantoms").glob("*.nii.gz"))) == 6
    assert not (out / "reconstructions").exists()
    assert (out / "cohort.json").read_bytes() == (folder / "out" / "cohort.json").read_bytes()
    store = f"sqlite:///{out / 'mlflow.db'}"
    assert cli.main(["image-quality", "--config", file, "--output", str(out), "--tracking-uri", store]) == 0
    assert "12 reconstructions, 0 reused" in capsys.readouterr().out
    assert (out / "findings.csv").read_bytes() == (folder / "out" / "findings.csv").read_bytes()
    client = mlflow_module().MlflowClient(tracking_uri=store)
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    (study,) = parents
    assert study.info.run_name == "Small"
    assert study.data.metrics["lesion_contrast_nodule_5.0_80.0/ideal"] == pytest.approx(1.0, abs=1e-5)
    assert "image_quality.html" in {a.path for a in client.list_artifacts(study.info.run_id)}


@pytest.mark.slow
def test_a_sweep_of_a_study(folder: Path, tmp_path: Path) -> None:
    """More photons, less noise; the table is the same when it is made again."""
    content = {**STUDY, "phantoms": ["uniform"], "methods": STUDY["methods"][:1]}
    vary = {"simulate#photons": [1e4, 1e6]}
    (tmp_path / "sweep.json").write_text(json.dumps({"study": content, "vary": vary, "metrics": ["noise_std"]}))
    command = ["sweep", "--config", str(tmp_path / "sweep.json"), "--output", str(tmp_path / "out"), "--no-tracking"]
    assert cli.main(command) == 0
    table = (tmp_path / "out" / "sweep.csv").read_bytes()
    with (tmp_path / "out" / "sweep.csv").open() as file:
        noisy, clean = list(csv.DictReader(file))
    assert noisy["metric"] == clean["metric"] == "noise_std"
    assert float(noisy["mean"]) > 3 * float(clean["mean"]) > 0
    assert cli.main(command) == 0
    assert (tmp_path / "out" / "sweep.csv").read_bytes() == table
    (tmp_path / "sweep.json").write_text(json.dumps({"study": content, "vary": vary, "metrics": ["psnr"]}))
    assert cli.main(command) == ConfigError.exit_code
    both = {"study": content, "cohort": {}, "vary": vary}
    (tmp_path / "sweep.json").write_text(json.dumps(both))
    assert cli.main(command) == ConfigError.exit_code


@pytest.mark.slow
def test_a_missing_volume_is_told_and_the_others_are_measured(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ideal").mkdir()
    for path in (folder / "ideal").glob("uniform-*"):
        (tmp_path / "ideal" / path.name).write_bytes(path.read_bytes())
    study = QualityStudy(
        {**STUDY, "metrics": ["noise_power", "lesion_survival"]}, tmp_path / "out", base=tmp_path, track=False
    )
    with pytest.raises(DiffReconError):
        study.run()
    with (tmp_path / "out" / "findings.csv").open() as file:
        methods = {(r["method"], r["metric"]) for r in csv.DictReader(file)}
    assert ("FBP", "lesion_survival") in methods
    assert ("Ideal", "lesion_survival") not in methods


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"phantoms": ["unicorn"]}, ConfigError),
        ({"phantoms": []}, ConfigError),
        ({"phantoms": ["uniform", "uniform"]}, ConfigError),
        ({"phantoms": [{"name": "uniform", "colour": 1}]}, ConfigError),
        ({"phantoms": [{"name": "uniform", "realizations": 0}]}, ConfigError),
        ({"modality": "PET"}, ConfigError),
        ({"grid": {"shape": [48, 48], "spacing": 1.5}}, ConfigError),
        ({"grid": {"shape": [48, 48, 12], "spacing": 0}}, ConfigError),
        ({"grid": {"shape": [48, 48, 12]}}, ConfigError),
        ({"metrics": ["psnr"]}, ConfigError),
        ({"metrics": ["unicorn"]}, PluginError),
        ({"methods": []}, ConfigError),
        ({"realizations": True}, ConfigError),
        ({"colour": 1}, ConfigError),
        ({"phantoms": [{"name": ["uniform"]}]}, ConfigError),
        ({"focus": {"size": 4}}, ConfigError),
    ],
)
def test_faults_of_the_file(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        checked_study({**STUDY, **change}, "study")


def test_a_phantom_that_does_not_fit_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    content = {**STUDY, "phantoms": [{"name": "rods", "diameter": 60}]}
    with pytest.raises(ConfigError):
        QualityStudy(content, tmp_path / "out", base=tmp_path, track=False)
    assert not list((tmp_path / "out").glob("reconstructions/*"))


def test_methods_must_share_the_measurement_and_the_focus_must_be_there(tmp_path: Path) -> None:
    other = {**STUDY["methods"][0], "label": "More views", "overrides": {"operator#views": 64}}
    with pytest.raises(ConfigError):
        QualityStudy({**STUDY, "methods": [STUDY["methods"][0], other]}, tmp_path, track=False)
    with pytest.raises(ConfigError):
        QualityStudy({**STUDY, "methods": STUDY["methods"][:1], "focus": {"diameter": 99}}, tmp_path, track=False)


def test_another_grid_is_written_anew(tmp_path: Path) -> None:
    """Voxels of the same values at another size are other phantoms."""
    coarse = {**STUDY, "phantoms": ["uniform"]}
    fine = {**coarse, "grid": {**STUDY["grid"], "spacing": 1.0}}
    for content, size in ((coarse, 1.5), (fine, 1.0)):
        write_phantoms(phantom_cases(checked_study(content, "study")), tmp_path)
        assert read_volume(tmp_path / "uniform-0.nii.gz")[1].spacing == pytest.approx((size,) * 3)
