# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Series of a DICOMweb archive are downloaded whole; skipped where MONAI Label is not installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

pytestmark = [
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


class Archive:
    """A client of an archive that has one series."""

    base_url = "http://archive"

    def __init__(self, folder: Path) -> None:
        self.images = [dcmread(path) for path in sorted(folder.iterdir())]
        self.uid = self.images[0].SeriesInstanceUID
        self.claimed = len(self.images)
        self.asked: list[dict[str, str]] = []

    def search_for_series(self, search_filters: dict[str, str]) -> list[dict[str, Any]]:
        self.asked.append(search_filters)
        if search_filters.get("SeriesInstanceUID", self.uid) != self.uid or search_filters.get("Modality") == "CT":
            return []
        found = {"0020000D": self.images[0].StudyInstanceUID, "0020000E": self.uid, "00201209": self.claimed}
        return [{tag: {"vr": "UI", "Value": [value]} for tag, value in found.items()}]

    def retrieve_series(self, study: str, series: str) -> list[Any]:
        return self.images


@pytest.fixture
def archive(studies: Path) -> Archive:
    return Archive(studies / "1.2.3")


@pytest.fixture
def datastore(archive: Archive, tmp_path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffrecon_label.pydicom_2  # noqa: F401
        from diffrecon_label.datastores import SeriesDatastore
    return SeriesDatastore(archive, [{"Modality": "CT"}, {"Modality": "MR"}], str(tmp_path))


def test_series_of_all_filters_are_listed(datastore: Any, archive: Archive) -> None:
    assert datastore.list_images() == [archive.uid]
    assert list(datastore.json()["objects"]) == [archive.uid]
    assert archive.asked[:2] == [{"Modality": "CT"}, {"Modality": "MR"}]
    assert datastore.status()["total"] == 1


def test_a_series_is_a_folder_of_its_files_and_downloaded_again_if_it_grew(datastore: Any, archive: Archive) -> None:
    last = archive.images.pop()
    archive.claimed -= 1
    folder = Path(datastore.get_image_uri(archive.uid))
    assert len(list(folder.iterdir())) == 3
    archive.images.append(last)
    archive.claimed += 1
    assert Path(datastore.get_image_uri(archive.uid)) == folder
    assert len(list(folder.iterdir())) == 4


def test_an_archive_that_sends_less_than_it_has_is_an_error(datastore: Any, archive: Archive) -> None:
    archive.images.pop()
    with pytest.raises(Exception, match="3 of 4") as caught:
        datastore.get_image_uri(archive.uid)
    assert caught.value.status_code == 502  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["1.2.3.4", "../../etc", ""])
def test_no_such_series_is_an_error(datastore: Any, name: str) -> None:
    with pytest.raises(Exception, match="no such series") as caught:
        datastore.get_image_uri(name)
    assert caught.value.status_code == 404  # type: ignore[attr-defined]
