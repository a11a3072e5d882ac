# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.cases import case_key, list_cases


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


def test_one_image_wins_and_may_have_a_name_and_a_reference(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(scans.parent))
    cases = list_cases(
        image="~/scans/Roe_Jane.nii", dataset_dir=str(scans), reference="~/scans/Doe_John.nii.gz", case_name="run-1"
    )
    expected = {"image": str(scans / "Roe_Jane.nii"), "case": "run-1", "reference": str(scans / "Doe_John.nii.gz")}
    assert cases == [expected]


def test_a_number_is_a_name(scans: Path) -> None:
    assert list_cases(image=str(scans / "Roe_Jane.nii"), case_name=7)[0]["case"] == "7"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "image, dataset_dir: nothing to reconstruct; .* got neither"),
        ({"dataset_dir": "{scans}/none"}, "nothing to reconstruct"),
        ({"image": "{scans}/none.nii"}, "image: no such file; got none.nii"),
        ({"image": "{scans}/Roe_Jane.nii", "reference": "{scans}/none.nii"}, "reference: no such file"),
        ({"dataset_dir": "{scans}", "case_name": "x"}, "case_name: one name for several cases"),
        ({"dataset_dir": "{scans}", "reference": "{scans}/Roe_Jane.nii"}, "reference: one reference for several"),
        ({"image": "{scans}/Roe_Jane.nii", "case_name": "../x"}, "case_name: not a name of files"),
        ({"image": "{scans}/Roe_Jane.nii", "case_name": ""}, "case_name: not a name of files"),
    ],
)
def test_what_cannot_be_a_list_is_refused(scans: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    given = {name: value.format(scans=scans) for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        list_cases(**given, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
