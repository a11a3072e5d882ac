# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Members of archives: what is refused before anything is unpacked, and that unpacking is all or nothing."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest

from monai_diffrecon.bundle.zip_members import ZipLimits, extract_checked
from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError

from ..raising import raises


def archive(path: Path, *members: str | ZipInfo, data: bytes = b"x") -> Path:
    with ZipFile(path, "w") as file:
        for member in members:
            file.writestr(member, data)
    return path


def special(name: str, mode: int) -> ZipInfo:
    info = ZipInfo(name)
    info.external_attr = mode << 16
    return info


def flagged(path: Path) -> Path:
    """Set the bit of encryption in both headers."""
    data = bytearray(archive(path, "a").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def refuse(path: Path, target: Path, says: str, limits: ZipLimits | None = None) -> DiffReconError:
    before = set(path.parent.iterdir())
    with raises(IntegrityError, where=f"archive {path.name}") as caught:
        extract_checked(path, target, limits)
    assert set(path.parent.iterdir()) == before
    assert says in caught.value.what
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("member", "says"),
    [
        *((name, "outside its folder") for name in ("../evil", "a/../../evil", "/etc/evil", "a/..")),
        *(
            (name, "unsafe")
            for name in ("C:/evil", "a\\..\\evil", "a//b", "./a", "a/./b", "a.", "a /b", "a\x1b", "a:b")
        ),
        (special("link", stat.S_IFLNK | 0o777), "link or a device"),
        (special("pipe", stat.S_IFIFO | 0o777), "link or a device"),
    ],
    ids=lambda value: None if isinstance(value, ZipInfo) else repr(value),
)
def test_members_that_do_not_belong(tmp_path: Path, member: str | ZipInfo, says: str) -> None:
    refuse(archive(tmp_path / "b.zip", "configs/metadata.json", member), tmp_path / "new", says)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "A"), ("\u00e9", "e\u0301"), ("a/", "A")], ids=repr)
def test_a_name_is_there_once(tmp_path: Path, names: tuple[str, ...]) -> None:
    refuse(archive(tmp_path / "b.zip", *names), tmp_path / "new", "is there twice")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    refuse(archive(tmp_path / "b.zip", "a/b/c", "a"), tmp_path / "new", "'a' is a file and a folder")


def test_an_encrypted_member(tmp_path: Path) -> None:
    refuse(flagged(tmp_path / "b.zip"), tmp_path / "new", "is encrypted")


def test_bombs(tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.zip"
    with ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(2 << 20))
    refuse(zeros, tmp_path / "new", "expands to more than 200 times its size")
    many = archive(tmp_path / "many.zip", *map(str, range(20)))
    refuse(many, tmp_path / "new", "would be too large", ZipLimits(members=19))
    refuse(many, tmp_path / "new", "would be too large", ZipLimits(total=19))
    extract_checked(many, tmp_path / "new", ZipLimits(members=20, total=20))


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    """Two entries of the directory that point at the same data."""
    path = archive(tmp_path / "b.zip", "aaaa", data=bytes(range(256)) * 40)
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry, tail = data[start:end], bytearray(data[end:])
    entries = entry + entry.replace(b"aaaa", b"bbbb")
    tail[8:12] = (2).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    path.write_bytes(data[:start] + entries + bytes(tail))
    refuse(path, tmp_path / "new", "overlap")


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[: len(d) // 2],
        lambda d: d.replace(b"payload", b"paYload"),
        lambda d: b"no archive at all",
        lambda d: b"",
    ],
    ids=["truncated", "CRC", "text", "empty"],
)
def test_damaged_archives(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = archive(tmp_path / "b.zip", "first", "second", data=b"payload")
    path.write_bytes(damage(path.read_bytes()))
    assert refuse(path, tmp_path / "new", "damaged, or not a zip archive").exit_code == 4


def test_a_sound_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "b.zip", "top/a", "top/b/c", special("top/d/", stat.S_IFDIR | 0o755))
    new = extract_checked(path, tmp_path / "new")
    assert sorted(str(p.relative_to(new)) for p in new.rglob("*")) == ["a", "b", "b/c", "d"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.zip", "new"]
    with raises(InputError, where="archive b.zip"):
        extract_checked(path, tmp_path / "none" / "new")
