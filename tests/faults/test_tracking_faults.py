# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to MLflow, the reconstruction goes on, and says that it is not tracked."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.tracking import mlflow_client, store_file
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.mlflow_client import mlflow_module

Store = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "LOCKED_SECONDS", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], Path]]:
    """Mount a small file system."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        if done.returncode:
            pytest.skip("only root may mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _open(folder: Path, *, required: bool = False, uri: str | None = None) -> Any:
    return TrackedRun(folder, "case", experiment="faults", tracking_uri=uri, required=required)


def _reconstruct(run: Any, fault: Callable[[], object] = lambda: None) -> str:
    """Do what a case does; the fault happens in the midst of it."""
    with run:
        run.log_params({"sampler": "ddim"})
        run.log_metrics({"residual": 0.5}, step=0)
        run.flush()
        fault()
        for step in range(1, 4):
            run.log_metrics({"residual": 0.5**step}, step=step)
            run.flush()
        run.set_tags({"computed": "true"})
        run.log_dataset("scan", "ab" * 32, {"cases": 1})
        run.log_artifact(__file__)
        return "done"


def _goes_on(
    caplog: pytest.LogCaptureFixture, folder: Path, *, uri: str | None = None, fault: Callable[[], object] | None = None
) -> Any:
    run = _open(folder, uri=uri)
    caplog.clear()
    assert _reconstruct(run, fault or (lambda: None)) == "done"
    warned = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warned) == 1, caplog.text
    assert warned[0].exc_info is None
    text = warned[0].getMessage()
    assert "\n" not in text
    assert "tracked" in text
    assert str(folder) not in text
    assert "://" not in text
    (problem,) = run.problems
    assert "tracked: MLflow refused (" in problem
    return run


def _is_refused(run: Any, fault: Callable[[], object] = lambda: None) -> str:
    with pytest.raises(ResourceError) as caught:
        _reconstruct(run, fault)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 6
    return str(caught.value)


def _ended(folder: Path, run: Any) -> tuple[str, str | None]:
    found = mlflow_module().MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(run.run_id)
    return found.info.status, found.data.tags.get("error")


@pytest.fixture
def locked() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Let another process lock a database."""
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep(100)"
    )
    holders: list[subprocess.Popen[str]] = []

    def lock(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(folder / "mlflow.db")]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        return holder

    yield lock
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.fixture
def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)  # the kernel accepts, nobody answers
        yield f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_refuses_connections_stops_no_reconstruction(
    tmp_path: Path, dead_server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    began = time.monotonic()
    run = _goes_on(caplog, tmp_path, uri=dead_server)
    assert time.monotonic() - began < 15
    assert run.problems == ("not tracked: MLflow refused (ConnectionRefusedError)",)
    assert run.run_id is None
    assert "secret" not in caplog.text
    assert "secret" not in _is_refused(_open(tmp_path, required=True, uri=dead_server))


def test_a_server_that_never_answers_is_waited_for_once(
    tmp_path: Path, silent_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    run = _goes_on(caplog, tmp_path, uri=silent_server)
    assert time.monotonic() - began < 3  # one time-out of a second
    assert run.run_id is None
    assert "secret" not in caplog.text
    _is_refused(_open(tmp_path, required=True, uri=silent_server))


def test_waits_are_bounded_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    mlflow_module()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    told = {k.removeprefix("MLFLOW_HTTP_"): v for k, v in mlflow_client.SETTINGS.items()}
    retries = int(told["REQUEST_MAX_RETRIES"])
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == str(retries)
    waits = sum(int(told["REQUEST_BACKOFF_FACTOR"]) * 2**n + 1 for n in range(retries))
    assert (retries + 1) * int(told["REQUEST_TIMEOUT"]) + waits <= 15
    assert told["RESPECT_RETRY_AFTER_HEADER"] == "false"


@pytest.mark.slow
def test_a_database_locked_by_another_process_stops_no_reconstruction(
    tmp_path: Path,
    empty_store: Store,
    locked: Callable[[Path], subprocess.Popen[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    holder = locked(empty_store(tmp_path))
    began = time.monotonic()
    run = _goes_on(caplog, tmp_path)
    assert time.monotonic() - began < 5
    assert run.run_id is None
    assert "database is locked" in caplog.text
    assert "database is locked" in _is_refused(_open(tmp_path, required=True))
    holder.kill()
    holder.wait()
    assert _reconstruct(_open(tmp_path)) == "done"


def test_a_run_whose_database_is_locked_midway_is_failed_by_the_next(
    tmp_path: Path,
    empty_store: Store,
    locked: Callable[[Path], subprocess.Popen[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    empty_store(tmp_path)
    holders: list[subprocess.Popen[str]] = []
    began = time.monotonic()
    run = _goes_on(caplog, tmp_path, fault=lambda: holders.append(locked(tmp_path)))
    assert time.monotonic() - began < 5  # not once for every call
    assert run.problems == ("not fully tracked: MLflow refused (OperationalError)",)
    holders[0].kill()
    holders[0].wait()
    assert _ended(tmp_path, run) == ("RUNNING", None)
    with _open(tmp_path):
        pass
    assert _ended(tmp_path, run) == ("FAILED", "tracking incomplete")
    assert list((tmp_path / ".diffrecon/runs").iterdir()) == []


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_damaged_database_stops_no_reconstruction(
    tmp_path: Path, empty_store: Store, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    def damage() -> None:
        (tmp_path / "mlflow.db").write_bytes(bytes(range(256)) * 64)

    empty_store(tmp_path)
    if when == "before":
        damage()
    run = _goes_on(caplog, tmp_path, fault=damage)
    assert (run.run_id is None) == (when == "before")
    assert "not a database" in caplog.text
    _is_refused(_open(tmp_path, required=True))


def test_a_store_that_was_removed_midway_is_not_made_anew(
    tmp_path: Path, empty_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    empty_store(tmp_path)
    _goes_on(caplog, tmp_path, fault=(tmp_path / "mlflow.db").unlink)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_folder_that_cannot_be_made_stops_no_reconstruction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    run = _goes_on(caplog, tmp_path / "file" / "output")
    assert run.run_id is None
    _is_refused(_open(tmp_path / "file" / "output", required=True))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_stops_no_reconstruction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    try:
        _goes_on(caplog, tmp_path)
        _is_refused(_open(tmp_path, required=True))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("method", ["log_batch", "update_run_info", "log_inputs"])
def test_a_disk_that_is_full_for_the_database_fails_the_run_only(
    tmp_path: Path, empty_store: Store, method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import OperationalError

    def full(*_: object, **__: object) -> NoReturn:
        raise OperationalError("INSERT INTO t", {"a": "Doe"}, sqlite3.OperationalError("database or disk is full"))

    empty_store(tmp_path)
    run = _goes_on(caplog, tmp_path, fault=lambda: monkeypatch.setattr(SqlAlchemyStore, method, full))
    assert "disk is full" in caplog.text
    assert "Doe" not in caplog.text
    monkeypatch.undo()
    with _open(tmp_path):
        pass
    assert _ended(tmp_path, run) == ("FAILED", "tracking incomplete")
    strict = _open(tmp_path, required=True)
    _is_refused(strict, lambda: monkeypatch.setattr(SqlAlchemyStore, method, full))


@pytest.mark.parametrize("room", ["256k", "2m"])
def test_a_disk_without_room_for_a_new_store_stops_no_reconstruction(
    tmp_path: Path, room: str, small_disk: Callable[[Path, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    disk = small_disk(tmp_path / "disk", room)
    if room != "256k":
        (disk / "filler").write_bytes(bytes(2 * 2**20 - 32 * 2**10))
    run = _goes_on(caplog, disk)
    assert run.run_id is None
    assert not (disk / "mlflow.db").exists()
    assert [f.name for f in (disk / ".diffrecon").iterdir()] == ["mlflow.db.lock"]
    _is_refused(_open(disk, required=True))


def test_a_disk_that_fills_up_midway_fails_the_run_only(
    tmp_path: Path,
    empty_store: Store,
    small_disk: Callable[[Path, str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = empty_store(small_disk(tmp_path / "disk", "4m"))

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(disk).free == 0

    run = _goes_on(caplog, disk, fault=fill)
    (disk / "filler").unlink()
    with _open(disk):
        pass
    assert _ended(disk, run) == ("FAILED", "tracking incomplete")


def test_a_full_folder_of_artifacts_fails_the_run_only(
    tmp_path: Path,
    empty_store: Store,
    small_disk: Callable[[Path, str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    empty_store(tmp_path)
    disk = small_disk(tmp_path / "mlartifacts", "4k")
    run = _goes_on(caplog, tmp_path)
    assert disk.is_mount()
    assert _ended(tmp_path, run) == ("FAILED", "tracking incomplete")
    assert "No space left" in _is_refused(_open(tmp_path, required=True))


def test_claims_that_cannot_be_made_are_warned_of_and_the_run_is_tracked(
    tmp_path: Path, empty_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    empty_store(tmp_path)
    (tmp_path / ".diffrecon").write_text("")
    run = _open(tmp_path)
    assert _reconstruct(run) == "done"
    assert run.problems == ()
    assert "stay RUNNING if this process is killed" in caplog.text
    assert _ended(tmp_path, run) == ("FINISHED", None)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("own"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(3), "KILLED")],
)
@pytest.mark.parametrize("broken", ["at the end only", "midway", "never opened"])
def test_a_users_error_passes_unchanged_though_tracking_is_broken(
    tmp_path: Path,
    empty_store: Store,
    error: BaseException,
    status: str,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def gone(*_: object, **__: object) -> NoReturn:
        raise OSError("gone")

    empty_store(tmp_path)
    if broken == "never opened":
        (tmp_path / "mlflow.db").write_bytes(b"damaged" * 1000)
    run = _open(tmp_path)

    def case() -> NoReturn:
        with run:
            for name in ("log_batch", "update_run_info"):
                monkeypatch.setattr(SqlAlchemyStore, name, gone)
            if broken == "midway":
                run.log_params({"a": 1})
            raise error

    with pytest.raises(type(error)) as caught:
        case()
    assert caught.value is error
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert run.problems
    if broken != "never opened":
        monkeypatch.undo()
        with _open(tmp_path):
            pass
        assert _ended(tmp_path, run) == (status, type(error).__name__)


def test_a_deleted_experiment_is_the_users_mistake_in_both_modes(tmp_path: Path, empty_store: Store) -> None:
    client = mlflow_module().MlflowClient(f"sqlite:///{empty_store(tmp_path)}/mlflow.db")
    client.delete_experiment(client.create_experiment("faults"))
    for required in (False, True):
        with pytest.raises(ConfigError) as caught, _open(tmp_path, required=required):
            pass
        assert (caught.value.where, caught.value.got) == ("experiment", "'faults'")


def test_a_run_that_lost_nothing_has_no_problems(
    tmp_path: Path, empty_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = _open(empty_store(tmp_path))
    assert _reconstruct(run) == "done"
    assert run.problems == ()
    assert _ended(tmp_path, run) == ("FINISHED", None)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert list((tmp_path / ".diffrecon/runs").iterdir()) == []
