# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where scans come from: a folder, or a DICOMweb archive. DICOM is not converted by MONAI Label.

MONAI Label makes NIfTI of DICOM with ITK's series reader, which takes the first series of several, and spaces slices
evenly whether or not some are missing or the gantry is tilted. Here the files are left as they are, for the reader of
monai_diffrecon, which refuses what is no volume.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series

_NUMBER_OF_INSTANCES, _SERIES, _STUDY = "00201209", "0020000E", "0020000D"


class FolderDatastore(LocalDatastore):
    """A folder of NIfTI files, and of folders that hold one DICOM series each."""

    def _list_files(self, path: str, patterns: Any) -> dict[str, str]:
        files: dict[str, str] = super()._list_files(path, patterns)
        own = os.path.realpath(self._datastore.label_path(None))
        for inner in Path(path).iterdir():
            if inner.is_dir() and os.path.realpath(inner) != own and any(p.is_file() for p in inner.iterdir()):
                files[inner.name] = inner.name
        return files

    def _to_id(self, file: str) -> tuple[str, str]:
        # The name of a folder may be a UID, and has no extension.
        if os.path.isdir(os.path.join(self._datastore.image_path(), file)):
            return file, ""
        found: tuple[str, str] = super()._to_id(file)
        return found


class SeriesDatastore(DICOMWebDatastore):
    """The CT and MR series of an archive, as files.

    Args:
        client: the client of the archive.
        filters: what is searched for; series that match one of them are listed.
        cache_path: where downloads are kept; None takes the folder of MONAI Label.
    """

    def __init__(self, client: Any, filters: list[dict[str, Any]], cache_path: str | None) -> None:
        self.filters = filters
        super().__init__(client, {}, cache_path, convert_to_nifti=False)

    def list_images(self) -> list[str]:
        """Return the UIDs of the series."""
        found = [row for each in self.filters for row in self._client.search_for_series(search_filters=each)]
        return list(dict.fromkeys(row[_SERIES]["Value"][0] for row in found))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return nothing: there are no labels."""
        return []

    def json(self) -> dict[str, Any]:
        """Return the series as clients expect them of a datastore."""
        return {
            "name": self.name(),
            "objects": {uid: {"image": {"ext": ""}, "labels": {}} for uid in self.list_images()},
        }

    def get_image_uri(self, image_id: str) -> str:
        """Return the folder of a series, downloaded if the archive has another number of images than the folder.

        Raises:
            HTTPException: 404 if the archive does not have it, 502 if it sends less than it has.
        """
        rows = []
        if len(image_id) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", image_id):
            rows = self._client.search_for_series(search_filters={"SeriesInstanceUID": image_id})
        rows = [row for row in rows if row[_SERIES]["Value"] == [image_id]]
        if not rows:
            raise HTTPException(404, "image: no such series in the archive")
        count = int(rows[0].get(_NUMBER_OF_INSTANCES, {}).get("Value", [-1])[0])
        folder = Path(self._datastore.image_path(), image_id).resolve()
        if _images(folder) != count:
            shutil.rmtree(folder, ignore_errors=True)
            dicom_web_download_series(rows[0][_STUDY]["Value"][0], image_id, str(folder), self._client)
        if count not in (-1, _images(folder)):
            raise HTTPException(502, f"image: the archive sent {_images(folder)} of {count} images")
        return str(folder)


def _images(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.dcm"))
