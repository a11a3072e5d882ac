# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Descriptions that MLflow shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.markdown import artifact, code, number, plain, table
from monai_diffrecon.tracking.mlflow_client import experiment_id, open_client


def test_texts_are_shown_as_they_are() -> None:
    assert plain("a|b <b>*c*\n d") == r"a\|b \<b\>\*c\* d"
    assert code("a`b.nii.gz") == "`a b.nii.gz`"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert table(["a"], [["1"], ["2"], ["3"]], most=1).endswith("| 1 |\n\n2 more rows are left out.")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(31.456, 2, "31.46"), (0.00012, 3, "0.00012"), (0.0, 2, "0.00"), (math.nan, 2, "\u2013")],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_a_description_names_its_run_and_no_path(tmp_path: Path, empty_store: Callable[[Path], Path]) -> None:
    with TrackedRun(empty_store(tmp_path), "a", required=True) as run:
        run.log_note(f"![p]({artifact('m/a b.png')}) of /home/Doe/scan.nii, here")
    found = open_client(tmp_path, None).get_run(run.run_id)
    expected = f"![p](get-artifact?path=m/a%20b.png&run_uuid={run.run_id}) of <path>, here"
    assert found.data.tags["mlflow.note.content"] == expected


def test_experiments_of_former_versions_get_a_kind(tmp_path: Path, empty_store: Callable[[Path], Path]) -> None:
    client = open_client(empty_store(tmp_path), None)
    client.create_experiment("old")
    client.create_experiment("theirs", tags={"mlflow.experimentKind": "finetuning"})
    kinds = {}
    for name in ("old", "theirs", "new"):
        found = client.get_experiment(experiment_id(client, name, tmp_path))
        kinds[name] = found.tags["mlflow.experimentKind"]
    assert kinds == {"old": "custom_model_development", "theirs": "finetuning", "new": "custom_model_development"}
