# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs of processes that died are ended, all others are left alone, and no two cases share one."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from filelock import FileLock

from monai_diffrecon.errors import InputError
from monai_diffrecon.tracking import export_run, run_claims
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.run_claims import RunClaim, sweep

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
    return TrackedRun(folder, name, experiment="claims", parent_run_id=parent, tags=tags, required=True)


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


@pytest.mark.slow
def test_two_processes_at_once_share_no_run_though_both_make_the_store(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def cohort(number: int) -> None:
        os.read(reading, 1)  # both begin when the pipe is closed
        with _open(tmp_path, f"cohort {number}") as parent:
            for case in range(5):
                tags = {"case": f"{number}-{case}"}
                with _open(tmp_path, f"case {case}", parent.run_id, tags) as run:
                    run.log_metrics({"psnr": 10.0 * number + case})

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
                run.log_metrics({"residual": 0.5})
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
    [("claimed", None), ("made", "KILLED"), ("ended", "FINISHED"), ("not ended", "FAILED")],
)
def test_a_process_killed_at_any_moment_leaves_no_run_running(
    tmp_path: Path, empty_store: Store, where: str, status: str | None
) -> None:
    empty_store(tmp_path)

    def case() -> None:
        from mlflow import MlflowClient

        end, make = RunClaim.end, MlflowClient.create_run

        def dead(*given: Any, **options: Any) -> NoReturn:
            if where != "claimed":
                (make if where == "made" else end)(*given, **options)
            _die()

        if where in ("claimed", "made"):
            MlflowClient.create_run = dead
        else:
            RunClaim.end = dead  # type: ignore[method-assign]
        with _open(tmp_path) as run:
            if where == "not ended":
                run._client.set_terminated = lambda *_: 1 / 0
            if where == "ended":
                RunClaim.end = lambda *_: _die()  # type: ignore[method-assign]

    assert _code(_fork(case)) == -signal.SIGKILL
    assert len(_claims(tmp_path)) == 1
    with _open(tmp_path, "next"):
        pass
    found = {run.info.run_name: run for run in _runs(tmp_path)}
    expected = {"case": status, "next": "FINISHED"} if status else {"next": "FINISHED"}
    assert {name: run.info.status for name, run in found.items()} == expected
    if status is not None:
        reason = {"KILLED": "process died", "FAILED": "tracking incomplete"}.get(status)
        assert found["case"].data.tags.get("error") == reason
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


def _claimed(folder: Path, store: str | None = None, **said: str) -> Any:
    """Make a run that is RUNNING, whose claim nobody holds; return its id."""
    client = _client(folder)
    found = client.get_experiment_by_name("claims")
    experiment = client.create_experiment("claims") if found is None else found.experiment_id
    claim = RunClaim(folder / ".diffrecon/runs")
    claim.take(store, experiment)
    claim.release()
    path = folder / ".diffrecon/runs" / claim.mark
    path.write_text(json.dumps(json.loads(path.read_text()) | said).ljust(1000))
    return client.create_run(experiment, tags={"diffrecon.claim": claim.mark}).info.run_id


@pytest.mark.parametrize("other", ["host", "store"])
def test_a_run_of_another_host_or_store_is_never_marked_killed(tmp_path: Path, empty_store: Store, other: str) -> None:
    folder = empty_store(tmp_path)
    ours, theirs = _claimed(folder), _claimed(folder, **{other: "elsewhere"})
    with _open(tmp_path, "next"):
        pass
    client = _client(tmp_path)
    assert [client.get_run(run_id).info.status for run_id in (ours, theirs)] == ["KILLED", "RUNNING"]
    (left,) = _claims(tmp_path)
    assert client.get_run(theirs).data.tags["diffrecon.claim"] == left


def test_a_run_of_this_host_that_was_killed_as_another_host_is_left_alone(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_store(tmp_path)

    def case() -> None:
        socket.gethostname = lambda: "node-17"
        with _open(tmp_path):
            _die()

    assert _code(_fork(case)) == -signal.SIGKILL
    with _open(tmp_path, "next"):
        pass
    assert {r.info.run_name: r.info.status for r in _runs(tmp_path)} == {"case": "RUNNING", "next": "FINISHED"}
    monkeypatch.setattr(socket, "gethostname", lambda: "node-17")
    with _open(tmp_path, "there"):
        pass
    states = {r.info.run_name: r.info.status for r in _runs(tmp_path)}
    assert states == {"case": "KILLED", "next": "FINISHED", "there": "FINISHED"}
    assert _claims(tmp_path) == []


def test_a_run_that_ends_while_its_claim_is_swept_is_left_alone(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _open(empty_store(tmp_path)).__enter__()

    class Slow(FileLock):  # type: ignore[misc]
        def acquire(self, *args: Any, **options: Any) -> Any:
            run.__exit__(None, None, None)
            return super().acquire(*args, **options)

    monkeypatch.setattr(run_claims, "FileLock", Slow)
    sweep(_client(tmp_path), tmp_path / ".diffrecon/runs", None)
    assert [r.info.status for r in _runs(tmp_path)] == ["FINISHED"]
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
    path = tmp_path / ".diffrecon/runs" / client.get_run(run.run_id).data.tags["diffrecon.claim"]
    said = {"host": socket.gethostname(), "store": run_claims._digest(None)}
    path.write_text(json.dumps(said | {"experiment": client.get_run(run.run_id).info.experiment_id}))
    with _open(tmp_path):
        pass
    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.end_time) == (status, 1)
    assert "error" not in found.data.tags
    assert _claims(tmp_path) == []


@pytest.mark.parametrize("word", [b"", b"{", b"[]", b"null", b'{"host": 1}', b"\xff" * 5000])
def test_damaged_claims_and_other_files_stay(tmp_path: Path, empty_store: Store, word: bytes) -> None:
    folder = empty_store(tmp_path) / ".diffrecon/runs"
    folder.mkdir(parents=True)
    for name in ("0" * 32, "notes.txt"):
        (folder / name).write_bytes(word)
    with _open(tmp_path):
        pass
    assert _claims(tmp_path) == ["0" * 32, "notes.txt"]
    assert (folder / ("0" * 32)).read_bytes() == word


def test_a_claim_cannot_say_that_a_dead_run_finished(tmp_path: Path, empty_store: Store) -> None:
    run_id = _claimed(empty_store(tmp_path), status="FINISHED")
    with _open(tmp_path):
        pass
    found = _client(tmp_path).get_run(run_id)
    assert (found.info.status, found.data.tags["error"]) == ("KILLED", "process died")


def test_a_fault_of_the_sweep_is_warned_of_and_stops_nothing(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(5, f"cannot read {tmp_path}")

    monkeypatch.setattr(export_run, "sweep", broken)
    with _open(empty_store(tmp_path)):
        pass
    assert [r.info.status for r in _runs(tmp_path)] == ["FINISHED"]
    (warned,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "may stay RUNNING" in warned.getMessage()
    assert str(tmp_path) not in caplog.text


def test_a_run_that_is_open_elsewhere_cannot_be_continued(
    tmp_path: Path, empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_claims, "_SECONDS", 0.1)
    with _open(empty_store(tmp_path)) as run:
        with (
            pytest.raises(InputError) as caught,
            TrackedRun(tmp_path, "x", run_id=run.run_id),
        ):
            pass
        assert caught.value.where == "run_id"
        assert caught.value.got is None
        assert _claims(tmp_path) == [run._claim.mark]
        run.log_metrics({"a": 1.0})
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
    with TrackedRun(tmp_path, "x", run_id=run_id), _open(tmp_path, "other"):
        assert _client(tmp_path).get_run(run_id).info.status == "RUNNING"
    assert {r.info.status for r in _runs(tmp_path)} == {"FINISHED"}
    assert _claims(tmp_path) == []


def test_a_claim_names_its_host_and_no_more_than_it_must(tmp_path: Path, empty_store: Store) -> None:
    with _open(empty_store(tmp_path)) as run:
        (name,) = _claims(tmp_path)
        tags = _client(tmp_path).get_run(run.run_id).data.tags
        assert tags["diffrecon.claim"] == name
        assert socket.gethostname() not in str(tags)
        said = json.loads((tmp_path / ".diffrecon/runs" / name).read_text())
        assert said.pop("host") == socket.gethostname()
        assert sorted(said) == ["experiment", "store"]
    assert _claims(tmp_path) == []


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
