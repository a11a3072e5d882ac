# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The files of the one series that the operator of the SDK selected."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_diffrecon.errors import InputError


class SelectedSeries(NamedTuple):
    """A series on the disk.

    Attributes:
        folder: folder of its files; it may hold other series as well.
        uid: its SeriesInstanceUID.
        first: one of its files.
    """

    folder: Path
    uid: str
    first: Path

    @property
    def case(self) -> str:
        """Name of its case: a hash without a key, by which who knows the UID recognizes it."""
        return f"series-{hashlib.sha256(self.uid.encode()).hexdigest()[:16]}"


def selected_series(selection: Sequence[Any]) -> SelectedSeries:
    """Return the series that was selected.

    The SDK has read the files, and keeps one slice at each position; only where they lie is taken from it.

    Args:
        selection: what ``DICOMSeriesSelectorOperator`` emits, a ``StudySelectedSeries`` a study.

    Raises:
        InputError: none, several, or one that is scattered over folders.
    """
    found = {str(s.series.SeriesInstanceUID): s.series for study in selection for s in study.selected_series}
    if len(found) != 1:
        raise InputError(
            "several series match the rules" if found else "no series matches the rules",
            where="input",
            expected="one series",
            got=len(found),
            mend="give a folder with the one series, or change the rules",
        )
    ((uid, series),) = found.items()
    files = sorted(Path(instance.get_native_sop_instance().filename) for instance in series.get_sop_instances())
    folders = {file.parent for file in files}
    if len(folders) != 1:
        raise InputError(
            "one series in several folders",
            where="input",
            expected="one folder",
            got=len(folders),
            mend="put its files into one folder",
        )
    return SelectedSeries(files[0].parent, uid, files[0])
