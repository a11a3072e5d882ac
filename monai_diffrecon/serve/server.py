# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The few requests to Orthanc's REST API that the worker makes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.io.atomic import told
from monai_diffrecon.serve.connection import Connection, ServerAwayError, ServerRefusesError, json_of

#: Seconds to connect, and until a modality has stored a series.
_STORE_TIMEOUT = (10.0, 1800.0)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", re.ASCII)
#: Where single-frame and enhanced images (for all frames, for the first one) state their thickness.
_THICKNESS = ("0018-0050", *(f"{groups}/0/0028-9110/0/0018-0050" for groups in ("5200-9229", "5200-9230")))
#: A revision that no metadata has. Orthanc refuses it unless there is none yet, so that only one worker makes it.
_NEW = '"0-00000000000000000000000000000000"'
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Instance:
    """One file of a series: its id, the id of its content, and its size in bytes."""

    id: str
    content: str
    size: int


@dataclass(frozen=True)
class Series:
    """What rules ask of a series, and what is downloaded.

    Attributes:
        id: Orthanc's id.
        modality: as of its header.
        description: SeriesDescription, possibly empty.
        manufacturer: of the equipment; that of derived series is this package.
        sender: AE title of the sender, or None if it was not received by DICOM.
        thickness: slice thickness of the first instance, mm, or None.
        stable: no instance has arrived for some time (``StableAge`` of Orthanc).
        instances: its files, ordered by id.
    """

    id: str
    modality: str
    description: str
    manufacturer: str
    sender: str | None
    thickness: float | None
    stable: bool
    instances: tuple[Instance, ...]

    @property
    def content(self) -> str:
        """Hash of which files it consists of; another one as soon as one is added, removed or replaced."""
        return hashlib.sha256(json.dumps([(i.id, i.content) for i in self.instances]).encode()).hexdigest()


@contextmanager
def _understood() -> Iterator[None]:
    """Tell in one line that an answer has another structure than Orthanc's."""
    try:
        yield
    except DiffReconError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        got = type(error).__name__
        raise ServerRefusesError("not an answer of Orthanc", where="--orthanc", got=got) from None


class OrthancServer:
    """An Orthanc server.

    Args:
        connection: the connection to it.
        metadata: number of the user-defined metadata that holds states.
    """

    def __init__(self, connection: Connection, metadata: int = 4100) -> None:
        self._connection, self._metadata = connection, metadata

    def check(self, modalities: set[str]) -> None:
        """Check that it is one, and that it knows the modalities that rules name.

        Raises:
            ConfigError: it is none, or does not.
        """
        system, known = self._connection.json("/system"), self._connection.json("/modalities")
        if not isinstance(system, dict) or "ApiVersion" not in system or not isinstance(known, list):
            raise ConfigError("not an Orthanc server", where="--orthanc")
        if missing := sorted(modalities - set(known)):
            expected, mend = ", ".join(known) or "none", "add it to DicomModalities of Orthanc"
            raise ConfigError("no such modality", where="send_to", expected=expected, got=missing[0], mend=mend)

    @_understood()
    def changes(self, since: int) -> tuple[list[tuple[int, str]], int, bool]:
        """Return number and series of each change of a series, the last number seen, and whether that was all."""
        page = self._connection.json("/changes", params={"since": since, "limit": 1000})
        kinds = ("NewSeries", "StableSeries")
        found = [(int(c["Seq"]), _id(c["ID"])) for c in page["Changes"] if c["ChangeType"] in kinds]
        last = int(page["Last"])
        return found, last, bool(page["Done"]) or last == since  # nothing new is the end, whatever it says

    @_understood()
    def change(self, number: int) -> str | None:
        """Return what a change was about, or None if it is not there: Orthanc forgets changes of what was deleted."""
        if number < 1:
            return None
        page = self._connection.json("/changes", params={"since": number - 1, "limit": 1})
        found = [c for c in page["Changes"] if int(c["Seq"]) == number]
        return " ".join(str(found[0][key]) for key in ("Date", "ChangeType", "ID")) if found else None

    @_understood()
    def last_change(self) -> int:
        """Return the number of the last change."""
        return int(self._connection.json("/changes", params={"last": ""})["Last"])

    @_understood()
    def series(self, id_: str) -> Series | None:
        """Return a series, or None when it is not there any more."""
        said = self._connection.json(f"/series/{_id(id_)}", missing={})
        files = self._connection.json(f"/series/{id_}/instances", missing=[])
        if not said or not files:
            return None
        tags = said["MainDicomTags"]
        instances = sorted((_id(f["ID"]), str(f.get("FileUuid", "")), int(f["FileSize"])) for f in files)
        first = f"/instances/{instances[0][0]}"
        sizes = (self._connection.text(f"{first}/content/{tag}") for tag in _THICKNESS)
        return Series(
            id_,
            modality=str(tags.get("Modality", "")),
            description=str(tags.get("SeriesDescription", "")),
            manufacturer=str(tags.get("Manufacturer", "")),
            sender=self._connection.text(f"{first}/metadata/RemoteAET"),
            thickness=next((float(size) for size in sizes if size and _is_number(size)), None),
            stable=bool(said["IsStable"]),
            instances=tuple(Instance(*instance) for instance in instances),
        )

    def download(self, instance: Instance, path: Path) -> None:
        """Write a file of a series.

        Raises:
            InputError: it is not there any more, or larger than the server says.
            ResourceError: the disk is full.
        """
        with self._connection.request("GET", f"/instances/{instance.id}/file") as answer:
            if answer.status_code != 200:
                raise InputError("an image that the server does not return", got=f"status {answer.status_code}")
            left = instance.size
            for block in answer.iter_content(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise InputError("an image of another size than the server states", expected=instance.size)
                try:
                    with path.open("ab") as file:
                        file.write(block)
                except OSError as error:
                    raise told(error, path.name) from error
        if left:
            raise ServerAwayError("an answer of the server ends too early", mend="check the network")

    @_understood()
    def upload(self, path: Path) -> str:
        """Upload a file and return the id of its series; one that the server has is not replaced.

        Raises:
            InputError: the server refuses it.
        """
        with self._connection.request("POST", "/instances", data=path.read_bytes()) as answer:
            said = json_of(answer) if answer.status_code == 200 else {}
            if said.get("Status") not in ("Success", "AlreadyStored"):  # a filter answers 200 and FilteredOut
                got, mend = f"status {answer.status_code}", "check the filters and limits of Orthanc, then `--retry`"
                raise InputError("the server does not store a derived image", got=got, mend=mend)
            return _id(said["ParentSeries"])

    @_understood()
    def send(self, series: str, modality: str) -> None:
        """Let Orthanc send a series to a modality (C-STORE), and wait until that is done.

        Raises:
            InputError: it does not take it.
        """
        words = json.dumps({"Resources": [_id(series)], "Synchronous": True})
        path = f"/modalities/{quote(modality, safe='')}/store"
        with self._connection.request("POST", path, data=words, timeout=_STORE_TIMEOUT, away=(503,)) as answer:
            if answer.status_code != 200 or json_of(answer).get("FailedInstancesCount"):
                mend = "check it with a C-ECHO of Orthanc, then `--retry`"
                raise InputError("the modality does not take the series", where=f"modality {modality}", mend=mend)

    def state(self, series: str) -> tuple[dict[str, Any], str]:
        """Return the state of a series, empty if it has none, and the revision that replaces it."""
        text, revision = self._stored(series)
        try:
            state = json.loads(text)
        except ValueError:
            state = {}
        return state if isinstance(state, dict) else {}, revision

    def set_state(self, series: str, state: Mapping[str, Any], revision: str) -> str | None:
        """Replace the state of a series, and return its new revision; None when another worker was first."""
        words = json.dumps(state, sort_keys=True)
        path, headers = self._metadata_of(series), {"If-Match": revision}
        with self._connection.request("PUT", path, data=words, headers=headers) as answer:
            if answer.status_code in (404, 409, 412):
                return None
            if answer.status_code != 200:
                got = f"status {answer.status_code}"
                raise ConfigError("the server does not keep states", where="--orthanc", got=got)
        # The answer may name another revision than SQLite keeps, which counts none and tells states apart by a hash.
        stored, new = self._stored(series)
        return new if stored == words else None

    def _stored(self, series: str) -> tuple[str, str]:
        text, revision = self._connection.tagged_text(self._metadata_of(series))
        return text or "", revision or _NEW

    def _metadata_of(self, series: str) -> str:
        return f"/series/{_id(series)}/metadata/{self._metadata}"


def _id(text: Any) -> str:
    """Return an id of Orthanc; it becomes a part of addresses and names of files."""
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ServerRefusesError("not an id of Orthanc", where="--orthanc", got=type(text).__name__)
    return text


def _is_number(text: str) -> bool:
    try:
        return 0 < float(text) < 1e6
    except ValueError:
        return False
