# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon check``: committed bundles pass, others say why not."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import monai_diffrecon
from monai_diffrecon.bundle.inspection.inspect_bundle import inspect_bundle, inspect_mapping
from monai_diffrecon.bundle.inspection.policy import plugin_packages, policy_for
from monai_diffrecon.bundle.inspection.require_trusted import refusals
from monai_diffrecon.cli.check import inspection as check
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError

from ...raising import raises

BUNDLES = Path(__file__).parents[3] / "bundles"
#: One network for all planes.
ALL_PLANES = ("brain_mr", "body_ct", "body_mr", "materials_ct", "head_mr_t1_2mm")
#: One network for all planes.
ALL_PLANES = ("brain_mr", "body_ct", "body_mr", "materials_ct", "head_mr_t1_2mm")


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "axial")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command = check(parser)
    return command(parser.parse_args([str(a) for a in arguments]))


def edit(bundle: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "configs" / name
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("name", sorted(p.name for p in BUNDLES.iterdir()))
def test_committed_bundles_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BUNDLES / name, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trusted"] is True
    assert report["plane"] in name or name in ALL_PLANES
    assert len(report["weights"]["sha256"]) == 64
    assert {use["package"] for use in report["uses"]} <= {"torch", "monai", "monai_diffrecon", "pathlib"}
    assert report["uses"]
    assert all(plugin["providers"] for plugin in report["plugins"])


def test_the_report_names_all(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle) == 0
    out = capsys.readouterr().out
    assert out.startswith("axial 0.1.0: axial plane\nweights models/model.pt: sha256 ")
    assert "inference.json#evaluator#_target_" in out
    assert "monai_diffrecon.ReconstructionEvaluator" in out
    assert "samplers pnp_hqs monai-diffrecon" in " ".join(out.split())
    assert "monai-diffrecon 0.1.0" in out
    assert out.splitlines()[-1].startswith("all ")


def test_names_of_modules_are_told_their_public_names(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (
        "monai_diffrecon.engine.cases.evaluator.ReconstructionEvaluator",
        "monai_diffrecon.ReconstructionEvaluator",
    )
    assert run(bundle) == 0
    assert "public name" not in capsys.readouterr().out
    edit(bundle, "inference.json", lambda c: c["evaluator"].update(_target_=old))
    assert run(bundle) == 0
    assert f"{old}: use {new}, the public name" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_nothing_of_the_bundle_is_imported(bundle: Path) -> None:
    """Its folder is on the path of imports, as when Python is started there."""
    for name in ("ignite", "nibabel", "acme"):
        (bundle / f"{name}.py").write_text("raise SystemExit('imported')\n")
    edit(bundle, "train.json", lambda c: c.update(extra=[{"_target_": "ignite.engine.Engine"}, {"_target_": "acme.X"}]))
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(bundle)!r})\n"
        "from monai_diffrecon.bundle.inspection.bundle_report import report_on\n"
        f"report = report_on({str(bundle)!r})\n"
        "assert {use.where for use, _ in report.refused} == {'acme.py', 'ignite.py', 'nibabel.py', "
        "'train.json#extra#1#_target_'}\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_refusal_says_where_what_and_how_to_mend(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(bundle, "tasks/accelerated_mri.json", lambda c: c.update(extra={"_target_": "acme.nets.Net"}))
    assert run(bundle) == 4
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "REFUSED: acme" in line]
    assert line.startswith("tasks/accelerated_mri.json#extra#_target_  ")
    assert line.endswith("acme is not trusted; give --trust acme, or set DIFFRECON_TRUST=acme, if you trust its author")
    assert run(bundle, "--trust", "acme") == 0
    with raises(ConfigError, where="--trust", got="'acme; rm'"):
        run(bundle, "--trust", "acme; rm")


def test_installed_plugin_packages_are_trusted(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        bundle, "inference.json", lambda c: c.update(extra={"_target_": "acme_nets.Net"}, prior={"name": "acme_prior"})
    )
    assert run(bundle) == 4
    assert "NOT INSTALLED" in capsys.readouterr().out
    info = tmp_path / "site" / "acme_nets-2.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-nets\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[monai_diffrecon.priors]\nacme_prior = acme_nets.prior:Prior\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    from monai_diffrecon import registry

    registry.refresh()
    try:
        assert run(bundle) == 0
    finally:
        monkeypatch.undo()
        registry.refresh()
    assert "acme-nets 2.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scripts/net.py", "the bundle's own code"),
        ("json.py", "replaces the package json"),
        ("ignite/__init__.py", "replaces the package ignite"),
        ("acme.dist-info/entry_points.txt", "poses as an installed plugin package"),
    ],
)
def test_python_files_in_a_bundle(bundle: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("import subprocess\n")
    assert run(bundle) == 4
    assert f"REFUSED: {reason}" in capsys.readouterr().out
    assert run(bundle, "--trust", "scripts", "--trust", "json", "--trust", "ignite") == (4, 0)[name == "scripts/net.py"]


def test_a_link_to_a_folder_hides_nothing(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle / "scripts").symlink_to(tmp_path / "elsewhere")
    assert [use.fault for use in inspect_bundle(bundle) if use.fault] == ["a link to another folder"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("args=(sys.stdout,)", 0),
        ("args=(__import__('os').system('x'),)", 4),
        ("class=eval", 4),
        ("class=handlers.RotatingFileHandler", 0),
        ("kwargs={'stream': open('x', 'w')}", 4),
    ],
)
def test_logging_files_are_code(bundle: Path, line: str, code: int) -> None:
    (bundle / "configs/logging.conf").write_text(f"[handler_a]\n{line}\n")
    assert run(bundle) == code


def test_yaml_is_read_too(bundle: Path) -> None:
    path = bundle / "configs/methods/extra.yaml"
    path.parent.mkdir()
    path.write_text("x:\n  - _target_: os.system\n    command: 'true'\n")
    assert run(bundle) == 4
    path.write_text("x: !!python/object/apply:os.system ['true']\n")
    assert run(bundle) == 4
    path.write_text("x: 1\n")
    assert run(bundle) == 0


def test_a_configuration_that_unfolds_without_end_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = [
        "a0: &a0 [x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12)),
    ]
    (bundle / "configs/methods").mkdir()
    (bundle / "configs/methods/bomb.yaml").write_text("\n".join(levels))
    assert run(bundle) == 4
    assert "has more values, or deeper ones, than can be inspected" in capsys.readouterr().out


def test_macros_read_the_bundle_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    (bundle / "docs").mkdir()
    (bundle / "docs/part.json").write_text('{"x": {"_target_": "os.system"}}')
    edit(bundle, "train.json", lambda c: c.update(extra="%docs/part.json#x"))
    (use,) = [u for u in inspect_bundle(bundle) if u.name == "os.system"]
    assert use.where == "docs/part.json#x#_target_"
    shutil.move(bundle / "docs/part.json", tmp_path / "part.json")
    for macro in ("%docs/part.json#x", "%../part.json#x", f"%{tmp_path}/part.json"):
        edit(bundle, "train.json", lambda c, macro=macro: c.update(extra=macro))
        (use,) = [u for u in inspect_bundle(bundle) if u.fault]
        assert (use.where, use.fault) == ("train.json#extra", "reads a file that is not in the bundle")


def test_foreign_texts_do_not_reach_the_terminal(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(bundle, "inference.json", lambda c: c.update({"\x1b[2J": "$open('\x1b[31m', '\\n')"}))
    edit(bundle, "metadata.json", lambda m: m.update(version="1\x1b[0m\n2"))
    assert run(bundle) == 4
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.startswith("axial 1 [0m 2: axial plane\n")


def test_weights_that_were_changed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (bundle / "models/model.pt").open("ab") as file:
        file.write(b"0")
    assert run(bundle) == 4
    assert "weights were changed" in capsys.readouterr().out
    (bundle / "models/model.pt").unlink()
    assert run(bundle) == 2


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with raises(InputError, where=f"bundle {tmp_path.name}", got="no such file"):
        run(tmp_path)
    with raises(InputError, where="archive none.zip"):
        run(tmp_path / "none.zip")
    with raises(ConfigError, where="--extract", got=tmp_path.name):
        run(tmp_path, "--extract", tmp_path / "new")


@pytest.mark.parametrize("top", ["", "axial/"], ids=["flat", "folder"])
def test_an_archive_is_checked_and_unpacked(bundle: Path, tmp_path: Path, top: str) -> None:
    archive = tmp_path / "b.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
            file.write(path, f"{top}{path.relative_to(bundle)}")
    before = set(tmp_path.iterdir())
    assert run(archive) == 0
    assert set(tmp_path.iterdir()) == before
    assert run(archive, "--extract", tmp_path / "new") == 0
    assert torch.load(tmp_path / "new/models/model.pt", weights_only=True)
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "new"}
    with raises(InputError, where="folder new"):
        run(archive, "--extract", tmp_path / "new")


def test_a_bad_archive_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("configs/metadata.json", "{}")
        file.writestr("../evil", "x")
    with raises(IntegrityError, where="archive b.zip") as caught:
        run(tmp_path / "b.zip", "--extract", tmp_path / "new")
    assert "'../evil'" in caught.value.what
    assert [p.name for p in tmp_path.iterdir()] == ["b.zip"]


def test_what_import_checkpoint_writes_is_trusted() -> None:
    """Its configs are the template; its network is one of a plugin, here diffrecon-ncsnpp."""
    template = Path(monai_diffrecon.__file__).parent / "bundle/importing/template"
    assert refusals(inspect_bundle(template), policy_for()) == []
    assert "diffrecon_ncsnpp" in plugin_packages()
    network_def = {"_target_": "diffrecon_ncsnpp.ncsnpp.NCSNpp", "channels": [8]}
    assert refusals(inspect_mapping({"network_def": network_def}), policy_for()) == []
