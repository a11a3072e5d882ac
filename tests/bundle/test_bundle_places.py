# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bundles and presets by name, those of packages too."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon import registry
from monai_diffrecon.bundle.places import VARIABLE, cache_folder, find_bundle
from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.presets.overlays import METHOD, METHODS, overlay_path, overlays

Install = Callable[..., None]


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name / "configs").mkdir(parents=True)
        (folder / name / "configs/metadata.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> Path:
    """A working directory without bundles."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv(VARIABLE, raising=False)
    # The bundles of the repository may be installed as a package, or not.
    folders = registry.folders
    others = lambda kind: tuple(f for f in folders(kind) if f[0] != "diffrecon-bundles")  # noqa: E731
    monkeypatch.setattr(registry, "folders", others)
    monkeypatch.setattr("monai_diffrecon.bundle.places.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path


def test_a_family_is_entered_by_its_first_plane(place: Path) -> None:
    put(place / "here/bundles", "brain_coronal", "brain_axial", "knee_sagittal", "knee_coronal", "odd", "odd_axial")
    assert find_bundle("brain") == Path("bundles/brain_axial")
    assert find_bundle("brain_coronal") == Path("bundles/brain_coronal")
    assert find_bundle("knee") == Path("bundles/knee_coronal")
    assert find_bundle("odd") == Path("bundles/odd")


def test_places_in_their_order(place: Path, monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    put(cache_folder(), "brain_axial", "late_axial")
    assert find_bundle("brain") == cache_folder() / "brain_axial"
    put(place / "second", "brain_axial", "more_axial")
    put(place / "first", "brain_coronal")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(place / "first"), "", str(place / "second")]))
    assert find_bundle("brain") == place / "first/brain_coronal"
    install("acme", "bundles", {"all": "FOLDER"}, f"FOLDER = {str(put(place / 'acme', 'brain_axial', 'own'))!r}")
    assert find_bundle("brain") == place / "acme/brain_axial"
    assert find_bundle("more") == place / "second/more_axial"
    assert find_bundle("late") == cache_folder() / "late_axial"
    assert find_bundle("own") == place / "acme/own"
    put(place / "here/bundles", "brain_axial")
    assert find_bundle("brain") == Path("bundles/brain_axial")
    put(place / "here", "brain")
    assert find_bundle("brain") == Path("brain")  # a path before all


def test_paths_are_not_looked_for(place: Path) -> None:
    put(place / "here/bundles", "brain_axial")
    for path in (Path("brain"), "./x/brain", str(place / "brain"), Path("bundles/brain_axial")):
        assert find_bundle(path) == Path(path)
    for wrong in ("", 3, "a\0b"):
        with pytest.raises(InputError) as caught:
            find_bundle(wrong)  # type: ignore[arg-type]
        assert caught.value.where == "bundle"


@pytest.mark.parametrize("name", ["brian", "brain_axal", "knee"])
def test_an_unknown_name_is_told_what_there_is(place: Path, name: str, install: Install) -> None:
    install("acme", "bundles", {"all": "folder"}, f"def folder():\n    return {str(put(place / 'acme', 'own'))!r}")
    put(place / "here/bundles", "brain_axial")
    with pytest.raises(ConfigError) as caught:
        find_bundle(name)
    error = caught.value
    assert (error.where, error.exit_code, error.got) == ("bundle", 2, repr(name))
    assert "brain_axial, own" in str(error.expected)
    assert "acme" in str(error.expected)
    near = {"brian": "'brain'", "brain_axal": "'brain_axial'"}.get(name, VARIABLE)
    assert near in str(error.mend)


@pytest.mark.parametrize("form", ["PATH", "TEXT", "function", "ONE"])
def test_what_an_entry_point_may_name(place: Path, install: Install, form: str) -> None:
    folder = str(put(place / "acme", "own_axial"))
    install(
        "acme",
        "bundles",
        {"all": form},
        f"""
        from pathlib import Path
        TEXT = {folder!r}
        PATH = Path(TEXT)
        ONE = PATH / "own_axial"
        def function():
            return PATH
        """,
    )
    assert find_bundle("own") == Path(folder) / "own_axial"


def test_a_package_is_its_own_folder(place: Path, install: Install) -> None:
    put(place / "acme_bundles", "own_axial")
    (place / "acme_bundles/__init__.py").touch()
    install("acme", "bundles", {"all": "package"}, "import acme_bundles as package")
    assert find_bundle("own") == place / "acme_bundles/own_axial"


def test_two_packages_with_one_name_are_told_apart_by_the_path(place: Path, install: Install) -> None:
    for name in ("acme", "zeta"):
        install(name, "bundles", {"all": "FOLDER"}, f"FOLDER = {str(put(place / name, 'own_axial'))!r}")
    with pytest.raises(ConfigError) as caught:
        find_bundle("own")
    assert caught.value.where == "bundle"
    assert str(place / "zeta/own_axial") in str(caught.value.mend)


@pytest.mark.parametrize("source", ["raise OSError('torn')", "FOLDER = 3", "FOLDER = '/nowhere/at/all'", "X = 1"])
def test_a_broken_package_stops_nothing_else(
    place: Path, install: Install, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("bundles", "methods"):
        install(f"torn-{kind}", kind, {"all": "FOLDER"}, source)
    put(place / "here/bundles", "brain_axial")
    with caplog.at_level(logging.WARNING):
        assert find_bundle("brain").name == "brain_axial"
        with pytest.raises(ConfigError):
            find_bundle("other")
        assert overlay_path(METHOD, "dds", where="test") == METHODS / "dds.json"
        assert overlay_path(METHOD, "tpdm", where="test") == METHODS / "tpdm.json"
    assert len([m for m in caplog.messages if "torn-bundles" in m]) == 1
    assert len([m for m in caplog.messages if "torn-methods" in m]) == 1
    assert [info.error for info in registry.available("bundles")] != [None]


def test_presets_of_packages(place: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    for name, presets in {"acme": ("fast", "dds", "same"), "zeta": ("same", "slow")}.items():
        (place / name).mkdir()
        for preset in presets:
            about = {"summary": f"{preset} of {name}", "families": ["ct"]}
            (place / name / f"{preset}.json").write_text(json.dumps({"_method_": about}))
        install(name, "methods", {"all": "FOLDER"}, f"FOLDER = {str(place / name)!r}")
    found = overlays(METHOD)
    assert found["fast"] == place / "acme/fast.json"
    assert found["slow"] == place / "zeta/slow.json"
    assert found["dds"] == METHODS / "dds.json"
    assert found["acme:dds"] == place / "acme/dds.json"
    assert found["zeta:same"] == place / "zeta/same.json"
    assert "same" not in found
    (place / "own/configs/methods").mkdir(parents=True)
    (place / "own/configs/methods/fast.json").write_text("{}")
    assert overlays(METHOD, place / "own")["fast"] == place / "own/configs/methods/fast.json"
    assert cli.main(["methods"]) == 0
    assert "fast of acme" in capsys.readouterr().out
    assert cli.main(["methods", "--path", "acme:dds"]) == 0
    assert capsys.readouterr().out.strip() == str(place / "acme/dds.json")


def test_they_are_listed(place: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("acme", "bundles", {"knees": "FOLDER"}, f"FOLDER = {str(put(place / 'acme', 'own'))!r}")
    assert cli.main(["plugins", "--kind", "bundles"]) == 0
    assert "knees" in capsys.readouterr().out
    assert cli.main(["plugins", "--check"]) == 0
    assert "knees" in capsys.readouterr().out
