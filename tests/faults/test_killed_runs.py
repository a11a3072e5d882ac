# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, at any moment, and go on."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

KILLS = 20
#: More than can be done between two kills, whatever else the machine does.
STEPS = 200


def outputs(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of the volumes in a folder; each has a record that verifies."""
    files = sorted(folder.rglob("*_recon.nii.gz"))
    for file in files:
        verify_record(file.with_name(file.name.replace(".nii.gz", ".provenance.json")))
    return {str(file.relative_to(folder)): sha256_file(file) for file in files}


def record_of(folder: Path) -> dict[str, Any]:
    return verify_record(folder / "a_recon.provenance.json")


def runs(folder: Path) -> list[Any]:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    return client.search_runs([experiment.experiment_id], max_results=1000)


def leftovers(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if "checkpoint" in p.name]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], Path]) -> Callable[[str], Path]:
    """Return what makes an output folder with an empty MLflow store."""
    root = tmp_path_factory.mktemp("outputs")
    return lambda name: empty_store(root / name)


@pytest.fixture(scope="module")
def whole(server: Any, job: Any, store: Callable[[str], Path], tmp_path_factory: Any) -> dict[str, str]:
    """Return the outputs of runs that nobody interrupted: of one scan, and of a cohort."""
    folder, log = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("log") / "log"
    code, said = server.run(log, bundle=job.reconstruction(folder / "one", steps=STEPS, checkpoint_every=0))
    assert code == 0, said
    code, said = server.run(log, argv=job.cohort(folder / "cohort", steps=40))
    assert code == 0, said
    return outputs(folder)


@pytest.mark.slow
def test_twenty_kills_at_random_points_give_the_same_file(
    server: Any, job: Any, store: Callable[[str], Path], whole: dict[str, str], tmp_path: Path
) -> None:
    output, chance = store("one"), random.Random(1)
    arguments = job.reconstruction(output, steps=STEPS)
    for _ in range(KILLS):
        at = (chance.randint(0, 2), chance.uniform(0.0, 0.02))
        code, said = server.run(tmp_path / "log", bundle=arguments, kill=at)
        assert code == -signal.SIGKILL, said
        assert not outputs(output)
    code, said = server.run(tmp_path / "log", bundle=arguments)
    assert code == 0, said
    assert outputs(output)["a_recon.nii.gz"] == whole["one/a_recon.nii.gz"]
    record = record_of(output)
    assert record["report"]["execution"]["resumed"] > 0
    assert len(record["report"]["steps"]) == STEPS
    assert not leftovers(output)


@pytest.mark.slow
def test_twenty_kills_of_a_cohort_give_the_same_files(
    server: Any, job: Any, store: Callable[[str], Path], whole: dict[str, str], tmp_path: Path
) -> None:
    output, chance = store("three"), random.Random(2)
    arguments = job.cohort(output, steps=40)
    for number in range(KILLS):
        # Some at once, while all is still being read and checked, and some after a few steps.
        at = (0, chance.uniform(0.0, 0.3)) if number % 4 == 0 else (chance.randint(1, 7), 0.0)
        code, said = server.run(tmp_path / "log", argv=arguments, kill=at)
        assert code == -signal.SIGKILL, said
    code, said = server.run(tmp_path / "log", argv=arguments)
    assert code == 0, said
    assert outputs(output) == {k.removeprefix("cohort/"): v for k, v in whole.items() if k.startswith("cohort/")}
    assert not leftovers(output)
    assert json.loads((output / "results.json").read_text())["cases"]


@pytest.mark.slow
def test_every_attempt_has_a_run_of_its_own_and_none_is_left_running(
    server: Any, job: Any, store: Callable[[str], Path], tmp_path: Path
) -> None:
    output = store("runs")
    for after in (2, 4):
        arguments = job.reconstruction(output)
        assert server.run(tmp_path / "log", bundle=arguments, kill=(after, 0.0))[0] == -signal.SIGKILL
    assert server.run(tmp_path / "log", bundle=job.reconstruction(output))[0] == 0
    arguments = job.reconstruction(output, image=str(job.scans / "Doe_1.nii.gz"), case_name="b")
    assert server.run(tmp_path / "log", bundle=arguments)[0] == 0
    found = runs(output)
    states = {(run.info.run_name, run.info.status) for run in found}
    assert states == {("a", "KILLED"), ("a", "FINISHED"), ("b", "FINISHED")}
    assert not any("mlflow.parentRunId" in run.data.tags for run in found)
    assert len({run.info.run_id for run in found}) == len(found) == 4
    killed = {run.info.run_id for run in found if run.info.status == "KILLED" and run.info.run_name == "a"}
    done = next(run for run in found if run.info.run_name == "a" and run.info.status == "FINISHED")
    assert done.data.tags["resumed_from"] in killed
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    curve = [point.step for point in client.get_metric_history(done.info.run_id, "residual")]
    assert sorted(curve) == [row["step"] for row in record_of(output)["report"]["steps"]]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["during", "after"])
def test_a_kill_at_every_write_loses_nothing(
    when: str, server: Any, job: Any, store: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = store(f"unwritten-{when}")
    reference = {"reference": str(job.scans / "Doe_0.nii.gz"), "steps": 2}
    assert server.run(tmp_path / "log", bundle=job.reconstruction(whole, **reference))[0] == 0
    deaths = 0
    for number in range(1, 20):
        fresh = store(f"written-{when}-{number}")
        code, said = server.run(
            tmp_path / "log",
            bundle=job.reconstruction(fresh, **reference),
            die_at={"write": number, "when": when},
        )
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        deaths += 1
        # What is there is whole: an output without its record, or with one that verifies.
        for record in fresh.glob("*.provenance.json"):
            verify_record(record)
        code, said = server.run(tmp_path / "log", bundle=job.reconstruction(fresh, **reference))
        assert code == 0, said
        assert outputs(fresh) == outputs(whole)
        assert not leftovers(fresh)
    assert deaths >= 5  # two checkpoints, volume, picture, record


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_says_killed(
    server: Any, job: Any, store: Callable[[str], Path], whole: dict[str, str], tmp_path: Path
) -> None:
    output = store("term")
    arguments = job.reconstruction(output, steps=STEPS, checkpoint_every=0)
    code, said = server.run(tmp_path / "log", bundle=arguments, kill=(20, 0.0), number=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert [(run.info.run_name, run.info.status) for run in runs(output)] == [("a", "KILLED")]
    code, said = server.run(tmp_path / "log", bundle=arguments | {"resume": "require"})
    assert code == 0, said
    assert outputs(output)["a_recon.nii.gz"] == whole["one/a_recon.nii.gz"]
    assert record_of(output)["report"]["execution"]["resumed"] == 1


@pytest.mark.slow
def test_a_changed_option_does_not_go_on(server: Any, job: Any, store: Callable[[str], Path], tmp_path: Path) -> None:
    output = store("changed")
    assert server.run(tmp_path / "log", bundle=job.reconstruction(output), kill=(3, 0.0))[0] == -signal.SIGKILL
    code, said = server.run(tmp_path / "log", bundle=job.reconstruction(output, seed=1))
    assert code == 3
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "other seed (0, now 1)" in line
    assert not outputs(output)
    assert server.run(tmp_path / "log", bundle=job.reconstruction(output, seed=1, resume="never"))[0] == 0
    # A case that is done is left alone; another configuration computes it anew.
    first = record_of(output)
    code, said = server.run(tmp_path / "log", bundle=job.reconstruction(output, seed=1))
    assert code == 0
    assert "step 1" not in said
    assert "false" in [run.data.tags.get("computed") for run in runs(output)]
    assert server.run(tmp_path / "log", bundle=job.reconstruction(output, seed=0))[0] == 0
    assert [record["seeds"] for record in (first, record_of(output))] == [{"noise": 1}, {"noise": 0}]


@pytest.mark.slow
def test_two_processes_do_not_write_one_case(
    server: Any, job: Any, store: Callable[[str], Path], whole: dict[str, str], tmp_path: Path
) -> None:
    output = store("two")
    arguments = job.reconstruction(output, steps=STEPS)
    seen: list[tuple[int, str]] = []
    other = server.second(tmp_path)

    def second() -> None:
        seen.append(other.run(tmp_path / "second", bundle=arguments))
        other.close()

    code, said = server.run(tmp_path / "log", bundle=arguments, pause=(5, second))
    assert code == 0, said
    assert outputs(output)["a_recon.nii.gz"] == whole["one/a_recon.nii.gz"]
    ((refused, told),) = seen
    assert refused == 6
    assert "case a: another process is reconstructing this case in the same folder" in told
