# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cases by several processes: files, results and MLflow runs are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.data import DataLoader, Dataset, IterableDataset

from monai_diffrecon import distributed
from monai_diffrecon.engine.cases.loaded_cases import LoadedCases
from monai_diffrecon.errors import InputError, ResourceError
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

from .started_jobs import Found, started

DONE = ("a", "c", "d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return started("case_jobs.py", folder)


def voxels(folder: Path) -> list[str]:
    """Return the hash of each volume, after its record was verified."""
    return [verify_record(folder / f"{case}_recon.provenance.json")["output"]["voxels_sha256"] for case in DONE]


def equal(a: Any, b: Any) -> bool:
    """Say whether nested values are equal; NaN equals itself."""
    return repr(a) == repr(b)


@pytest.mark.slow
def test_every_process_knows_all_results_and_loads_its_own_cases_only(found: Found) -> None:
    (alone,) = found("cases_said", 1)
    assert [row["case"] for row in alone["results"]] == list(DONE)
    for count in (2, 3):
        for rank, said in enumerate(found("cases_said", count)):
            assert said["loaded"] == list(range(rank, 4, count))
            assert all(equal(said[name], alone[name]) for name in ("results", "failures", "metrics"))
        for result in found("cases", count):
            assert (result["where"], result["exit_code"]) == ("cases", InputError.exit_code)


@pytest.mark.slow
def test_voxels_are_those_of_one_process(found: Found, folder: Path) -> None:
    found("cases", 1)
    alone = voxels(folder / "by1")
    assert len(set(alone)) == len(DONE)
    assert voxels(folder / "by2") == voxels(folder / "tracked") == alone


@pytest.mark.slow
def test_one_run_for_the_cohort_and_one_below_it_for_each_case(found: Found, folder: Path) -> None:
    found("cases", 3)
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{folder}/tracked/mlflow.db")
    runs = {
        run.info.run_name: run
        for run in client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    }
    assert sorted(runs) == ["a", "b", "c", "cohort", "d"]
    parents = {run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name != "cohort"}
    assert parents == {runs["cohort"].info.run_id}
    failed = {name for name, run in runs.items() if run.info.status == "FAILED"}
    assert failed == {"b", "cohort"}
    assert runs["c"].data.metrics["psnr"] < 0.0 < runs["a"].data.metrics["psnr"]
    assert [file.path for file in client.list_artifacts(runs["d"].info.run_id)]


@pytest.mark.slow
def test_the_others_finish_their_cases_after_a_process_died_and_the_same_command_goes_on(
    found: Found, folder: Path
) -> None:
    first, second = found("dead_case", 2)
    assert second is None
    assert (first["error"], first["exit_code"]) == ("ResourceError", ResourceError.exit_code)
    said = found("dead_case_said", 2)[0]
    assert [row["case"] for row in said["results"]] == ["a", "c"]
    (alone,) = found("cases_said", 1)
    for said in found("continued_said", 2):
        assert equal(said["results"], alone["results"])
    assert voxels(folder / "dead") == voxels(folder / "by1")


@pytest.mark.parametrize(
    "loader",
    [
        [{"case": i} for i in range(5)],
        DataLoader(Dataset([{"case": i} for i in range(5)]), batch_size=1),
        DataLoader(Dataset([{"case": i} for i in range(5)]), batch_size=None, collate_fn=lambda item: item),
        DataLoader(IterableDataset([{"case": i} for i in range(5)]), batch_size=1),
    ],
    ids=["list", "batches", "no batches", "iterable"],
)
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_every_kind_of_loader_is_dealt_out(loader: Any, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = LoadedCases(loader)
    assert [int(batch["case"]) for batch in cases] == list(range(5))
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: turn)
    monkeypatch.setattr(distributed, "from_first", lambda value: value)
    cases.apart = True
    batches = [batch for batch, _ in zip(cases, range(5), strict=False)]
    assert [None if batch is None else int(batch["case"]) for batch in batches] == [
        i if i % 3 == turn else None for i in range(5)
    ]
