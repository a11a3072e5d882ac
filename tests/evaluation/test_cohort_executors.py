# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A cohort by several processes or in shards gives what one process gives, also after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import BusyError, ConfigError, IntegrityError, PluginError, ResourceError
from monai_diffrecon.evaluation.cohort import case_task
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.evaluation.cohort.shards import Shard
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Executor
from monai_diffrecon.tracking.mlflow_client import mlflow_module

from ..raising import raises

SHAPE = (12, 11, 10)
CASES = ("a", "b", "c")
#: What differs from run to run.
COSTS = ("status", "seconds", "peak_memory")
#: Of a file that has none.
TITLE = "Comparison of reconstructions"


class Cohort:
    """Three scans, a bundle and two methods."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.output, self.file = root, root / "out", root / "cohort.json"
        for seed, name in enumerate(CASES):
            noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
            smooth = torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
            write_volume(root / f"{name}.nii.gz", 500 * smooth, geometry_of(SHAPE))
        make_bundle(root / "axial")
        self.write(2)

    def write(self, steps: int) -> None:
        shared = {"bundle": "axial", "task": "z_super_resolution"}
        self.file.write_text(
            json.dumps(
                {
                    "cases": [{"image": f"{name}.nii.gz", "name": name} for name in CASES],
                    "methods": [
                        {"label": "Cubic", "preset": "cubic", **shared},
                        {"label": "Diffusion", "overrides": {"sampler#steps": steps, "device": "cpu"}, **shared},
                    ],
                    "seed": 3,
                    "simulate": {"noise": 0.01},
                    "resamples": 200,
                }
            )
        )

    def evaluate(self, output: Path | None = None, **options: Any) -> CohortEvaluation:
        evaluation = CohortEvaluation(self.file, output or self.output, **{"track": False, **options})
        evaluation.run()
        return evaluation

    def command(self, *words: str) -> int:
        return cli.main(["evaluate", "--config", str(self.file), "--output", str(self.output), *words])


def tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return the tables without what differs from run to run."""
    found = {}
    for name in ("cases", "summary", "differences"):
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]
        found[name] = [row for row in rows if row.get("metric") not in COSTS]
    return found


def voxels(folder: Path) -> dict[str, str]:
    return {f"{p.parent.name}/{p.name}": sha256_file(p) for p in folder.glob("*/*_recon.nii.gz")}


@pytest.fixture
def cohort(tmp_path: Path, make_bundle: Callable[..., Path]) -> Cohort:
    return Cohort(tmp_path, make_bundle)


@pytest.fixture
def serial(cohort: Cohort, tmp_path: Path) -> Path:
    return cohort.evaluate(tmp_path / "serial").output_dir


@pytest.mark.slow
def test_processes_give_the_tables_of_one(
    cohort: Cohort, serial: Path, empty_store: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    empty_store(cohort.output)
    options = ("--executor", "processes", "--executor-option", "workers=2")
    assert cohort.command(*options) == 0
    assert "6 reconstructions, 0 reused" in capsys.readouterr().out
    assert tables(cohort.output) == tables(serial)
    assert len(tables(serial)["cases"]) == 6
    assert voxels(cohort.output) == voxels(serial)
    assert len(list((cohort.output / "montages").glob("*.png"))) == 3
    # The store is a file, so the driver logged what the workers noted: every run, with the curve of each step.
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{cohort.output}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert by_name.keys() == {TITLE, *(f"{case} {method}" for case in CASES for method in ("cubic", "diffusion"))}
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = by_name.pop(TITLE).info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in by_name.values()} == {parent}
    one = by_name["b diffusion"]
    assert (one.data.tags["computed"], one.data.params["seed"]) == ("true", "3")
    assert [m.step for m in client.get_metric_history(one.info.run_id, "residual")] == [1, 2]
    assert "b_recon.provenance.json" in {a.path for a in client.list_artifacts(one.info.run_id)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("executor", [{"name": "processes", "workers": 1}, {"name": "dask", "cluster": "local"}])
def test_a_killed_worker_loses_nothing(cohort: Cohort, tmp_path: Path, executor: dict[str, Any]) -> None:
    cohort.write(12)
    serial = cohort.evaluate(tmp_path / "serial").output_dir
    folder, killed = cohort.output / "diffusion", list[int]()

    def kill() -> None:
        """Kill the process that has the lock of the case, once it has written a checkpoint."""
        while not (folder / "a_checkpoint.pt").exists():
            time.sleep(0.002)
        inode = (folder / ".diffrecon" / "locks" / "a.lock").stat().st_ino
        for words in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if words[5].endswith(f":{inode}"):
                killed.append(int(words[4]))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    rows = cohort.evaluate(executor=executor, checkpoint_every=1).rows
    thread.join()
    assert len(killed) == 1
    assert killed != [os.getpid()]
    assert [row.status for row in rows] == ["reused", *["computed"] * 5]  # the first method of the case was done
    record = json.loads((folder / "a_recon.provenance.json").read_text())
    assert record["report"]["execution"]["resumed"] == 1
    assert voxels(cohort.output) == voxels(serial)
    assert tables(cohort.output) == tables(serial)


@pytest.mark.slow
def test_shards_and_once_more(cohort: Cohort, serial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (3, 1, 2):
        assert cohort.command("--shard", f"{number}/3", "--no-tracking") == 0
        assert f"shard {number}/3: 2 reconstructions, 0 reused" in capsys.readouterr().out
    assert not (cohort.output / "cases.csv").exists()
    assert cohort.command("--no-tracking") == 0
    assert "6 reconstructions, 6 reused" in capsys.readouterr().out
    assert tables(cohort.output) == tables(serial)
    assert cohort.command("--shard", "4/4", "--no-tracking") == 0
    assert "shard 4/4: 0 reconstructions" in capsys.readouterr().out


@pytest.mark.slow
def test_shards_leave_a_file_store_to_the_run_that_reduces(cohort: Cohort, empty_store: Callable[[Path], Path]) -> None:
    empty_store(cohort.output)
    cohort.evaluate(shard="1/1", track=True)
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{cohort.output}/mlflow.db")
    assert client.get_experiment_by_name("monai_diffrecon") is None
    cohort.evaluate(track=True)
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    assert len(runs) == 7
    assert all("psnr" in run.data.metrics for run in runs if "mlflow.parentRunId" in run.data.tags)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/3", "a/b", "", "1 /3"])
def test_what_is_no_shard(cohort: Cohort, text: str) -> None:
    with raises(ConfigError, where="shard", got=repr(text)):
        CohortEvaluation(cohort.file, cohort.output, shard=text)


def test_every_case_is_in_one_shard() -> None:
    cases: Any = list(range(11))
    for count in (1, 2, 5, 11, 13):
        parts = [Shard(number, count).of(cases) for number in range(1, count + 1)]
        assert sorted(case for part in parts for case in part) == cases
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held", "shard", "busy"),
    [
        ("evaluation", None, True),
        ("evaluation", "1/2", True),
        ("shard-1-of-2", None, True),
        ("shard-1-of-2", "1/2", True),
        ("shard-1-of-2", "1/3", True),
        ("shard-1-of-2", "2/2", False),
    ],
)
def test_a_second_driver_is_refused(
    cohort: Cohort, held: str, shard: str | None, busy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cohort.output / ".diffrecon" / "locks"
    folder.mkdir(parents=True)
    with FileLock(folder / f"{held}.lock"):
        code = cohort.command("--no-tracking", *(() if shard is None else ("--shard", shard)))
    assert code == (6 if busy else 0)
    error = capsys.readouterr().err
    assert error.count("\n") == (1 if busy else 0)
    assert bool(list(cohort.output.glob("cubic/*"))) != busy
    if busy:
        evaluation = CohortEvaluation(cohort.file, cohort.output, track=False, shard=shard)
        with FileLock(folder / f"{held}.lock"), pytest.raises(BusyError) as caught:
            evaluation.run()
        assert caught.value.where == "output_dir"


class Lost(Executor):
    """Its scheduler is lost after the first case."""

    def run(self, function: Any, tasks: Any) -> Generator[tuple[Any, Any], None, None]:
        yield tasks[0], function(tasks[0])
        raise ResourceError("the scheduler was lost", where="executor")


class Forgetful(Executor):
    """It forgets the last case, and hands over an error for the first."""

    def __init__(self, forgets: bool = True) -> None:
        self.forgets = forgets

    def run(self, function: Any, tasks: Any) -> Generator[tuple[Any, Any], None, None]:
        yield tasks[0], OSError("/scans/Doe_John.nii.gz")
        for task in tasks[1 : -1 if self.forgets else None]:
            yield task, function(task)


@pytest.mark.slow
def test_a_lost_scheduler_is_one_error_and_the_same_command_goes_on(cohort: Cohort, serial: Path) -> None:
    with raises(ResourceError, where="executor"):
        cohort.evaluate(executor=Lost())
    assert [row.status for row in cohort.evaluate().rows] == [*["reused"] * 2, *["computed"] * 4]
    assert tables(cohort.output) == tables(serial)


@pytest.mark.slow
def test_an_error_of_the_executor_is_a_failed_row(cohort: Cohort, empty_store: Callable[[Path], Path]) -> None:
    empty_store(cohort.output)
    with raises(PluginError, where="executor", got="c"):
        cohort.evaluate(executor=Forgetful(), track=True)
    with pytest.raises(Exception, match="2 of 6 reconstructions failed"):
        cohort.evaluate(executor=Forgetful(forgets=False), track=True)
    rows = tables(cohort.output)["cases"]
    assert [row["error"] for row in rows] == ["OSError", "OSError", "", "", "", ""]
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{cohort.output}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("monai_diffrecon").experiment_id])
    failed = [run for run in runs if run.info.run_name == "a diffusion"]
    assert {(run.info.status, run.data.tags["error"]) for run in failed} == {("FAILED", "OSError")}
    for path in cohort.output.rglob("*"):
        assert not path.is_file() or b"Doe_John" not in path.read_bytes()


@pytest.mark.slow
def test_a_worker_with_other_methods_is_refused(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = CohortEvaluation(cohort.file, cohort.output, track=False)
    setup = evaluation._evaluation.setup
    task = case_task.CaseTask(setup, 0, "a", evaluation.hashes["a"], None)
    cohort.write(3)
    with raises(IntegrityError, where="executor"):
        case_task.evaluate_case(task)
    cohort.write(2)
    monkeypatch.setattr(case_task, "_prepared", {})
    built: list[str] = []
    prepare = case_task._prepare
    monkeypatch.setattr(case_task, "_prepare", lambda setup: built.append(setup.driver) or prepare(setup))
    for number, name in enumerate(CASES[:2]):
        outcome = case_task.evaluate_case(case_task.CaseTask(setup, number, name, evaluation.hashes[name], None))
        assert [row.case for row in outcome.rows] == [name, name]
    assert built == [setup.driver]  # the methods are prepared once


@pytest.mark.slow
def test_the_key_of_the_names_stays_with_the_driver(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of cases come with the tasks: a worker neither knows nor makes a key."""
    content = json.loads(cohort.file.read_text())
    for case in content["cases"]:
        del case["name"]
    cohort.file.write_text(json.dumps(content))
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "secret")
    evaluation = CohortEvaluation(cohort.file, cohort.output, track=False)
    monkeypatch.delenv("DIFFRECON_CASE_KEY")
    rows = evaluation.run()
    task = case_task.CaseTask(evaluation._evaluation.setup, 0, rows[0].case, evaluation.hashes[rows[0].case], None)
    monkeypatch.setattr(case_task, "_prepared", {})
    assert [row.status for row in case_task.evaluate_case(task).rows] == ["reused", "reused"]
    assert not list(cohort.output.glob(".case_key"))


def test_unknown_executors(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    assert cohort.command("--executor", "ray") == 7
    assert cohort.command("--executor", "processes", "--executor-option", "worker=2") == 2
    assert cohort.command("--executor", "processes", "--executor-option", "workers=0") == 2
    assert cohort.command("--executor", "processes", "--executor-option", "workers") == 2
    assert capsys.readouterr().err.count("\n") == 4
