# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A folder of outputs that was moved, copied, or has a name that is special in an address."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.errors import InputError
from monai_diffrecon.tracking.mlflow_client import open_client


def record(folder: Path, case: str, experiment: str = "e") -> None:
    """Track a case with a picture."""
    (folder / f"{case}.png").write_text(case)
    recorder = CaseRecorder(folder, track=True, tracking_uri=None, experiment=experiment, tracking_required=True)
    with recorder.cohort(), recorder.case(case) as found:
        found.run.log_artifact(folder / f"{case}.png")


def pictures(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("mlartifacts/**/*.png")}


@pytest.mark.parametrize("name", ["old", "o[l]d*", "old #1"])
def test_a_moved_and_a_copied_folder_are_where_they_are(
    tmp_path: Path, empty_store: Callable[[Path], Path], name: str
) -> None:
    old = empty_store(tmp_path / name)
    record(old, "a")
    new = old.rename(tmp_path / "new")
    record(new, "b")
    assert not old.exists()
    assert pictures(new) == {"a.png", "b.png"}
    copy = tmp_path / "a copy"
    shutil.copytree(new, copy)
    record(copy, "c")
    record(copy, "d", experiment="another")
    assert pictures(new) == {"a.png", "b.png"}
    assert pictures(copy) == {"a.png", "b.png", "c.png", "d.png"}
    # Who looks at the copy in MLflow sees the copy.
    client = open_client(copy, None)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    shown = {run.info.run_name: [f.path for f in client.list_artifacts(run.info.run_id)] for run in runs}
    assert {k: v for k, v in shown.items() if k != "cohort"} == {k: [f"{k}.png"] for k in "abc"}
    assert all(run.info.artifact_uri.startswith(copy.as_uri()) for run in runs)


def test_experiments_that_lie_elsewhere_stay_there(tmp_path: Path, empty_store: Callable[[Path], Path]) -> None:
    old = empty_store(tmp_path / "old")
    elsewhere = (tmp_path / "old" / "mlartifacts-of-others").as_uri()
    open_client(old, None).create_experiment("theirs", artifact_location=elsewhere)
    new = old.rename(tmp_path / "new")
    assert open_client(new, None).get_experiment_by_name("theirs").artifact_location == elsewhere


@pytest.mark.parametrize("name", ["a#b", "100%", "a b", "it's", 'a"b', "a&b;c=d", "a\nb", "a@b", "a::b"])
def test_names_that_are_special_elsewhere_work(tmp_path: Path, empty_store: Callable[[Path], Path], name: str) -> None:
    record(empty_store(tmp_path / "all" / name), "a")
    assert pictures(tmp_path / "all" / name) == {"a.png"}
    assert [path.name for path in (tmp_path / "all").iterdir()] == [name]


@pytest.mark.parametrize("name", ["a?b", "a%41b", "%23", os.fsdecode(b"a\xffb")])
def test_names_that_lead_an_address_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "all" / name
    recorder = CaseRecorder(folder, track=True, tracking_uri=None, experiment="e")
    with pytest.raises(InputError) as caught, recorder.cohort():
        pass
    assert caught.value.where == "output_dir"
    assert [path.name for path in (tmp_path / "all").rglob("*")] == [name]
    with CaseRecorder(folder, track=False, tracking_uri=None, experiment="e").cohort():
        pass
