# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Messages about a case's files without their names, which may identify a patient."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from monai_diffrecon.errors import DiffReconError, InputError, PluginError

T = TypeVar("T")

#: Common words of messages and folders: alone they identify nobody, and messages need them.
_ORDINARY = frozenset(
    {"anat", "axial", "brain", "case", "cases", "coronal", "data", "dataset", "dicom", "documents", "downloads"}
    | {"empty", "file", "files", "folder", "head", "home", "image", "images", "input", "label", "labels", "mask"}
    | {"masks", "measurement", "media", "mnt", "mri", "nifti", "output", "private", "raw", "reference", "root"}
    | {"scan", "scans", "series", "slice", "slices", "study", "tests", "tmp", "train", "users", "var", "volume"}
    | {"volumes", "work"}
)
_SHORTEST = 3  # letters of a word that may be a name: a file may be called a.nii.gz
_CUT = 4  # letters of a name at the end of a text that was cut


def hide_names(text: str, paths: Iterable[Path], alias: str) -> str:
    """Return a text with every name of files put as an alias.

    Whole paths, names, names without suffixes and names of the folders above count, in any case and percent-encoded
    as well; of a folder's files each becomes ``<alias> file 12``, by its place among their sorted names.

    Args:
        text: the text.
        paths: the files or folders.
        alias: what they are called instead.
    """
    for path in paths:
        for name in _names(path):
            text = _replaced(text, name, alias)
        inside = _inside(path)
        for number, name in enumerate(inside, 1):
            for part in filter(_telling, (name, name.partition(".")[0])):
                if not (part.isdecimal() and int(part) <= len(inside)):  # 100 of 100 identifies nobody
                    text = _replaced(text, part, f"{alias} file {number}")
        for n in range(len(path.name), _CUT - 1, -1):
            if text.endswith(path.name[:n]) and path.name[:n].lower() not in _ORDINARY:
                text = text[:-n] + alias
                break
    return text


def without_names(error: DiffReconError, path: Path, what: str, case: str | None = None) -> DiffReconError:
    """Return an error about a file as one about the case.

    Args:
        error: the error.
        path: the file, or a folder.
        what: what it is to the case: ``image``, ``reference``.
        case: name of the case; None when it has none.

    Returns:
        An error of the same kind, without cause or context, and with the same traceback; ``where`` is
        ``case <case>: <what>``, and what it was besides the file's name.
    """
    where, alias = (what, what) if case is None else (f"case {case}: {what}", case)

    def clean(value: object | None) -> str | None:
        return None if value is None else hide_names(str(value), [path], alias)

    said = error.where or ""
    rest = said.removeprefix(path.name) if said.startswith(path.name) else f", {said}" if said else ""
    rest = "" if rest == f", {what}" else rest
    first, comma, tail = said.partition(",")
    if first in (inside := _inside(path)):  # a name as short as 7 is replaced nowhere else
        rest = f", {alias} file {inside.index(first) + 1}{comma}{tail}"
    new = type(error).__new__(type(error))
    DiffReconError.__init__(
        new,
        clean(error.what) or "",
        where=where + (clean(rest) or ""),
        expected=clean(error.expected),
        got=clean(error.got),
        mend=clean(error.mend),
    )
    return new.with_traceback(error.__traceback__)


def anonymously(call: Callable[[], T], path: Path, what: str, case: str | None = None) -> T:
    """Return what a call that reads a file returns; what it raises and logs names the case instead of the file.

    Args:
        call: reads the file.
        path: the file, or a folder.
        what: what it is to the case: ``image``, ``reference``.
        case: name of the case; None when it has none.

    Raises:
        DiffReconError: what the call raises.
        InputError: the system cannot read the file.
        PluginError: any other exception, by its kind and place: its text may quote the file.
    """
    where = what if case is None else f"case {case}: {what}"
    found: DiffReconError
    try:
        with logs_through(lambda text: hide_names(text, [path], case or what)):
            return call()
    except MemoryError:
        raise
    except DiffReconError as error:
        found = without_names(error, path, what, case)
    except OSError as error:
        found = InputError("cannot be read", where=where, got=error.strerror or type(error).__name__)
    except Exception as error:
        found = PluginError(
            "the reader failed",
            where=where,
            got=f"{type(error).__name__} at {_place(error)}",
            mend="report it to the author of the reader, and convert the scan to NIfTI",
        )
    raise found  # here, where it gets no context: a traceback would print the name with it


def _names(path: Path) -> Iterator[str]:
    """Yield what may name a file in a text, the longest first."""
    whole = {str(path), str(path.absolute()), str(path.resolve())}
    yield from sorted(whole, key=len, reverse=True)
    parts = [path.name]
    while "." in parts[-1].lstrip("."):
        parts.append(parts[-1].rpartition(".")[0])
    yield from (part for part in parts if _telling(part) or (part == path.name and "." in part))
    above = {folder.name for one in (path.absolute(), path.resolve()) for folder in one.parents}
    yield from sorted(filter(_telling, above), key=len, reverse=True)


def _inside(path: Path) -> list[str]:
    """Return the sorted names of a folder's files; empty for anything else or an unreadable folder."""
    try:
        return sorted(inner.name for inner in path.iterdir())
    except OSError:
        return []


def _telling(word: str) -> bool:
    """Say whether a word alone may name someone."""
    return len(word) >= _SHORTEST and word.lower() not in _ORDINARY


def _replaced(text: str, name: str, alias: str) -> str:
    """Replace whole words; blanks may have been joined."""
    for form in {name, quote(name.encode("utf-8", "surrogateescape"))}:  # a name may be no text
        words = form.split()
        if not words or words[0].lower() not in text.lower():  # folders may hold thousands of names
            continue
        pattern = r"\s+".join(map(re.escape, words))
        text = re.sub(rf"(?<!\w){pattern}(?!\w)", lambda _: alias, text, flags=re.IGNORECASE)
    return text


def _place(error: BaseException) -> str:
    """Return the innermost line of an exception, without the folders above its package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{'/'.join(Path(trace.tb_frame.f_code.co_filename).parts[-2:])}:{trace.tb_lineno}"


_change: ContextVar[Callable[[str], str] | None] = ContextVar("change of log records", default=None)


@contextmanager
def logs_through(change: Callable[[str], str]) -> Iterator[None]:
    """Pass the text of what this thread logs within through a function, whichever logger it goes to.

    A filter would have to sit on every logger or every handler, and those of plugins are not known; Python's own
    place for it is the factory of records. It is wrapped once; other threads are not concerned.

    Args:
        change: gets the text of a record, returns another.
    """
    _install()
    token = _change.set(change)
    try:
        yield
    finally:
        _change.reset(token)


def _install() -> None:
    made = logging.getLogRecordFactory()
    if getattr(made, "changes_text", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        change = _change.get()
        if change is not None:
            record.msg, record.args = change(record.getMessage()), ()
        return record

    factory.changes_text = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
