# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The check of a path that a user gives."""

from __future__ import annotations

import os
from pathlib import Path

from monai_diffrecon.errors import InputError


def path_option(value: object, where: str) -> Path:
    """Return a path that the operating system can look for, ``~`` replaced by the home folder.

    No message repeats it: it may name a patient.

    Args:
        value: what the user gave.
        where: the config id for messages.

    Raises:
        InputError: no text, an empty one, or no path that can exist or be looked at.
    """
    if not isinstance(value, str | Path):
        raise _no_path(where, f"a value of the type {type(value).__name__}")
    if not str(value).strip():
        raise _no_path(where, "an empty text")
    if "\0" in str(value):
        raise _no_path(where, "a text with a null character")
    try:
        path = Path(value).expanduser()
        os.fsencode(path)  # half a character, which JSON can hold
        path.exists()
    except RuntimeError:
        raise _no_path(where, "a ~ of which no home folder is known") from None
    except OSError as error:
        raise _no_path(where, f"one of which the system says: {error.strerror}") from None
    except UnicodeError:
        raise _no_path(where, "a text that is no name of a file") from None
    return path


def _no_path(where: str, got: str) -> InputError:
    return InputError("not a path", where=where, expected="the path of a file or folder", got=got)
