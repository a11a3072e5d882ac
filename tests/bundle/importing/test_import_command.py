# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon import-checkpoint`` with an importer of a third party: targets, options, orientation, hostile texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError

from ...raising import raises

Command = Callable[..., int]


def test_a_third_party_importer_is_found(stripes: Path, command: Command, metadata: Callable[[], Any]) -> None:
    assert command(stripes, window="64 32", intensity="window -1000 1000") == 0
    block = metadata()["diffrecon"]
    assert (block["source"]["importer"], block["source"]["distribution"]) == ("stripes", "acme-stripes 2.1")
    assert block["window"] == [64, 32]
    assert block["intensity"] == {"map": "window", "low": -1000.0, "high": 1000.0}
    assert block["licence"].startswith("not known")
    assert block["source"]["notes"] == ["print('note of the importer')"]


def test_warnings_are_single_lines(stripes: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stripes) == 0
    out, err = capsys.readouterr()
    assert out.startswith("new: axial Stripes, 7 weights (float32), importer stripes\nsigma 0.02 to 1 ")
    orientation, licence = err.splitlines()
    assert "no --sample was given" in orientation
    assert "ask their authors" in licence


@pytest.mark.parametrize("multiple", [8, 32])
def test_the_size_of_slices_is_found(
    stripes: Path, command: Command, metadata: Callable[[], Any], multiple: int
) -> None:
    assert command(stripes, "--declare", f"multiple={multiple}") == 0
    assert metadata()["network_data_format"]["inputs"]["image"]["spatial_shape"] == [f"{multiple}*n"] * 2


def test_an_existing_target_is_kept(
    stripes: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bundles/new"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("mine")
    assert command(stripes) == 2
    assert capsys.readouterr().err == ("error: bundle new: already there. Fix: choose another folder, or use --force\n")
    assert command(stripes, "--force") == 2
    assert "already exists and is not a bundle" in capsys.readouterr().err
    assert [p.name for p in target.iterdir()] == ["thesis.txt"]


def test_force_replaces_a_bundle_whole(stripes: Path, command: Command, tmp_path: Path) -> None:
    assert command(stripes) == 0
    target = tmp_path / "bundles/new"
    (target / "old.txt").write_text("")
    torch.save({"stripes": {"weight": torch.full((1, 1, 1, 7), 0.1)}}, stripes)
    assert command(stripes) == 2
    assert command(stripes, "--force") == 0
    assert [p.name for p in target.parent.iterdir()] == ["new"]
    assert not (target / "old.txt").exists()
    assert float(load_score_network(target).network.weight.sum()) == pytest.approx(0.7)


def test_a_target_that_cannot_be_written(
    stripes: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command(stripes, to=str(tmp_path / "file/new")) == 2
    assert "bundle new: cannot be written; got " in capsys.readouterr().err


def test_a_failure_leaves_the_older_bundle(
    stripes: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(stripes) == 0
    before = (tmp_path / "bundles/new/models/model.pt").read_bytes()
    monkeypatch.setattr("monai_diffrecon.bundle.importing.write_bundle.model_card", lambda bundle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(stripes, "--force")
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["new"]
    assert (tmp_path / "bundles/new/models/model.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "flags", "code", "message"),
    [
        ({"stripes": {"weight": torch.ones(2)}}, [], 2, "weights do not fit the network.*size mismatch for weight"),
        ({"stripes": {}}, [], 2, "Missing key.*weight"),
        ({"stripes": {"weight": torch.full((1, 1, 1, 7), torch.nan)}}, [], 5, "returns numbers that are not finite"),
        ({"other": 1}, [], 2, "no installed importer recognises the layout"),
        (None, ["--declare", "text=$print(1)"], 4, r"network_def holds more than data; got \$print"),
        (None, ["--declare", "text=plain"], 2, "network_def cannot be built.*text"),
        (None, ["--declare", "channels=2"], 2, "a network of 2 channels"),
        (None, ["--declare", "multiple=7"], 2, "takes no slice.*got not a multiple"),
        (None, ["--declare", "multiple"], 2, "--declare: not a declaration"),
        (None, ["--format", "nothing"], 7, "unknown importer 'nothing'"),
        (None, ["--plane", "frontal"], 2, "--plane: unknown plane"),
        (None, ["--spacing", "0", "1"], 2, "--spacing: out of range"),
        (None, ["--intensity", "window", "5"], 2, "--intensity: not an intensity map.*got window 5"),
        (None, ["--intensity", "window", "5", "1"], 2, "an empty window"),
        (None, ["--dtype", "int8"], 2, "--dtype: unknown choice"),
        (None, ["--sample", "nowhere.nii.gz"], 2, "nowhere.nii.gz: no such file"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    stripes: Path,
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: Any,
    flags: list[str],
    code: int,
    message: str,
) -> None:
    if content is not None:
        torch.save(content, stripes)
    assert command(stripes, *flags) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["site", "stripes.pt"]


def test_the_right_orientation(
    stripes: Path,
    command: Command,
    sample: Callable[..., str],
    metadata: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Slices (X, Y) that vary along X alone: averaging along Y is right.
    assert command(stripes, sample=sample("X")) == 0
    test = metadata()["diffrecon"]["orientation_test"]
    assert (test["best"], test["warnings"], test["slices"]) == ("RAS+ order", [], 4)
    out, err = capsys.readouterr()
    assert "flip X, flip Y, transpose" in out
    assert "turned" not in err


def test_a_wrong_orientation_is_found(
    stripes: Path,
    command: Command,
    sample: Callable[..., str],
    metadata: Callable[[], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(stripes, sample=sample("Y")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "turned" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: the network fits the sample better by")
    test = metadata()["diffrecon"]["orientation_test"]
    assert "transpose" in test["best"]
    assert test["warnings"][0] in (tmp_path / "bundles/new/docs/README.md").read_text()
    # No sample's name: it may be a patient's.
    assert "along_Y" not in json.dumps(metadata())


def test_a_sample_of_another_voxel_size(
    stripes: Path, command: Command, sample: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(stripes, sample=sample("X", spacing=2.0)) == 2
    assert "expected 1 x 1 mm in the axial plane, got 2 x 2 mm" in capsys.readouterr().err


def test_a_range_of_voxel_sizes(
    stripes: Path,
    command: Command,
    sample: Callable[..., str],
    metadata: Callable[[], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ranged = {"spacing": None, "spacing-range": "0.5 2"}
    assert command(stripes, sample=sample("X", spacing=1.7), **ranged) == 0
    block = metadata()["diffrecon"]
    assert (block["spacing_range"], block["spacing_ratio"]) == ([0.5, 2.0], 2.5)
    assert "spacing" not in block
    assert tuple(load_score_network(tmp_path / "bundles/new").spacing) == (0.5, 2.0, 2.5)
    assert "0.5 to 2 mm" in (tmp_path / "bundles/new/docs/README.md").read_text()
    capsys.readouterr()
    assert command(stripes, "--force", sample=sample("X", spacing=3.0), **ranged) == 2
    assert "got 3 x 3 mm" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["2 0.5", "0 1", "-1 1", "nan 1"])
def test_an_impossible_range(stripes: Path, command: Command, capsys: pytest.CaptureFixture[str], said: str) -> None:
    assert command(stripes, **{"spacing": None, "spacing-range": said}) == 2
    assert "--spacing-range" in capsys.readouterr().err


def test_one_voxel_size_and_a_range_exclude_each_other(stripes: Path, command: Command) -> None:
    for words in ({"spacing-range": "0.5 2"}, {"spacing": None}):
        with pytest.raises(SystemExit) as caught:
            command(stripes, **words)
        assert caught.value.code == 2


def test_values_are_json_or_words() -> None:
    assert cli.declarations(["a=1", "b=[1, 2]", "c=ema", "d=x=y"]) == {"a": 1, "b": [1, 2], "c": "ema", "d": "x=y"}
    with raises(ConfigError, where="--declare", got="a=2"):
        cli.declarations(["a=1", "a=2"])


def test_the_parser_stays_light() -> None:
    code = "import sys; from monai_diffrecon.cli import main as m; m.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
