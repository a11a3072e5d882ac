# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Scans in the folders of a folder, for the message that names one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

#: How deep is looked, as archives lay patient, study and series, and at how many folders and files of each.
_DEPTH, _FOLDERS, _FILES = 3, 100, 5
#: Shorter names are not taken out of a message again, see ``hide_names``.
_SHORTEST = 4


def folders_with(folder: Path, recognises: Callable[[Path], bool]) -> list[Path]:
    """Return the folders below a folder of whose first files one is recognised, by name; links are not followed.

    Args:
        folder: the folder.
        recognises: says whether a file is one.
    """
    found: list[Path] = []
    for count, (place, folders, files) in enumerate(os.walk(folder)):
        here = Path(place)
        depth = len(here.relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < _DEPTH else []
        if count and any(recognises(here / name) for name in sorted(files)[:_FILES]):
            found.append(here)
        if count >= _FOLDERS:
            break
    return found


def name_one(folder: Path, found: list[Path]) -> str:
    """Return how to mend it; a name may be a patient's, and messages about a case go without those in its folder."""
    first, *further = found[0].relative_to(folder).parts
    if len(first) < _SHORTEST or not first.isprintable():
        return "name one of the folders that hold a scan themselves"
    return f"name the folder that holds a scan itself, {'below' if further else 'such as'} '{first}'"
