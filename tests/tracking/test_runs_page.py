# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The address of the page of runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from monai_diffrecon.tracking import runs_page
from monai_diffrecon.tracking.export_run import TrackedRun


def test_it_has_the_id_of_the_experiment(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with TrackedRun(tmp_path, "a", experiment=name, required=True):
            pass
    local = "http://127.0.0.1:5000/#/experiments"
    assert runs_page.runs_page(tmp_path, None, "second") == f"{local}/2?workflowType=machine_learning"
    assert runs_page.runs_page(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "first").startswith(f"{local}/1?")
    assert runs_page.runs_page(tmp_path, None, "third") is None


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("https://me:secret@runs.org:8080/lab/", "https://runs.org:8080/lab/#/experiments/7"),
        ("http://runs.org", "http://runs.org/#/experiments/7"),
    ],
)
def test_a_server_keeps_its_address_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, page: str
) -> None:
    client = SimpleNamespace(get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="7"))
    monkeypatch.setattr(runs_page, "open_client", lambda folder, address: client)
    assert runs_page.runs_page(tmp_path, uri, "a") == f"{page}?workflowType=machine_learning"
    assert not any(tmp_path.iterdir())
