# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Two processes with the same cases and the same output folder at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.errors import ResourceError
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

_STEPS = 8
_REFUSAL = "another process is reconstructing this case in the same folder"


def outputs(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of the volumes in a folder; each has a record that verifies."""
    files = sorted(folder.rglob("*_recon.nii.gz"))
    for file in files:
        verify_record(file.with_name(file.name.replace(".nii.gz", ".provenance.json")))
    return {str(file.relative_to(folder)): sha256_file(file) for file in files}


def check_runs(folder: Path, cases: set[str], parent: str) -> None:
    """No run is left running, none is of two cases, and none was computed twice."""
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in found} <= {"FINISHED", "FAILED"}
    assert {run.info.run_name for run in found} == cases | {parent}
    done: list[str] = []
    for run in found:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "residual")]
        if steps:
            assert sorted(steps) == list(range(1, _STEPS + 1)), run.info.run_name
            done.append(run.info.run_name)
        if run.info.run_name != parent:
            assert run.data.tags["mlflow.parentRunId"]
    assert sorted(done) == sorted(cases)


@pytest.fixture(scope="module")
def second(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return another server, so that two jobs run at once."""
    own = server.second(tmp_path_factory.mktemp("second"))
    yield own
    own.close()


@pytest.fixture
def at_once(server: Any, second: Any, tmp_path: Path) -> Callable[..., list[tuple[int, str]]]:
    """Run a job in two processes that start together."""

    def both(**job: Any) -> list[tuple[int, str]]:
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(s.run, tmp_path / f"log{n}", **job) for n, s in enumerate((server, second))]
            return [done.result(timeout=200) for done in jobs]

    return both


@pytest.mark.slow
def test_two_bundle_runs_of_one_folder_write_every_case_once(
    server: Any, job: Any, at_once: Any, empty_store: Callable[[Path], Path], tmp_path: Path
) -> None:
    alone, output = empty_store(tmp_path / "alone"), empty_store(tmp_path / "out")
    options = {"image": None, "case_name": None, "dataset_dir": str(job.scans), "steps": _STEPS}
    code, said = server.run(tmp_path / "log", bundle=job.reconstruction(alone, **options))
    assert code == 0, said
    expected = outputs(alone)
    assert len(expected) == 3
    seen = at_once(bundle=job.reconstruction(output, **options))
    for code, said in seen:
        assert code in (0, ResourceError.exit_code), said
        assert "Traceback" not in said
        if code:
            assert _REFUSAL in said
    assert outputs(output) == expected  # what one is refused, the other computes
    code, said = server.run(tmp_path / "log", bundle=job.reconstruction(output, **options))
    assert code == 0, said
    assert outputs(output) == expected
    check_runs(output, {name.removesuffix("_recon.nii.gz") for name in expected}, "cohort")
    assert not list(output.rglob(".*.tmp*"))
    assert not list(output.rglob("*checkpoint*"))


@pytest.mark.slow
def test_two_cohorts_in_one_folder_write_every_case_once(
    server: Any, job: Any, at_once: Any, empty_store: Callable[[Path], Path], tmp_path: Path
) -> None:
    alone, output = empty_store(tmp_path / "alone"), empty_store(tmp_path / "out")
    code, said = server.run(tmp_path / "log", argv=job.cohort(alone, steps=_STEPS))
    assert code == 0, said
    expected = outputs(alone)
    assert len(expected) == 3
    seen = at_once(argv=job.cohort(output, steps=_STEPS))
    for code, said in seen:
        assert code in (0, 6), said
        assert "Traceback" not in said
        assert ("another process is " in said) == (code == 6)  # in the folder, or at the case
    assert outputs(output).items() <= expected.items()
    code, said = server.run(tmp_path / "log", argv=job.cohort(output, steps=_STEPS))
    assert code == 0, said
    assert outputs(output) == expected
    check_runs(output, {f"case{n} diffusion" for n in range(3)}, "Three")
    results, single = (json.loads((f / "results.json").read_text())["cases"] for f in (output, alone))
    assert [case["case"] for case in results] == [case["case"] for case in single]
    assert not list(output.rglob(".*.tmp*"))
    assert not list(output.rglob("*checkpoint*"))
