# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Workers as processes of their own, forked from one that has imported everything, and what they leave."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo import Orthanc

from monai_diffrecon.cli import main as cli
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "brain_mr"
SENDERS = ("MR1", "MR2", "MR3", "MR4")
SLOW = {"sampler#steps": 12, "evaluator#view": False, "device": "cpu", "checkpoint_every": 1}
CHEAP = {"sampler": {"name": "cubic"}, "evaluator#view": False, "device": "cpu"}


def start(url: str, work: Path, overrides: dict[str, Any], *more: str, rules: Sequence[dict[str, Any]] = ({},)) -> int:
    """Start a worker and return its process id; ``rules`` changes the rule, or makes several of it."""
    work.mkdir(parents=True, exist_ok=True)
    rule = {"name": "thick", "modality": "MR", "description": "t1", "senders": SENDERS, "thickness": 3}
    rule |= {"bundle": str(BUNDLE), "overrides": overrides}
    rules_file = work / "rules.json"
    rules_file.write_text(json.dumps({"rules": [rule | changes for changes in rules]}))
    words = ["serve", "--orthanc", url, "--rules", str(rules_file), "--work", str(work / "folder"), *more]
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    log = os.open(work / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 70
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(pid: int, number: int = 0) -> int:
    """Wait for a worker, after a signal if there is one; return its exit code, negative for a signal."""
    if number:
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def volumes(work: Path) -> list[str]:
    """Return the hashes of the volumes of a worker, whose records verify."""
    results = work / "folder" / "results"
    for record in results.glob("*.provenance.json"):
        verify_record(record)
    return sorted(sha256_file(path) for path in results.glob("*_recon.nii.gz"))


def computed(work: Path) -> list[str]:
    """Return the names of the cases whose run ended, once for each run that computed one.

    A run that is killed between its record and its end is followed by one that computes nothing.
    """
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{work}/folder/results/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    ended = [(r.info.run_name, "computed" not in r.data.tags) for r in found if r.info.status == "FINISHED"]
    names = [name for name, anew in ended if anew]
    return names + sorted({name for name, _ in ended} - set(names))


def fetch(server: Orthanc, series: dict[str, Any], folder: Path) -> list[Path]:
    """Download a series."""
    folder.mkdir(parents=True)
    for number, instance in enumerate(series["Instances"]):
        content = server.session.get(f"{server.url}/instances/{instance}/file", timeout=60).content
        (folder / f"{number:04d}.dcm").write_bytes(content)
    return sorted(folder.iterdir())
