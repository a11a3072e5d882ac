# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Presets are found by name, a bundle's own before those that all bundles share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon.bundle.importing.write_bundle import TEMPLATE
from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.options.command_line import check_arguments
from monai_diffrecon.presets.overlays import METHOD, METHODS, TASK, copy_methods, overlay_path, overlays, presets

ROOT = Path(__file__).resolve().parents[2]
SAMPLED = {"diffusion_mbir", "tpdm", "dds", "dds_tpdm", "ddnm", "diffpir", "iscs", "posterior", "conservative"}
CLASSICAL = {"fbp", "fdk", "cubic", "sirt", "cg_least_squares", "admm_tv"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "mine/configs/methods").mkdir(parents=True)
    (tmp_path / "mine/configs/tasks").mkdir()
    (tmp_path / "mine/configs/tasks/sparse.json").write_text("{}")
    (tmp_path / "mine/configs/methods/dds.json").write_text('{"calls": 7}')
    (tmp_path / "mine/configs/methods/own.json").write_text('{"_method_": {"summary": "mine", "families": ["ct"]}}')
    return tmp_path / "mine"


def test_the_presets_are_there_once() -> None:
    assert {preset.name for preset in presets()} == SAMPLED | CLASSICAL
    assert not list(ROOT.glob("bundles/*/configs/methods/*"))
    assert not list(Path(str(TEMPLATE)).glob("**/methods/*"))


def test_a_file_of_the_bundle_wins(bundle: Path) -> None:
    assert overlay_path(METHOD, "dds", bundle, where="test") == bundle / "configs/methods/dds.json"
    assert overlay_path(METHOD, "dds", where="test") == overlay_path(METHOD, "dds", ROOT, where="test")
    assert overlay_path(METHOD, "dds", where="test") == METHODS / "dds.json"
    assert set(overlays(METHOD, bundle)) == SAMPLED | CLASSICAL | {"own"}
    assert list(overlays(TASK, bundle)) == ["sparse"]


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        (METHOD, "ddss", "dds"),
        (METHOD, "diffusion-mbir", "diffusion_mbir"),
        (METHOD, "owm", "own"),
        (TASK, "sparce", "sparse"),
        (METHOD, "../tasks/sparse", None),
        (METHOD, "", None),
        (METHOD, 3, None),
        (METHOD, None, None),
        (METHOD, [], None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(kind: str, name: object, near: str | None, bundle: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        overlay_path(kind, name, bundle, where="here")
    error = caught.value
    assert (error.where, error.exit_code, error.got) == ("here", 2, repr(name))
    assert set(str(error.expected).split(", ")) == set(overlays(kind, bundle))
    assert near is None or repr(near) in str(error.mend)


def test_the_list_has_a_line_for_each(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "FAMILIES", "SUMMARY"]
    assert [line.split()[0] for line in lines] == sorted(SAMPLED | CLASSICAL)
    assert cli.main(["methods", "--bundle", str(bundle)]) == 0
    assert ["own", "ct", "mine"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_path_is_printed_alone_and_without_torch(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods", "--path", "dds"]) == 0
    assert capsys.readouterr().out == f"{METHODS / 'dds.json'}\n"
    assert cli.main(["methods", "--path", "dds", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().out == f"{bundle / 'configs/methods/dds.json'}\n"
    code = (
        "import sys; from monai_diffrecon.cli import main as m; m.main(['methods']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_a_mistyped_path_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods", "--path", "ddnmm"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'ddnm'" in err


def test_a_damaged_file_of_the_bundle_is_one_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "configs/methods/own.json").write_text("{")
    assert cli.main(["methods", "--bundle", str(bundle)]) == 2
    assert "preset own" in capsys.readouterr().err


def test_an_exported_bundle_has_them_and_keeps_its_own(bundle: Path) -> None:
    copy_methods(bundle)
    there = {path.stem: path for path in (bundle / "configs/methods").iterdir()}
    assert set(there) == SAMPLED | CLASSICAL | {"own"}
    assert json.loads(there["dds"].read_text()) == {"calls": 7}
    assert there["tpdm"].read_bytes() == (METHODS / "tpdm.json").read_bytes()


@pytest.mark.slow
def test_the_export_script_copies_them(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(tmp_path / "axial")
    words = [sys.executable, str(ROOT / "scripts/export_bundle.py"), str(root), "--to", str(tmp_path / "out/axial")]
    assert subprocess.run(words, capture_output=True, timeout=200).returncode == 0
    assert not (root / "configs/methods").exists()
    assert set(overlays(METHOD, tmp_path / "out/axial")) == SAMPLED | CLASSICAL
    assert (tmp_path / "out/axial/configs/methods/dds.json").is_file()
    assert (tmp_path / "out/axial/models/model.pt").read_bytes() == (root / "models/model.pt").read_bytes()
    assert subprocess.run(words[:3], capture_output=True, timeout=200).returncode == 2


def test_the_place_where_a_preset_was_leads_to_where_it_is(tmp_path: Path) -> None:
    before = tmp_path / "configs/methods/dds.json"
    with pytest.raises(InputError) as caught:
        check_arguments(["--config_file", str(before)])
    assert str(METHODS / "dds.json") in str(caught.value.mend)
