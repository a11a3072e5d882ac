# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tasks on a Dask cluster of local processes, with workers and a scheduler that die."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffrecon_dask.dask_executor import DaskExecutor
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError, ResourceError

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("options", "kind", "where"),
    [
        ({}, ConfigError, "executor"),
        ({"address": "tcp://localhost:1", "cluster": "local"}, ConfigError, "executor"),
        ({"cluster": "slrum"}, ConfigError, "executor#cluster"),
        ({"cluster": "local", "workers": 0}, ConfigError, "executor#workers"),
        ({"cluster": "local", "workers": "2"}, ConfigError, "executor#workers"),
        ({"cluster": "local", "threads": 0}, ConfigError, "executor#threads"),
        ({"cluster": "local", "options": [1]}, ConfigError, "executor#options"),
    ],
)
def test_wrong_options(options: dict[str, Any], kind: type[DiffReconError], where: str) -> None:
    with pytest.raises(kind) as caught:
        registry.create("executors", "dask", **options)
    assert caught.value.where == where


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    executor = DaskExecutor(cluster="kubernetes")
    with pytest.raises(PluginError) as caught:
        list(executor.run(str, [1]))
    assert caught.value.where == "executor#cluster"
    assert "diffrecon-dask[kubernetes]" in str(caught.value.mend)


def test_an_option_that_the_cluster_does_not_know() -> None:
    with pytest.raises(ConfigError) as caught:
        list(DaskExecutor(cluster="local", options={"protokol": "x"}).run(str, [1]))
    assert caught.value.where == "executor#options"


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffrecon_dask.dask_executor._CONNECTING", 1.0)
    with pytest.raises(ResourceError) as caught:
        list(DaskExecutor(address="tcp://127.0.0.1:9").run(str, [1]))
    assert (caught.value.where, caught.value.exit_code) == ("executor#address", 6)


@pytest.mark.slow
def test_a_scheduler_that_is_lost(tmp_path: Path) -> None:
    """A separate process with a scheduler and a worker, which is killed while a task runs."""
    said, started = tmp_path / "address", tmp_path / "started"
    cluster = subprocess.Popen([sys.executable, str(Path(__file__).with_name("a_cluster.py")), str(said)])
    try:
        while not said.exists():
            assert cluster.poll() is None
            time.sleep(0.1)
        results = DaskExecutor(address=said.read_text()).run(_wait, [str(started)])
        _kill_once(started, cluster)
        with closing(results), pytest.raises(ResourceError) as caught:
            next(results)
    finally:
        cluster.kill()
        cluster.wait()
    assert (caught.value.where, caught.value.exit_code) == ("executor", 6)
    assert "\n" not in str(caught.value)


def _kill_once(started: Path, cluster: subprocess.Popen[bytes]) -> None:
    def kill() -> None:
        while not started.exists():
            time.sleep(0.1)
        cluster.kill()

    threading.Thread(target=kill, daemon=True).start()


def _wait(started: str) -> None:
    Path(started).touch()
    time.sleep(20)
