# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""JSON files as dataclasses: what is refused, where, and that no message repeats a path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.file_validation import Number, Text, checked, keys_of, read_json, validated


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, Field(strict=True, ge=1)]
    part: Annotated[Number, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class Outer:
    name: Text
    inner: tuple[Annotated[Inner, checked(keys_of(Inner))], ...] = ()
    on: Annotated[bool, checked(check_flag)] = False


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', ConfigError, "f.json#c"),
        ("[" * 5000 + "]" * 5000, InputError, "f.json"),
        ('{"a":' * 101 + "1" + "}" * 101, InputError, "f.json"),
        ("1" * 5000, InputError, "f.json"),
        ("{", InputError, "f.json"),
        ("", InputError, "f.json"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, kind: type[Exception], where: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(kind) as caught:
        read_json(tmp_path / "f.json", "f.json")
    assert caught.value.where == where  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'"\xe4"')
    for name in ("latin.json", "none.json", "."):
        with pytest.raises(InputError):
            read_json(tmp_path / name, "f.json")
    (tmp_path / "deep.json").write_text("[" * 100 + "]" * 100)
    assert read_json(tmp_path / "deep.json", "f.json")


def test_what_fits_is_a_dataclass() -> None:
    value = {"name": " a ", "inner": [{"size": 3, "part": 1}], "on": "true"}
    assert validated(Outer, value, "f.json") == Outer("a", (Inner(3, 1.0),), True)


@pytest.mark.parametrize(
    ("change", "where", "got"),
    [
        ({"name": " "}, "f.json#name", "' '"),
        ({"name": 3}, "f.json#name", "3"),
        ({"name": "\ud800"}, "f.json#name", "'\\ud800'"),
        ({"inner": "scans/Doe_John.nii"}, "f.json#inner", "str"),
        ({"inner": ["scans/Doe_John.nii"]}, "f.json#inner#0", "str"),
        ({"inner": [{"size": ["scans/Doe_John.nii"]}]}, "f.json#inner#0#size", "list"),
        ({"inner": [{"size": "scans/Doe_John.nii"}]}, "f.json#inner#0#size", "str"),
        ({"inner": [{"size": 0}]}, "f.json#inner#0#size", "0"),
        ({"inner": [{"size": 2.0}]}, "f.json#inner#0#size", "2.0"),
        ({"inner": [{"size": True}]}, "f.json#inner#0#size", "True"),
        ({"inner": [{"part": 0.5}]}, "f.json#inner#0#size", None),
        ({"inner": [{"size": 1, "part": float("nan")}]}, "f.json#inner#0#part", "nan"),
        ({"inner": [{"size": 1, "part": True}]}, "f.json#inner#0#part", "True"),
        ({"inner": [{"size": 1, "part": "0.5"}]}, "f.json#inner#0#part", "str"),
        ({"on": 2}, "f.json#on", "2"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(change: dict[str, Any], where: str, got: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"name": "a", **change}, "f.json")
    assert (caught.value.where, caught.value.got) == (where, got)
    assert "Doe" not in str(caught.value)
    with pytest.raises((IntegrityError, ConfigError)):
        validated(Outer, {"name": "a", **change}, "f.json", IntegrityError)


def test_huge_values_are_shown_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"name": "a", "inner": [{"size": 1, "part": 10**4000}]}, "f.json")
    assert caught.value.where == "f.json#inner#0#part"
    assert len(str(caught.value)) < 600


def test_an_unknown_key_comes_before_what_is_missing_and_has_a_near_name() -> None:
    with pytest.raises(ConfigError) as caught:
        keys_of(Inner)(json.loads('{"sise": 3}'), "f.json")
    assert (caught.value.where, caught.value.expected) == ("f.json#sise", "size, part")
    assert caught.value.mend == "did you mean 'size'?"
    with pytest.raises(ConfigError) as caught:
        keys_of(Inner)([], "f.json")
    assert (caught.value.where, caught.value.got) == ("f.json", "list")
