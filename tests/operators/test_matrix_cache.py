# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The cache of matrices: what is read back, rebuilt, removed and left alone."""

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.operators import _matrix_cache as matrix_cache
from monai_diffrecon.operators._matrix_cache import cached_matrix

from ..raising import raises

MATRIX = csr_array(np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, -3.0]], dtype=np.float32))
MATRIX.indices, MATRIX.indptr = MATRIX.indices.astype(np.int32), MATRIX.indptr.astype(np.int32)


class Builder:
    """Counts how often the matrix is built."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> csr_array:
        self.calls += 1
        return MATRIX.copy()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFRECON_CACHE_GB", raising=False)
    monkeypatch.setattr(matrix_cache, "WORTH_SECONDS", 0.0)
    return tmp_path / "cache"


def same(got: csr_array) -> bool:
    parts = ((got.data, MATRIX.data), (got.indices, MATRIX.indices), (got.indptr, MATRIX.indptr))
    return got.shape == MATRIX.shape and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in parts)


def test_round_trip(folder: Path) -> None:
    build = Builder()
    assert same(cached_matrix(("k", 1.0), build))
    assert same(cached_matrix(("k", 1.0), build))
    assert build.calls == 1
    (file,) = folder.iterdir()
    assert file.suffix == ".npz"
    assert len(file.stem) == 64
    cached_matrix(("k", np.nextafter(1.0, 2.0)), build)
    assert build.calls == 2


def test_a_quick_matrix_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_cache, "WORTH_SECONDS", 1.0)
    cached_matrix(("k",), Builder())
    assert not folder.exists()


def damaged(file: Path, kind: str) -> None:
    with np.load(file) as parts:
        content = dict(parts)
    whole = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(whole[:-200])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_bytes(b"not a matrix")
    elif kind == "flipped":
        at = whole.index(np.float32(1.5).tobytes())
        file.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    elif kind == "missing":
        del content["indptr"]
        np.savez(file, **content)
    elif kind == "pickle":
        content["data"] = np.array([object()], dtype=object)
        np.savez(file, **content, allow_pickle=True)
    else:
        name = {"index": "indices", "negative": "indices", "rows": "indptr", "double": "data"}[kind]
        change = {"index": np.int32(7), "negative": np.int32(-2), "rows": np.int32(1), "double": np.zeros(1)}[kind]
        content[name] = content[name] + change
        np.savez(file, **content)


@pytest.mark.parametrize(
    "kind",
    ["truncated", "empty", "text", "flipped", "missing", "pickle", "index", "negative", "rows", "double"],
)
def test_a_damaged_file_is_built_anew(folder: Path, kind: str) -> None:
    build = Builder()
    cached_matrix(("k",), build)
    (file,) = folder.iterdir()
    damaged(file, kind)
    assert same(cached_matrix(("k",), build))
    assert build.calls == 2
    cached_matrix(("k",), build)
    assert build.calls == 2


def test_processes_that_write_at_once_leave_one_whole_file(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: same(cached_matrix(("k",), Builder())), range(32)))
    assert len(list(folder.iterdir())) == 1
    build = Builder()
    assert same(cached_matrix(("k",), build))
    assert build.calls == 0


def test_off_and_places(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", "off")
    build = Builder()
    cached_matrix(("k",), build)
    cached_matrix(("k",), build)
    assert build.calls == 2
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("DIFFRECON_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        cached_matrix(("k",), build)
        assert len(list((tmp_path / "xdg" / "monai_diffrecon").iterdir())) == 1
        monkeypatch.delenv("XDG_CACHE_HOME")
        cached_matrix(("k",), build)
        assert len(list((tmp_path / "home" / ".cache" / "monai_diffrecon").iterdir())) == 1


@pytest.mark.parametrize("named", ["", "~/cache"])
def test_without_a_home_there_is_no_cache(
    named: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", named)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert same(cached_matrix(("k",), Builder()))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFRECON_CACHE_DIR", str(tmp_path / "file"))
    caplog.set_level(logging.INFO)
    assert same(cached_matrix(("k",), Builder()))
    assert "projector matrices are not cached on disk" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_the_folder_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used longest ago goes; other people's files stay; a matrix above the limit is not written."""
    cached_matrix((0,), Builder())
    (first,) = folder.iterdir()
    size = first.stat().st_size
    monkeypatch.setenv("DIFFRECON_CACHE_GB", str(2.5 * size / 1e9))
    (folder / "notes.npz").write_bytes(b"x" * 10 * size)
    (folder / "left.tmp").write_bytes(b"x")
    os.utime(folder / "left.tmp", (0, 0))
    cached_matrix((1,), Builder())
    (second,) = (p for p in folder.iterdir() if len(p.stem) == 64 and p != first)
    os.utime(first, (1000, 1000))
    os.utime(second, (2000, 2000))
    build = Builder()
    cached_matrix((0,), build)  # reading counts as use
    assert build.calls == 0
    cached_matrix((2,), Builder())
    assert first.exists()
    assert not second.exists()
    assert (folder / "notes.npz").exists()
    assert not (folder / "left.tmp").exists()
    monkeypatch.setenv("DIFFRECON_CACHE_GB", "0")
    before = sorted(folder.iterdir())
    cached_matrix((3,), Builder())
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("text", ["two", "-1", "nan"])
def test_a_limit_that_is_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DIFFRECON_CACHE_GB", text)
    with raises(ConfigError, where="DIFFRECON_CACHE_GB", expected="a number from 0 (GB)"):
        cached_matrix(("k",), Builder())


def test_nothing_half_written_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **parts: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix_cache, "save_npz", full)
    assert same(cached_matrix(("k",), Builder()))
    assert not list(folder.iterdir())
