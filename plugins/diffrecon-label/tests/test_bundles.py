# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which bundles a server offers, and the folder of the app; without MONAI Label."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffrecon_label.__main__ import APP
from diffrecon_label.bundles import offered_bundles
from monai_diffrecon.errors import ConfigError


def test_bundles_that_read_a_scan_are_offered(bundles: Path) -> None:
    offered = offered_bundles({"bundles": str(bundles)})
    assert {"brain_mr", "body_ct"} <= set(offered)
    assert "head_mr_t1_2mm" not in offered  # draws whole heads
    assert offered["body_ct"].modality == "CT"


def test_models_choose_among_them(bundles: Path) -> None:
    assert list(offered_bundles({"bundles": str(bundles), "models": "body_ct, brain_mr"})) == ["body_ct", "brain_mr"]


def test_without_a_folder_they_are_found_as_everywhere(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFRECON_BUNDLES", str(bundles))
    assert list(offered_bundles({"models": "brain_mr"})) == ["brain_mr"]


@pytest.mark.parametrize("models", ["brain", "brain_mr,head_mr_t1_2mm"])
def test_a_name_that_is_none_is_refused(bundles: Path, models: str) -> None:
    with pytest.raises(ConfigError) as caught:
        offered_bundles({"bundles": str(bundles), "models": models})
    assert caught.value.where == "--conf models"
    assert caught.value.got == models.rpartition(",")[2]
    assert "brain_mr" in str(caught.value.expected)


def test_no_bundles_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        offered_bundles({"bundles": str(tmp_path)})
    assert caught.value.where == "--conf bundles"
    assert "--conf bundles FOLDER" in str(caught.value.mend)


def test_a_broken_bundle_is_left_out_and_refused_by_name(bundles: Path, tmp_path: Path) -> None:
    shutil.copytree(bundles / "brain_mr", tmp_path / "good")
    shutil.copytree(bundles / "brain_mr" / "configs", tmp_path / "bad" / "configs")
    metadata = tmp_path / "bad" / "configs" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "diffrecon": 3}))
    assert list(offered_bundles({"bundles": str(tmp_path)})) == ["good"]
    with pytest.raises(ConfigError) as caught:
        offered_bundles({"bundles": str(tmp_path), "models": "bad"})
    assert caught.value.got == "bad"


def test_the_folder_of_the_app_is_printed_and_copied(tmp_path: Path) -> None:
    for arguments, app in (([], APP), ([str(tmp_path / "app")], tmp_path / "app")):
        command = [sys.executable, "-m", "diffrecon_label", *arguments]
        assert subprocess.check_output(command, text=True, cwd=APP.parents[1]) == f"{app}\n"
        assert (app / "main.py").read_bytes() == (APP / "main.py").read_bytes()
