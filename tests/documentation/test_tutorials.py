# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The tutorials run in their short form, and gain what they promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs/tutorials"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Execute the cells of a tutorial where Sphinx does, and return their names."""
    monkeypatch.chdir(TUTORIALS)
    monkeypatch.setenv("DIFFRECON_SHORT", "1")
    monkeypatch.setenv("DIFFRECON_BUNDLES", str(ROOT / "bundles"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plt.switch_backend("agg")

    def execute(name: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        cells = re.findall(r"^```\{code-cell\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(cells) >= 4
        for cell in cells:
            exec(compile(cell, name, "exec"), names)
        return names

    yield execute
    plt.close("all")


def test_thick_slices(run: Any) -> None:
    names = run("thick_slices")
    assert names["volume"].shape == names["truth"].shape
    assert names["scores"]["reconstruction"] > names["scores"]["cubic interpolation"] + 1
    assert (names["folder"] / "thin.nii.gz").is_file()


@pytest.mark.slow
def test_sparse_view_ct(run: Any) -> None:
    names = run("sparse_view_ct")
    assert names["errors"]["reconstruction"] < 0.7 * names["errors"]["filtered back-projection"]
    found = names["found"]
    assert abs(found["samples, HU"] - found["truth, HU"]) < 60
    assert abs(found["best estimate, HU"] - found["truth, HU"]) < 40
    assert 0 < found["spread of the samples, HU"] < 60


@pytest.mark.slow
def test_raw_mri(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("raw_mri")
    scores = names["scores"]
    assert scores["reconstruction"] > max(scores["zero-filled"], scores["CG-SENSE"]) + 1
    assert "raw_mri.json" in capsys.readouterr().out  # the task that `reconstruct` has chosen for the file


def test_own_parts(run: Any) -> None:
    names = run("own_parts")
    assert names["scores"]["reconstruction"] > names["scores"]["large pixels"] + 1
    assert names["result"].report.options["prior"]["name"].endswith(":Mirrored")
