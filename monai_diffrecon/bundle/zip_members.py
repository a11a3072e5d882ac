# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the members of a zip archive before anything reads or unpacks them."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZipFile, ZipInfo

from monai_diffrecon.errors import InputError, IntegrityError, ResourceError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ZipLimits:
    """How large an archive may become.

    Attributes:
        members: number of members.
        total: bytes of all members, unpacked.
        ratio: unpacked size of a member relative to its packed size, for members above ``small``.
        small: bytes below which a ratio does not matter.
    """

    members: int = 100_000
    total: int = 64 << 30
    ratio: float = 200.0
    small: int = 1 << 20


def check_members(archive: ZipFile, size: int, where: str, limits: ZipLimits | None = None) -> None:
    """Refuse an archive that would write elsewhere or expand beyond its declared size; only its directory is read.

    Args:
        archive: the open archive.
        size: bytes of its file.
        where: what it is, for messages.
        limits: how large it may become.

    Raises:
        IntegrityError: a member that does not belong in a data archive.
    """
    limits = limits or ZipLimits()
    infos = archive.infolist()
    seen: dict[str, bool] = {}
    for info in infos:
        if fault := _fault(info, limits):
            raise _refused(fault, info.orig_filename, where)
        key = unicodedata.normalize("NFC", info.filename).casefold().rstrip("/")
        if key in seen:
            raise _refused("is there twice", info.filename, where)
        seen[key] = info.is_dir()
    for key in seen:
        if parent := next((str(p) for p in PurePosixPath(key).parents if seen.get(str(p)) is False), None):
            raise _refused("is a file and a folder", parent, where)
    total, packed = sum(i.file_size for i in infos), sum(i.compress_size for i in infos)
    if len(infos) > limits.members or total > limits.total:
        raise IntegrityError(
            "the unpacked archive would be too large",
            where=where,
            expected=f"at most {limits.members} members and {limits.total >> 30} GiB",
            got=f"{len(infos)} members and {total / 2**30:.1f} GiB",
            mend="do not unpack it",
        )
    if packed > size:  # members that share their bytes: a bomb whose members look innocent one by one
        raise IntegrityError("members overlap", where=where, mend="do not unpack it")


def check_file(file: IO[bytes], where: str) -> None:
    """Check the members of an open file if it is a zip archive, and go back to its start.

    Raises:
        IntegrityError: as :func:`check_members`.
        BadZipFile: it starts like an archive but is not one; other readers might read unchecked content.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) == b"PK\x03\x04":
        with ZipFile(file) as archive:
            check_members(archive, size, where)
    file.seek(0)


def extract_checked(path: str | Path, target: str | Path, limits: ZipLimits | None = None) -> Path:
    """Unpack a checked archive into a new folder, completely or not at all.

    An archive with a single folder at its top is unpacked without that folder.

    Args:
        path: the archive.
        target: the folder, which must not exist; its parent must.
        limits: how large it may become.

    Returns:
        The folder.

    Raises:
        InputError: no such archive, or the folder is there already or cannot be written.
        IntegrityError: as :func:`check_members`, or a damaged member.
        ResourceError: the disk is full.
    """
    path, target = Path(path), Path(target)
    where = f"archive {path.name}"
    if target.exists() or target.is_symlink():
        raise InputError("already there", where=f"folder {target.name}", mend="choose a new folder")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with path.open("rb") as file:
            temporary.mkdir()
            _extract(file, temporary, where, limits)
        inner = list(temporary.iterdir())
        whole = inner[0] if len(inner) == 1 and inner[0].is_dir() else temporary
        os.rename(whole, target)
    except FileNotFoundError:
        raise InputError("no such file, or the folder cannot be written", where=where) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError("the disk is full", where=where, mend="free some space") from error
        raise InputError("cannot be unpacked", where=where, got=error.strerror, mend="name another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _extract(file: IO[bytes], folder: Path, where: str, limits: ZipLimits | None) -> None:
    size = file.seek(0, os.SEEK_END)
    try:
        with ZipFile(file) as archive:
            check_members(archive, size, where, limits)
            for info in archive.infolist():
                place = folder.joinpath(*PurePosixPath(info.filename).parts)
                if info.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, place.open("xb") as out:
                    _copy(source, out, info, where)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise IntegrityError(
            "damaged, or not a zip archive",
            where=where,
            got=str(error)[:120],
            mend="download it again and compare its hash",
        ) from None


def _copy(source: IO[bytes], out: IO[bytes], info: ZipInfo, where: str) -> None:
    """Copy a member; its CRC is checked at the end."""
    left = info.file_size
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise _refused("is larger than the archive says", info.filename, where)
        out.write(block)


def _fault(info: ZipInfo, limits: ZipLimits) -> str | None:
    """Return what is wrong with a member, or None."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or ".." in parts:
        return "would be written outside its folder"
    if "\\" in name or ":" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "has an unsafe name"
    if any(part in ("", ".") or part.endswith((".", " ")) for part in parts):
        return "has an unsafe name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "uses an unsupported compression"
    if info.file_size > limits.small and info.file_size > limits.ratio * max(info.compress_size, 1):
        return f"expands to more than {limits.ratio:g} times its size"
    return None


def _refused(fault: str, member: str, where: str) -> IntegrityError:
    shown = member.encode("unicode_escape").decode()[:80]
    return IntegrityError(f"member {shown!r} {fault}", where=where, mend="do not unpack it; ask its author")
