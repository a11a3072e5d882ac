# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from monai_diffrecon.errors import InputError, ResourceError
from monai_diffrecon.io.atomic import atomic_write, told, write_json


def test_replaces_in_one_step_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "volume.nii.gz"
    target.write_text("old")
    seen = []

    def write(path: Path) -> None:
        seen.append(path)
        path.write_text("new")
        assert target.read_text() == "old"

    atomic_write(target, write)
    assert target.read_text() == "new"
    assert seen[0].parent == tmp_path
    assert seen[0].name.endswith(".nii.gz")
    assert os.listdir(tmp_path) == ["volume.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.bin"
    target.write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(target, write)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, ResourceError), (errno.EACCES, InputError), (errno.EROFS, InputError), (errno.EIO, OSError)],
)
def test_system_errors_are_told_apart(tmp_path: Path, code: int, expected: type[Exception]) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(expected):
        atomic_write(tmp_path / "a.bin", write)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError) as caught:
            write_json(tmp_path / "a.json", {})
        assert caught.value.where == "a.json"
    finally:
        tmp_path.chmod(0o700)


def test_missing_folder_and_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(InputError) as caught:
            write_json(tmp_path / folder / "a.json", {})
        assert (caught.value.where, caught.value.expected) == ("a.json", "an existing folder")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": "é", "b": [1, None]}
    for bad in (float("nan"), object()):
        with pytest.raises(InputError) as caught:
            write_json(tmp_path / "b.json", {"x": bad})
        assert caught.value.where == "b.json"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_that_another_error_hides() -> None:
    error = OSError("With tag (7FE0,0010)")  # as pydicom raises it
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(told(error, "scan"), ResourceError)
