# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Errors and logs about a case's files, without the files' names."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError, PluginError
from monai_diffrecon.privacy.file_names import anonymously, hide_names, logs_through, without_names

from ..raising import raises

PATH = Path("/home/jdoe/study/Roe_Jane/Doe John.1970.nii.gz")


@pytest.mark.parametrize(
    "text",
    [
        str(PATH),
        PATH.name,
        PATH.name.upper(),
        "Doe John.1970.nii",
        "Doe John.1970",
        "Doe  John",
        quote(str(PATH)),
        quote(PATH.name),
        "Roe_Jane",
        "jdoe",
    ],
)
def test_every_form_of_a_name_is_hidden(text: str) -> None:
    assert hide_names(f"cannot read '{text}': broken", [PATH], "case-1") == "cannot read 'case-1': broken"


@pytest.mark.parametrize("name", ["scan.nii.gz", "a.nii", "image.h5", "T.nii"])
def test_ordinary_words_stay(name: str, tmp_path: Path) -> None:
    text = "image: a scan of T tesla; the data of this study were changed"
    assert hide_names(text, [tmp_path / name], "case-1") == text
    assert hide_names(f"{name}: {text}", [tmp_path / name], "case-1") == f"case-1: {text}"


def test_a_name_that_was_cut_is_hidden() -> None:
    assert hide_names("no file '/x/Doe Jo", [PATH], "case-1") == "no file '/x/case-1"


def test_the_files_of_a_folder_are_numbered(tmp_path: Path) -> None:
    folder = tmp_path / "Roe_series"
    folder.mkdir()
    for name in ("Doe_2.dcm", "Doe_1.dcm", "Doe_3.dcm"):
        (folder / name).touch()
    error = without_names(InputError("truncated", where="Doe_2.dcm, frame 3", got="Doe_1"), folder, "image", "c-1")
    assert str(error) == "case c-1: image, c-1 file 2, frame 3: truncated; got c-1 file 1"
    assert str(without_names(InputError("x", where="Roe_series"), folder, "image")) == "image: x"


class _OwnError(DiffReconError):
    """As a plugin may derive one."""

    exit_code = 5

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is bad", where=f"{path.name}#data", expected=path, got=path.stem, mend=str(path))


def test_an_error_keeps_its_kind_and_its_place() -> None:
    def fail() -> None:
        raise _OwnError(PATH)

    with raises(_OwnError, where="case c-1: image#data", got="c-1", expected="c-1") as caught:
        anonymously(fail, PATH, "image", "c-1")
    assert caught.value.exit_code == 5
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    with raises(IntegrityError, where="case c-1: image, reader"):
        anonymously(lambda: _raise(IntegrityError("x", where="reader")), PATH, "image", "c-1")


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "got"),
    [
        (PermissionError(13, "Denied", str(PATH)), InputError, "Denied"),
        (KeyError("Doe John"), PluginError, r"KeyError at .*test_anonymous.py:\d+"),
        (ValueError("PatientName=Mustermann"), PluginError, "ValueError at .*"),
    ],
)
def test_a_failing_reader_tells_its_place_and_not_its_text(
    error: Exception, kind: type[DiffReconError], got: str
) -> None:
    with raises(kind, where="case c-1: image") as caught:
        anonymously(lambda: _raise(error), PATH, "image", "c-1")
    assert re.fullmatch(got, caught.value.got)
    assert not [word for word in ("Doe", "Roe", "jdoe", "Muster") if word in str(caught.value)]
    # Or a traceback would print them.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_file_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        anonymously(lambda: _raise(error), PATH, "image")
    assert caught.value is error


def test_log_records_name_the_case(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> int:
        logging.getLogger("someone.elses").warning("%s: odd header (%d)", PATH.name, 3)
        other = Thread(target=lambda: logging.getLogger("other").warning("%s", "Roe_Jane of another thread"))
        other.start()
        other.join()
        return 5

    assert anonymously(read, PATH, "image", "c-1") == 5
    logging.getLogger("later").warning("%s", PATH.name)
    assert caplog.messages == ["c-1: odd header (3)", "Roe_Jane of another thread", PATH.name]


def test_the_factory_of_records_is_wrapped_once() -> None:
    with logs_through(str.upper):
        first = logging.getLogRecordFactory()
    with logs_through(str.upper):
        assert logging.getLogRecordFactory() is first
