# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A machine without a network, as in most hospitals: nothing is missed, and nobody tries to reach one."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import pytest

from monai_diffrecon.cli import main as cli
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

#: What a process does to reach another machine, as python's own audit events; nothing gets past them.
_WAYS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
#: Runs a module, and tells of every attempt.
_WATCHED = f"""
import runpy, sys
sys.addaudithook(lambda event, args: event in {_WAYS} and sys.stderr.write(f"ASKED {{event}} {{args[1:]}}\\n"))
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
#: What tells MLflow that it is tested, or is not to report; a user has none of them.
_TESTED = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT_TRACK", "BUILD", "TRAVIS", "JENKINS")


def statuses(output: Path) -> list[tuple[str, str]]:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    return sorted((r.info.run_name, r.info.status) for r in client.search_runs([experiment.experiment_id]))


def unshared(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a module in a network namespace with nothing in it, not even a loopback that is up."""
    for how in (["unshare", "-n"], ["unshare", "-rn"]):  # root; a user who may make namespaces
        try:
            probe = subprocess.run([*how, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no unshare: {error}")
        if probe.returncode == 0:
            break
    else:
        pytest.skip(f"no namespaces: {probe.stderr.strip()}")
    settings = {k: v for k, v in os.environ.items() if not k.startswith(_TESTED)}
    return subprocess.run(
        [*how, sys.executable, "-c", _WATCHED, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=settings,
    )


#: The attempts of the test under way; a hook cannot be taken away again.
_asked: list[list[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _asked and event in _WAYS:
        _asked[-1].append(event)
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


@pytest.fixture(scope="module")
def watched() -> None:
    sys.addaudithook(_watch)


@pytest.fixture
def attempts(watched: None) -> Iterator[list[str]]:
    """Take the network away, and return the list of those who ask for it."""
    _asked.append([])
    yield _asked[-1]
    _asked.pop()


@pytest.mark.slow
def test_a_machine_without_a_network_runs_a_bundle_and_tracks_it(
    job: Any, empty_store: Callable[[Path], Path], tmp_path: Path
) -> None:
    output = empty_store(tmp_path / "out")
    options = job.reconstruction(output, steps=2, config_file=None)
    files = [str(job.bundle / "configs" / name) for name in ("inference.json", "tasks/z_super_resolution.json")]
    command = ["monai.bundle", "run", "--config_file", str(files)]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = unshared(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not tracked" not in done.stdout + done.stderr
    assert "ASKED" not in done.stderr
    verify_record(output / "a_recon.provenance.json")
    assert statuses(output) == [("a", "FINISHED")]


def test_a_machine_without_a_network_lists_plugins(tmp_path: Path) -> None:
    done = unshared(["monai_diffrecon.cli.main", "plugins"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conjugate_gradient" in done.stdout
    assert "ASKED" not in done.stderr


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_nobody_asks_for_a_network_that_is_not_there(
    job: Any,
    empty_store: Callable[[Path], Path],
    attempts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As for a user who has set nothing: the package itself must switch the telemetry off.
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    output = empty_store(tmp_path / "out")
    monai.bundle.run(**job.reconstruction(output, steps=2, initialize=[]))
    assert cli.main(["plugins"]) == 0
    assert cli.main(["verify", str(output / "a_recon.provenance.json")]) == 0
    assert "conjugate_gradient" in capsys.readouterr().out
    assert statuses(output) == [("a", "FINISHED")]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert attempts == []


def test_an_attempt_would_be_seen(attempts: list[str], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unreachable"):
        urllib.request.urlopen("http://192.0.2.1/", timeout=1)
    with socket.socket() as plain, pytest.raises(OSError, match="unreachable"):
        plain.connect(("192.0.2.1", 80))
    assert attempts == ["socket.getaddrinfo", "socket.connect"]
    (tmp_path / "asks.py").write_text(
        "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass"
    )
    command = [sys.executable, "-c", _WATCHED, "asks"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "ASKED socket.connect (('192.0.2.1', 80),)" in done.stderr


def test_telemetry_of_mlflow_is_off() -> None:
    from mlflow import telemetry

    mlflow_module()
    assert telemetry.get_telemetry_client() is None
