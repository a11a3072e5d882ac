# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which series an application reconstructs, and its settings; without the SDK."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffrecon_deploy.app import settings
from diffrecon_deploy.app.settings import Settings, find_bundle, read_settings
from diffrecon_deploy.selected_series import selected_series
from monai_diffrecon.errors import ConfigError, InputError

APP = Path(settings.__file__).parent


def study(**series: list[str]) -> SimpleNamespace:
    """Return what the SDK's selector has of a study: UID -> files."""

    def instance(file: str) -> SimpleNamespace:
        return SimpleNamespace(get_native_sop_instance=lambda: SimpleNamespace(filename=file))

    found = [
        SimpleNamespace(SeriesInstanceUID=uid, get_sop_instances=lambda files=files: list(map(instance, files)))
        for uid, files in series.items()
    ]
    return SimpleNamespace(selected_series=[SimpleNamespace(series=each) for each in found])


def test_the_series_that_two_rules_match_is_one() -> None:
    one = study(a=["/in/2.dcm", "/in/1.dcm"])
    found = selected_series([one, one])
    assert found[:3] == (Path("/in"), "a", Path("/in/1.dcm"))
    assert found.case == selected_series([study(a=["/elsewhere/1.dcm"])]).case
    assert found.case != selected_series([study(b=["/in/1.dcm"])]).case


@pytest.mark.parametrize(
    ("selection", "got"),
    [
        ([], 0),
        ([study()], 0),
        ([study(a=["/in/1.dcm"], b=["/in/2.dcm"])], 2),
        ([study(a=["/in/1.dcm"]), study(b=["/in/2.dcm"])], 2),
        ([study(a=["/in/1/1.dcm", "/in/2/1.dcm"])], 2),
    ],
)
def test_what_is_not_one_series_is_refused(selection: list[Any], got: int) -> None:
    with pytest.raises(InputError) as caught:
        selected_series(selection)
    assert (caught.value.where, caught.value.got) == ("input", got)


def test_the_settings_of_the_example() -> None:
    said = read_settings(APP / "app.yaml")
    assert said == Settings(rules="thick_mr.json")
    assert (APP / said.rules).is_file()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("rules: a.json\n  keep_identiy: true", "app.yaml#reconstruction#keep_identiy"),
        ("keep_identity: true", "app.yaml#reconstruction#rules"),
        ("rules: a.json\n  keep_identity: 1", "app.yaml#reconstruction#keep_identity"),
        ("rules: ''", "app.yaml#reconstruction#rules"),
    ],
)
def test_wrong_settings_are_refused(text: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(f"reconstruction:\n  {text}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path / "app.yaml")
    assert caught.value.where == where


@pytest.mark.parametrize("text", [None, "{", "\0"])
def test_a_file_that_is_no_yaml_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(InputError):
        read_settings(tmp_path / "app.yaml")


def test_the_bundle_is_the_only_one_or_the_one_that_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "metadata.json").touch()
    assert find_bundle(tmp_path / "one", None) == tmp_path / "one"
    assert find_bundle(tmp_path, "two") == tmp_path / "two"
    for folder, name in ((tmp_path, None), (tmp_path, "three"), (tmp_path / "nowhere", None)):
        with pytest.raises(ConfigError) as caught:
            find_bundle(folder, name)
        assert caught.value.where == "model"
