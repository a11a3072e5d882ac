# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""`diffrecon bundles` and `diffrecon tasks`: lists, pages, downloads and exports."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon import registry
from monai_diffrecon.bundle.places import VARIABLE, cache_folder
from monai_diffrecon.bundle.transfer import download_bundle, export_bundle
from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.presets.overlays import METHODS

from ..raising import raises


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: Callable[..., Path]) -> Path:
    """A working directory with one bundle, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    # The bundles of the repository may be installed as a package, or not.
    folders = registry.folders
    others = lambda kind: tuple(f for f in folders(kind) if f[0] != "diffrecon-bundles")  # noqa: E731
    monkeypatch.setattr(registry, "folders", others)
    monkeypatch.setattr("monai_diffrecon.bundle.places.user_cache_path", lambda name: tmp_path / "cache" / name)
    make_bundle(tmp_path / "bundles/mine")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(words) == 0
    return capsys.readouterr().out


def test_lists_and_pages(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bundles/broken/configs").mkdir(parents=True)
    (place / "bundles/broken/configs/metadata.json").write_text("{")
    lines = said(capsys, "bundles").splitlines()
    assert [line.split()[0] for line in lines] == ["BUNDLE", "broken", "mine"]
    assert "BROKEN" in lines[1]
    (card,) = json.loads(said(capsys, "bundles", "mine", "--json"))
    assert (card["modality"], card["anatomy"], card["pixels"]) == ("MR", "brain", "1 x 1 mm")
    assert set(card["tasks"]) >= {"accelerated_mri", "z_super_resolution"}
    assert all(task in said(capsys, "bundles", "mine") for task in card["tasks"])
    listed = {line.split()[0] for line in said(capsys, "tasks").splitlines()[1:]}
    assert listed == set(card["tasks"])
    page = said(capsys, "tasks", "accelerated_mri", "--bundle", "mine")
    assert '"acceleration": 8' in page


def test_a_mistyped_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "acelerated_mri"]) == 2
    assert "'accelerated_mri'" in capsys.readouterr().err


def test_a_preset_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "methods", "dds").startswith("dds: DDS")
    assert cli.main(["methods", "ddss"]) == 2


@pytest.mark.slow
def test_an_exported_bundle_comes_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "bundles", "export", "mine").strip() == "mine.zip"
    names = zipfile.ZipFile(place / "mine.zip").namelist()
    assert {f"mine/configs/methods/{path.name}" for path in METHODS.glob("*.json")} <= set(names)
    assert "mine/models/model.pt" in names
    with raises(ConfigError, where="--to"):
        export_bundle("mine")
    root = download_bundle("theirs", (place / "mine.zip").as_uri())
    assert root == cache_folder() / "theirs"
    assert (root / "models/model.pt").read_bytes() == (place / "bundles/mine/models/model.pt").read_bytes()
    assert {line.split()[0] for line in said(capsys, "bundles").splitlines()} == {"BUNDLE", "mine", "theirs"}
    with raises(ConfigError, where="bundle theirs"):
        download_bundle("theirs", (place / "mine.zip").as_uri())
    assert download_bundle("theirs", (place / "mine.zip").as_uri(), force=True) == root


def damaged(place: Path, change: Callable[[Path], object]) -> str:
    change(place / "bundles/mine")
    with zipfile.ZipFile(place / "bad.zip", "w") as archive:
        for path in (place / "bundles").rglob("*"):
            archive.write(path, path.relative_to(place / "bundles"))
    return (place / "bad.zip").as_uri()


def wants_code(root: Path) -> None:
    config = json.loads((root / "configs/inference.json").read_text())
    (root / "configs/inference.json").write_text(json.dumps({**config, "x": "$__import__('os').system('true')"}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda root: (root / "models/model.pt").write_bytes(b"other"), IntegrityError),
        (wants_code, IntegrityError),
        (lambda root: (root / "configs/metadata.json").write_text("{}"), InputError),
        (lambda root: (root / "configs/metadata.json").unlink(), InputError),
    ],
)
def test_what_is_not_in_order_is_not_kept(
    place: Path, change: Callable[[Path], object], error: type[Exception]
) -> None:
    url = damaged(place, change)
    with pytest.raises(error):
        download_bundle("theirs", url)
    assert not list(cache_folder().glob("*"))


@pytest.mark.parametrize(("name", "error"), [("../x", ConfigError), ("", ConfigError), (".x", ConfigError)])
def test_names_that_lead_elsewhere(place: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        download_bundle(name, (place / "mine.zip").as_uri())


def test_nothing_there(place: Path) -> None:
    with raises(InputError, where="bundle theirs"):
        download_bundle("theirs", (place / "no.zip").as_uri())


def test_a_mistyped_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reconstrct", "x.nii"]) == 2
    assert "'reconstruct'" in capsys.readouterr().err


def test_completions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--print-completion", "bash"])
    assert caught.value.code == 0
    assert "reconstruct" in capsys.readouterr().out
