# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.cli.cases import cases
from monai_diffrecon.engine.cases.list_cases import case_key, list_cases
from monai_diffrecon.errors import InputError, IntegrityError

from ...raising import raises

#: What cannot be a path.
NO_PATHS = (7, ["Roe.nii"], {}, "", " ", "Roe\0", "Roe" * 100, "~Roe-nobody/x", "Roe\ud800")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFRECON_CASE_KEY", raising=False)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("Roe_Jane.nii", "Doe_John.nii.gz", "DOE.NII.GZ", ".tmp.nii.gz", "notes.txt"):
        (folder / name).touch()
    return folder


def test_a_folder_is_its_scans_by_name(scans: Path, tmp_path: Path) -> None:
    cases = list_cases(dataset_dir=str(scans), output_dir=str(tmp_path / "out"))
    assert [Path(case["image"]).name for case in cases] == ["DOE.NII.GZ", "Doe_John.nii.gz", "Roe_Jane.nii"]
    names = [case["case"] for case in cases]
    assert len(set(names)) == 3
    assert all(re.fullmatch("case-[0-9a-f]{16}", name) for name in names)
    assert all("reference" not in case for case in cases)


def test_names_are_keyed_and_stay(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, other = str(tmp_path / "out"), str(tmp_path / "other")
    first = list_cases(dataset_dir=str(scans), output_dir=out)
    monkeypatch.chdir(tmp_path)
    assert [c["case"] for c in list_cases(dataset_dir="scans", output_dir="out")] == [c["case"] for c in first]
    assert first[0]["case"] != list_cases(dataset_dir=str(scans), output_dir=other)[0]["case"]
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "of the cohort")
    here, there = (list_cases(dataset_dir=str(scans), output_dir=folder) for folder in (out, other))
    assert here == there
    assert here[0]["case"] != first[0]["case"]


def test_the_key_is_for_its_owner(tmp_path: Path) -> None:
    key = case_key(tmp_path / "out")
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "out" / ".case_key").stat().st_mode) == 0o600
    assert case_key(tmp_path / "out") == key != case_key(tmp_path / "other")


def test_a_key_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = case_key(tmp_path)
    (tmp_path / ".case_key").chmod(0o640)
    assert case_key(tmp_path) == key
    assert "chmod 600" in caplog.text
    assert key not in caplog.text


def test_a_lost_key_is_not_replaced(scans: Path, tmp_path: Path) -> None:
    (tmp_path / ".case_key").touch(0o600)
    with raises(IntegrityError, where=".case_key", got="an empty file"):
        list_cases(dataset_dir=str(scans), output_dir=str(tmp_path))


def test_many_processes_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(case_key, [tmp_path / "out"] * 32))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".case_key"]
    assert stat.S_IMODE((tmp_path / "out" / ".case_key").stat().st_mode) == 0o600


def test_without_hard_links_the_key_is_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", _refuse)
    key = case_key(tmp_path)
    assert len(key) == 32
    assert case_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == [".case_key"]


def _refuse(*_: object) -> None:
    raise OSError("no hard links")


def test_every_spelling_of_a_path_is_one_case(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(scans)
    (tmp_path / "alias.nii").symlink_to(scans / "Roe_Jane.nii")
    monkeypatch.chdir(scans)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = ["Roe_Jane.nii", "./Roe_Jane.nii", "../scans/Roe_Jane.nii", "~/scans/Roe_Jane.nii"]
    spellings += [str(tmp_path / "link" / "Roe_Jane.nii"), str(tmp_path / "alias.nii"), str(scans / "Roe_Jane.nii")]
    names = {list_cases(image=s, output_dir=str(tmp_path / "out"))[0]["case"] for s in spellings}
    assert len(names) == 1
    assert names == {list_cases(dataset_dir="../link", output_dir="../out")[2]["case"]}


def test_files_of_one_name_in_two_folders_are_two_cases(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scan.nii").write_bytes(b"the same")
        names += [c["case"] for c in list_cases(dataset_dir=str(tmp_path / folder), output_dir=str(tmp_path))]
    assert len(set(names)) == 2


def test_a_scan_and_a_link_to_it_are_refused(scans: Path, tmp_path: Path) -> None:
    (scans / "again.nii").symlink_to(scans / "Roe_Jane.nii")
    with raises(InputError, where="dataset_dir", got=...) as caught:
        list_cases(dataset_dir=str(scans), output_dir=str(tmp_path / "out"))
    assert "Roe" not in str(caught.value)


@pytest.mark.parametrize("value", NO_PATHS, ids=repr)
@pytest.mark.parametrize("key", ["image", "dataset_dir", "reference", "output_dir"])
def test_what_is_no_path_is_refused_without_naming_it(scans: Path, key: str, value: Any) -> None:
    options: dict[str, Any] = {"image": str(scans / "Roe_Jane.nii"), "output_dir": str(scans / "out")}
    if key == "dataset_dir":
        del options["image"]
    with raises(InputError, where=key, expected="the path of a file or folder") as caught:
        list_cases(**options | {key: value})
    assert "Roe" not in str(caught.value)
    assert not (scans / "out").exists()


def test_a_file_in_place_of_the_output_folder_is_refused(scans: Path) -> None:
    image = str(scans / "Roe_Jane.nii")
    for folder in (image, f"{image}/out"):
        with raises(InputError, where="output_dir") as caught:
            list_cases(image=image, output_dir=folder)
        assert "Roe" not in str(caught.value)


def test_a_key_that_cannot_be_read_is_not_replaced(scans: Path, tmp_path: Path) -> None:
    key = tmp_path / ".case_key"
    key.write_bytes(b"\xff\xfe")
    key.chmod(0o600)
    with raises(IntegrityError, where=".case_key", got="a file that is no text"):
        list_cases(dataset_dir=str(scans), output_dir=str(tmp_path))
    key.unlink()
    key.mkdir()
    with raises(IntegrityError, where=".case_key", got="Is a directory"):
        list_cases(dataset_dir=str(scans), output_dir=str(tmp_path))


def _cases_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    run = cases(parser)
    return run(parser.parse_args(arguments))


def test_who_holds_the_key_finds_the_scan(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    with raises(InputError, where="--output"):
        _cases_command(str(scans), "--output", out)
    assert not Path(out).exists()
    wanted = list_cases(dataset_dir=str(scans), output_dir=out)
    assert _cases_command(str(scans), "--output", out) == 0
    assert capsys.readouterr().out.splitlines() == [f"{c['case']}  {c['image']}" for c in wanted]
    one = wanted[1]
    assert _cases_command(str(scans), "--output", out, "--case", one["case"]) == 0
    assert capsys.readouterr().out == f"{one['case']}  {one['image']}\n"
    with raises(InputError, where="--case", got="1 other scans"):
        _cases_command(one["image"], "--output", out, "--case", "case-0")
    assert sorted(path.name for path in Path(out).iterdir()) == [".case_key"]


def test_one_image_wins_and_may_have_a_name_and_a_reference(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(scans.parent))
    cases = list_cases(
        image="~/scans/Roe_Jane.nii", dataset_dir=str(scans), reference="~/scans/Doe_John.nii.gz", case_name="run-1"
    )
    expected = {"image": str(scans / "Roe_Jane.nii"), "case": "run-1", "reference": str(scans / "Doe_John.nii.gz")}
    assert cases == [expected]


def test_a_number_is_a_name(scans: Path) -> None:
    assert list_cases(image=str(scans / "Roe_Jane.nii"), case_name=7)[0]["case"] == "7"  # type: ignore[arg-type]


def test_without_any_scan_there_is_no_case(tmp_path: Path) -> None:
    assert list_cases(output_dir=str(tmp_path / "out")) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"dataset_dir": "{scans}/none"}, "image, dataset_dir", "no such folder"),
        ({"image": "{scans}/Roe_none.nii"}, "image", "a folder without this file"),
        ({"image": "{scans}/Roe/none.nii"}, "image", "a folder that does not exist"),
        (
            {"image": "{scans}/Roe_Jane.nii", "reference": "{scans}/none.nii"},
            "reference",
            "a folder without this file",
        ),
        ({"dataset_dir": "{scans}", "case_name": "x"}, "case_name", "3"),
        ({"dataset_dir": "{scans}", "reference": "{scans}/Roe_Jane.nii"}, "reference", "3"),
        ({"image": "{scans}/Roe_Jane.nii", "case_name": "../x"}, "case_name", "str '../x'"),
        ({"image": "{scans}/Roe_Jane.nii", "case_name": ""}, "case_name", "str ''"),
    ],
)
def test_what_cannot_be_a_list_is_refused(
    scans: Path, tmp_path: Path, options: dict[str, str], where: str, got: str | None
) -> None:
    given = {name: value.format(scans=scans) for name, value in options.items()}
    with raises(InputError, where=where, got=got) as caught:
        list_cases(**given, output_dir=str(tmp_path / "out"))
    assert "Roe" not in str(caught.value)
    assert not (tmp_path / "out").exists()
