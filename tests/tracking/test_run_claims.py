# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs of processes that died are ended, all others are left alone, and no two cases share one."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from filelock import FileLock

from monai_diffrecon.errors import InputError
from monai_diffrecon.tracking import mlflow_run, run_claim, sweep
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.mlflow_run import TrackedRun
from monai_diffrecon.tracking.open_run import open_run
from monai_diffrecon.tracking.run_claim import RunClaim

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Store = Callable[[Path], Path]


def _fork(body: Callable[[], object]) -> int:
    """Run something in a child process, which opens a database itself; return its id."""
    mlflow_module()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _open(folder: Path, name: str = "case", parent: str | None = None, tags: dict[str, str] | None = None) -> Any:
    return open_run(
        folder, name, track=True, experiment="claims", tracking_uri=None, parent_run_id=parent, tags=tags, required=True
    )


def _client(folder: Path) -> Any:
    return mlflow_module().MlflowClient(f"sqlite:///{folder}/mlflow.db")


def _runs(folder: Path) -> list[Any]:
    client = _client(folder)
    return list(client.search_runs([client.get_experiment_by_name("claims").experiment_id]))


def _claims(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".diffrecon/runs").iterdir())


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_two_processes_at_once_share_no_run_though_both_make_the_store(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def cohort(number: int) -> None:
        os.read(reading, 1)  # both begin when the pipe is closed
        with _open(tmp_path, f"cohort {number}") as parent:
            for case in range(5):
                tags = {"case": f"{number}-{case}"}
                with _open(tmp_path, f"case {case}", parent.run_id, tags) as run:
                    run.log_metric("psnr", 10.0 * number + case)

    def child(number: int) -> Callable[[], None]:
        def body() -> None:
            os.close(writing)
            cohort(number)

        return body

    pids = [_fork(child(number)) for number in range(2)]
    os.close(writing)
    os.close(reading)
    assert [_code(pid) for pid in pids] == [0, 0]
    runs = _runs(tmp_path)
    parents = {run.info.run_name: run.info.run_id for run in runs if "case" not in run.data.tags}
    cases = [run for run in runs if "case" in run.data.tags]
    assert len({run.info.run_id for run in runs}) == 12
    assert len(parents) == 2
    assert sorted(run.data.tags["case"] for run in cases) == [f"{n}-{c}" for n in range(2) for c in range(5)]
    for run in cases:
        number, case = map(int, run.data.tags["case"].split("-"))
        assert run.data.tags["mlflow.parentRunId"] == parents[f"cohort {number}"]
        assert run.data.metrics == {"psnr": 10.0 * number + case}
        assert run.info.run_name == f"case {case}"
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert _claims(tmp_path) == []


def test_a_case_that_was_killed_is_ended_by_the_next_and_shares_no_run_with_it(
    tmp_path: Path, empty_store: Store
) -> None:
    empty_store(tmp_path)

    def cohort() -> None:
        with _open(tmp_path, "cohort") as parent:
            with _open(tmp_path, "one", parent.run_id, {"case": "one"}):
                pass
            with _open(tmp_path, "two", parent.run_id, {"case": "two"}) as run:
                run.log_metric("residual", 0.5)
                run.flush()
                _die()

    assert _code(_fork(cohort)) == -signal.SIGKILL
    with _open(tmp_path, "cohort again") as parent:
        with _open(tmp_path, "two", parent.run_id, {"case": "two"}) as again:
            states = {r.info.run_name: r.info.status for r in _runs(tmp_path) if r.info.run_id != again.run_id}
        assert states == {"cohort": "KILLED", "one": "FINISHED", "two": "KILLED", "cohort again": "RUNNING"}
    runs = {run.info.run_id: run for run in _runs(tmp_path)}
    assert len(runs) == 5
    assert "RUNNING" not in {run.info.status for run in runs.values()}
    assert runs[again.run_id].data.metrics == {}
    (killed,) = [r for r in runs.values() if r.info.run_name == "two" and r.info.run_id != again.run_id]
    assert killed.data.metrics == {"residual": 0.5}
    assert killed.data.tags["error"] == "process died"
    assert killed.info.end_time is not None
    assert _claims(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "status"),
    [("give", "KILLED"), ("sweep", "KILLED"), ("end", "FINISHED"), ("leave", "KILLED")],
)
def test_a_process_killed_at_any_moment_leaves_no_run_running(
    tmp_path: Path, empty_store: Store, where: str, status: str
) -> None:
    empty_store(tmp_path)

    def case() -> None:
        if where == "sweep":
            mlflow_run.sweep = lambda *_: _die()
        else:
            setattr(RunClaim, where, lambda *_: _die())
        with _open(tmp_path) as run:
            if where == "leave":
                run._client.set_terminated = lambda *_: 1 / 0

    assert _code(_fork(case)) == -signal.SIGKILL
    assert len(_claims(tmp_path)) == 1
    with _open(tmp_path, "next"):
        pass
    found = {run.info.run_name: run for run in _runs(tmp_path)}
    assert {name: run.info.status for name, run in found.items()} == {"case": status, "next": "FINISHED"}
    assert found["case"].data.tags.get("error") == (None if status == "FINISHED" else "process died")
    assert _claims(tmp_path) == []


def test_a_process_killed_while_it_makes_the_store_does_not_spoil_it(tmp_path: Path) -> None:
    def half() -> None:
        import mlflow.store.db.utils as utils

        utils._upgrade_db = lambda *_: _die()
        with _open(tmp_path):
            pass

    assert _code(_fork(half)) == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    with _open(tmp_path):
        pass
    assert [run.info.status for run in _runs(tmp_path)] == ["FINISHED"]
    assert sorted(p.name for p in (tmp_path / ".diffrecon").iterdir()) == ["mlflow.db.lock", "runs"]


def test_runs_of_living_processes_and_of_this_one_are_left_alone(tmp_path: Path, empty_store: Store) -> None:
    empty_store(tmp_path)
    ready, go = os.pipe(), os.pipe()

    def other() -> None:
        with _open(tmp_path, "other"):
            os.write(ready[1], b"x")
            os.read(go[0], 1)

    pid = _fork(other)
    os.read(ready[0], 1)
    with _open(tmp_path, "mine") as mine:
        opened: list[str] = []

        def nested() -> None:
            with _open(tmp_path, "of a thread", mine.run_id) as run:
                opened.append(run.run_id)

        thread = threading.Thread(target=nested)
        thread.start()
        thread.join()
        assert len(opened) == 1
        states = {run.info.run_name: run.info.status for run in _runs(tmp_path)}
        assert states == {"other": "RUNNING", "mine": "RUNNING", "of a thread": "FINISHED"}
        assert len(_claims(tmp_path)) == 2
    os.write(go[1], b"x")
    assert _code(pid) == 0
    for end in (*ready, *go):
        os.close(end)
    assert {run.info.status for run in _runs(tmp_path)} == {"FINISHED"}
    assert _claims(tmp_path) == []


def test_a_claim_that_gets_its_name_while_it_is_swept_is_left_alone(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _client(empty_store(tmp_path))
    claim = RunClaim(tmp_path / ".diffrecon/runs")
    claim.take()
    run_id = client.create_run("0", tags={"diffrecon.claim": claim.mark}).info.run_id

    class Slow(FileLock):  # type: ignore[misc]
        def acquire(self, *args: Any, **options: Any) -> Any:
            claim.give(run_id)
            return super().acquire(*args, **options)

    monkeypatch.setattr(sweep, "FileLock", Slow)
    assert sweep.sweep(client, tmp_path / ".diffrecon/runs") == []
    assert client.get_run(run_id).info.status == "RUNNING"
    assert _claims(tmp_path) == [run_id]
    claim.end()


def test_an_interrupt_while_others_are_swept_kills_the_run(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_run, "sweep", interrupt)
    with pytest.raises(KeyboardInterrupt), _open(empty_store(tmp_path)):
        pass
    assert [(r.info.status, r.data.tags["error"]) for r in _runs(tmp_path)] == [("KILLED", "KeyboardInterrupt")]
    assert _claims(tmp_path) == []


def test_a_worker_that_outlives_its_process_does_not_hold_the_claim(tmp_path: Path, empty_store: Store) -> None:
    empty_store(tmp_path)
    reading, writing = os.pipe()
    alive, stop = os.pipe()

    def case() -> None:
        os.close(stop)
        with _open(tmp_path):
            _fork(lambda: (os.write(writing, b"x"), os.read(alive, 1)))
            os.read(reading, 1)
            _die()

    assert _code(_fork(case)) == -signal.SIGKILL
    with _open(tmp_path, "next"):
        pass
    for end in (reading, writing, alive, stop):
        os.close(end)  # which ends the worker
    assert {r.info.run_name: r.info.status for r in _runs(tmp_path)} == {"case": "KILLED", "next": "FINISHED"}


def test_a_run_closed_by_another_thread_lets_go_of_its_claim(tmp_path: Path, empty_store: Store) -> None:
    run = _open(empty_store(tmp_path)).__enter__()
    thread = threading.Thread(target=run.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert _claims(tmp_path) == []
    assert [r.info.status for r in _runs(tmp_path)] == ["FINISHED"]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_had_ended_is_never_changed(tmp_path: Path, empty_store: Store, status: str) -> None:
    with _open(empty_store(tmp_path)) as run:
        pass
    client = _client(tmp_path)
    client.set_terminated(run.run_id, status, end_time=1)
    (tmp_path / ".diffrecon/runs" / run.run_id).touch()
    with _open(tmp_path):
        pass
    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.end_time) == (status, 1)
    assert "error" not in found.data.tags
    assert _claims(tmp_path) == []


def test_claims_of_another_store_and_other_files_stay(tmp_path: Path, empty_store: Store) -> None:
    folder = empty_store(tmp_path) / ".diffrecon/runs"
    folder.mkdir(parents=True)
    others = ["0" * 32, "new-" + "1" * 32, "new-" + "2" * 32, "notes.txt"]
    for name in others:
        (folder / name).touch()
    os.utime(folder / others[2], (0, 0))  # of a run that was never made
    with _open(tmp_path):
        pass
    assert _claims(tmp_path) == sorted({*others} - {others[2]})


@pytest.mark.parametrize("word", [b"", b"{", b"[]", b'{"status": "FINISHED"}', b"\xff" * 5000])
def test_a_claim_cannot_say_that_a_dead_run_finished(tmp_path: Path, empty_store: Store, word: bytes) -> None:
    client = _client(empty_store(tmp_path))
    run_id = client.create_run(client.create_experiment("claims")).info.run_id
    (tmp_path / ".diffrecon/runs").mkdir(parents=True)
    (tmp_path / ".diffrecon/runs" / run_id).write_bytes(word)
    with _open(tmp_path):
        pass
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["error"]) == ("KILLED", "process died")


def test_a_fault_of_the_sweep_is_warned_of_and_stops_nothing(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(5, f"cannot read {tmp_path}")

    monkeypatch.setattr(mlflow_run, "sweep", broken)
    with _open(empty_store(tmp_path)):
        pass
    assert [r.info.status for r in _runs(tmp_path)] == ["FINISHED"]
    (warned,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "may stay RUNNING" in warned.getMessage()
    assert str(tmp_path) not in caplog.text


def test_a_run_that_is_open_elsewhere_cannot_be_continued(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_claim, "_SECONDS", 0.1)
    with _open(empty_store(tmp_path)) as run:
        with (
            pytest.raises(InputError, match="open in another process"),
            TrackedRun(tmp_path, run_name="x", run_id=run.run_id),
        ):
            pass
        assert _claims(tmp_path) == [run.run_id]
        run.log_metric("a", 1.0)
    assert [(r.info.status, r.data.metrics) for r in _runs(tmp_path)] == [("FINISHED", {"a": 1.0})]


def test_a_killed_run_that_is_continued_is_not_swept(tmp_path: Path, empty_store: Store) -> None:
    empty_store(tmp_path)
    reading, writing = os.pipe()

    def training() -> None:
        with _open(tmp_path) as run:
            os.write(writing, run.run_id.encode())
            _die()

    assert _code(_fork(training)) == -signal.SIGKILL
    run_id = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    with TrackedRun(tmp_path, run_name="x", run_id=run_id), _open(tmp_path, "other"):
        assert _client(tmp_path).get_run(run_id).info.status == "RUNNING"
    assert {r.info.status for r in _runs(tmp_path)} == {"FINISHED"}
    assert _claims(tmp_path) == []


def test_a_claim_holds_the_name_of_its_run_and_nothing_else(tmp_path: Path, empty_store: Store) -> None:
    with _open(empty_store(tmp_path)) as run:
        path = tmp_path / ".diffrecon/runs" / run.run_id
        assert path.read_bytes().strip() == b""
        assert _claims(tmp_path) == [run.run_id]
    assert not path.exists()


def test_neither_the_environment_nor_an_active_run_is_continued(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = mlflow_module()
    before = mlflow.get_tracking_uri()
    theirs = f"sqlite:///{empty_store(tmp_path)}/mlflow.db"
    foreign = _client(tmp_path).create_run("0").info.run_id
    try:
        mlflow.set_tracking_uri(theirs)
        with mlflow.start_run() as active:
            monkeypatch.setenv("MLFLOW_RUN_ID", foreign)
            opened = []
            for name in ("one", "two"):
                with _open(tmp_path, name) as run:
                    run.log_params({"case": name})
                    opened.append(run.run_id)
            assert mlflow.active_run().info.run_id == active.info.run_id
            monkeypatch.delenv("MLFLOW_RUN_ID")
    finally:
        mlflow.set_tracking_uri(before)
    assert len({*opened, foreign, active.info.run_id}) == 4
    client = _client(tmp_path)
    assert [client.get_run(i).data.params for i in opened] == [{"case": "one"}, {"case": "two"}]
    assert client.get_run(foreign).data.params == client.get_run(active.info.run_id).data.params == {}
    assert "mlflow.parentRunId" not in client.get_run(opened[0]).data.tags
