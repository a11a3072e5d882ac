# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed or stopped, and two at once: each series exactly once, bit for bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

STEPS = 24  # the kills must leave some, also on a fast machine


def hashes(folder: Path) -> list[str]:
    """Return the hashes of the volumes of a folder; each has a record that verifies."""
    for record in folder.glob("results/*.provenance.json"):
        verify_record(record)
    return sorted(sha256_file(path) for path in folder.glob("results/*_recon.nii.gz"))


def computed(folder: Path) -> list[str]:
    """Return the names of the runs that came to an end; one that found its case done is another."""
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{folder}/results/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    found = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    return sorted(
        run.info.run_name for run in found if run.info.status == "FINISHED" and "computed" not in run.data.tags
    )


@pytest.mark.slow
def test_kills_and_a_stop_give_the_same_images_once(
    orthanc: Any, series: Any, words: Callable[..., list[str]], fork_server: Any, tmp_path: Path
) -> None:
    source = orthanc.receive(series())
    chance = random.Random(1)
    argv = words(steps=STEPS)
    for at in (3, 7):
        code, said = fork_server.run(tmp_path / "log", argv=argv, kill=(at, chance.uniform(0, 0.02)))
        assert code == -signal.SIGKILL, said
        assert orthanc.state(source)["state"] == "working"
    code, said = fork_server.run(tmp_path / "log", argv=argv, kill=(1, 0.0), number=signal.SIGTERM)
    assert (code, orthanc.state(source)["state"]) == (128 + signal.SIGTERM, "waiting"), said
    assert "Traceback" not in said
    assert not orthanc.derived()
    code, said = fork_server.run(tmp_path / "log", argv=argv)
    assert code == 0, said
    assert orthanc.state(source)["state"] == "done"
    (images,) = orthanc.derived().values()
    (resumed,) = (verify_record(p) for p in (tmp_path / "work/results").glob("*.provenance.json"))
    assert resumed["report"]["execution"]["resumed"] >= 1
    del orthanc.states[source]
    code, said = fork_server.run(tmp_path / "log", argv=words(steps=STEPS, folder="whole"))
    assert code == 0, said
    assert hashes(tmp_path / "work") == hashes(tmp_path / "whole")
    assert len(orthanc.derived()) == 1
    assert len(images) == 19


@pytest.mark.slow
def test_two_workers_at_once(
    orthanc: Any, series: Any, words: Callable[..., list[str]], fork_server: Any, tmp_path: Path
) -> None:
    sources = [orthanc.receive(series(n)) for n in range(3)]
    argv, other, seen = words(steps=4), fork_server.second(tmp_path), []

    def second() -> None:
        seen.append(other.run(tmp_path / "second", argv=argv))
        other.close()

    # The first one stops within its first series, while the second one does the others.
    code, said = fork_server.run(tmp_path / "log", argv=argv, pause=(2, second))
    assert [code, seen[0][0]] == [0, 0], said + seen[0][1]
    assert [orthanc.state(source)["state"] for source in sources] == 3 * ["done"]
    assert len(orthanc.derived()) == 3
    assert all(new for _, new in orthanc.uploads)
    assert len(set(computed(tmp_path / "work"))) == len(computed(tmp_path / "work")) == 3
    assert said.count(": done") == 1
    assert seen[0][1].count(": done") == 2
