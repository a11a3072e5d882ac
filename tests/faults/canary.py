# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Looking for words in every byte of files, whatever they are packed in and however they are encoded."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import h5py
import numpy as np
import pydicom

_DEPTH = 4  # containers in containers
_RUNS = re.compile(rb"(([^\w])\2{15})\2+", re.DOTALL)  # of equal bytes, in pictures: no word has one
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-]{24,}={0,2}")


def canaries_in(roots: Iterable[Path], words: Iterable[str]) -> list[str]:
    """Return where words are found: ``file > container: word``, also for the names of files and folders.

    Args:
        roots: files and folders.
        words: what to look for; upper and lower case do not matter.
    """
    patterns, found = _patterns(words), []
    for root in roots:
        assert root.exists(), f"nothing to look at: {root.name}"
        paths = [root] if root.is_file() else sorted(root.rglob("*"))
        for path in paths:
            name = path.name if root.is_file() else str(path.relative_to(root))
            found += [f"name of {name}: {word}" for word in _words_in(name.encode(), patterns)]
            if path.is_file():
                found += [f"{name}{place}: {word}" for place, word in _search(path.read_bytes(), patterns)]
    return found


def canaries_in_text(text: str, words: Iterable[str]) -> list[str]:
    """Return which words a text holds, and the line of each."""
    patterns = _patterns(words)
    return [f"{word} in {line}" for line in text.splitlines() for word in _words_in(line.encode(), patterns)]


Patterns = tuple[dict[bytes, str], dict[bytes, str]]


def _patterns(words: Iterable[str]) -> Patterns:
    """Return every encoding of every word: those in lower case, and base64, which knows case."""
    plain: dict[bytes, str] = {}
    exact: dict[bytes, str] = {}
    for word in words:
        # Without the outer zeros both orders of UTF-16 look the same, but for letters beyond Latin.
        encoded = [word.encode(code).strip(b"\0") for code in ("utf-8", "utf-16-le", "utf-16-be")]
        encoded += [word.encode("latin-1", "ignore"), quote(word).encode(), json.dumps(word)[1:-1].encode()]
        plain |= {form.lower(): word for form in encoded}
        for shift in range(3):
            # What is sure of a word inside of a longer text: the first and the last digits hang on their neighbours.
            whole = base64.b64encode(b"\0" * shift + word.encode())
            exact[whole[(0, 2, 3)[shift] : len(whole) - 4]] = word
    return plain, exact


def _words_in(data: bytes, patterns: Patterns) -> set[str]:
    data = _RUNS.sub(rb"\1", data)
    lower = data.lower()
    found = {word for form, word in patterns[0].items() if form in lower}
    return found | {word for form, word in patterns[1].items() if form in data}


def _search(data: bytes, patterns: Patterns) -> Iterator[tuple[str, str]]:
    for place, part in _unpacked(data, _DEPTH, set()):
        for word in _words_in(part, patterns):
            yield place, word


def _unpacked(data: bytes, depth: int, seen: set[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield bytes as they are and whatever is packed in them, with the way to it; nothing twice."""
    digest = hashlib.sha256(data).digest()
    if digest in seen:
        return
    seen.add(digest)
    yield "", data
    if depth == 0:
        return
    for kind, part in _inside(data):
        for place, bytes_ in _unpacked(part, depth - 1, seen):
            yield f" > {kind}{place}", bytes_


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a container."""
    if data[:2] == b"\x1f\x8b":
        yield from _gzip(data)
    elif zipfile.is_zipfile(io.BytesIO(data)) and data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                yield f"zip name {info.filename}", info.filename.encode() + info.comment + info.extra
                yield f"zip {info.filename}", archive.read(info)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png(data)
    elif data[:16] == b"SQLite format 3\0":
        yield "sqlite", _sqlite(data)
    elif data[128:132] == b"DICM":
        yield from _dicom(data)
    elif data[:8] == b"\x89HDF\r\n\x1a\n":
        yield from _hdf5(data)
    else:
        yield from _text(data)


def _gzip(data: bytes) -> Iterator[tuple[str, bytes]]:
    flags = data[3]
    if flags & ~1:
        yield "gzip header", data[:1024]
    stream = zlib.decompressobj(31)
    try:
        yield "gzip", stream.decompress(data) + stream.flush()
    except zlib.error:
        return
    if stream.unused_data:
        yield "after gzip", stream.unused_data


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    at, pixels = 8, b""
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body, at = data[at + 8 : at + 8 + length], at + 12 + length
        if kind == b"IDAT":
            pixels += body
            continue
        yield f"png {kind.decode('latin-1')}", body
        for start in range(len(body)):  # zTXt, iTXt and iCCP: a zlib stream behind some fields
            if body[start : start + 1] == b"\x78":
                try:
                    yield f"png {kind.decode('latin-1')} zlib", zlib.decompress(body[start:])
                except zlib.error:
                    continue
    yield "png pixels", zlib.decompress(pixels) if pixels else b""
    yield "after png", data[at:]


def _sqlite(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.db"
        path.write_bytes(data)
        database = sqlite3.connect(path)
        try:
            return "\n".join(database.iterdump()).encode()
        finally:
            database.close()


def _dicom(data: bytes) -> Iterator[tuple[str, bytes]]:
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    for element in [*dataset.file_meta, *dataset.iterall()]:
        value: Any = element.value
        if element.VR == "SQ":
            continue
        body = bytes(value) if isinstance(value, bytes) else str(value).encode()
        yield f"dicom {element.tag}", body
        if isinstance(value, bytes) and len(value) > 64:
            continue
        yield f"dicom {element.tag} name", f"{element.keyword} {element.name}".encode()


def _hdf5(data: bytes) -> Iterator[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    def body(value: Any) -> bytes:
        if isinstance(value, bytes | str):
            return value if isinstance(value, bytes) else value.encode()
        array = np.asarray(value)
        return b"\n".join(map(body, array.ravel().tolist())) if array.dtype.kind in "OSU" else array.tobytes()

    def visit(name: str, item: Any) -> None:
        found.append((f"hdf5 {name}", name.encode()))
        for key, value in item.attrs.items():
            found.append((f"hdf5 {name}@{key}", key.encode() + b"=" + body(value)))
        if isinstance(item, h5py.Dataset):
            found.append((f"hdf5 {name} data", body(item[()])))

    with h5py.File(io.BytesIO(data), "r") as file:
        visit("/", file)
        file.visititems(visit)
    yield from found


def _text(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what a text says once its escapes are undone; data URIs of HTML are base64."""
    if b"\0" in data[:4096]:
        return
    if data.lstrip()[:1] in (b"{", b"["):
        with suppress(ValueError):
            yield "json", "\n".join(_strings(json.loads(data))).encode()
    if b"%" in data:
        yield "percent", unquote_to_bytes(data)
    for piece in _BASE64.findall(data):
        if not re.fullmatch(rb"[0-9a-f]+", piece):
            whole = piece.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            yield "base64", base64.b64decode(whole[: len(whole) // 4 * 4])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    else:
        yield str(value)
