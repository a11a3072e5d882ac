# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The series that wait, on the disk, so that a killed worker or another one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.engine.cases.case_lock import case_lock
from monai_diffrecon.io.atomic import make_folder, remove_leftovers, write_json
from monai_diffrecon.serve.server import OrthancServer


@dataclass(frozen=True)
class Waiting:
    """A series that waits.

    Attributes:
        series: Orthanc's id.
        files: the entries of the list for this series, one for each of its changes.
        attempts: how often a worker has begun with it.
        retry: what has failed is tried again, and what a worker of another folder has taken is taken over.
        configuration: that it failed with; of quarantined series only.
    """

    series: str
    files: tuple[Path, ...]
    attempts: int = 0
    retry: bool = False
    configuration: str | None = None


class WorkList:
    """The list of one folder, which several workers may share.

    ``waiting`` has a file for each change of a series in Orthanc's feed, named by its number; ``quarantine`` those of
    series that failed. A series leaves the list only when it is done, quarantined, gone, or no rule wants it.

    Args:
        folder: the worker's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting, self._quarantine = (make_folder(folder / name) for name in ("waiting", "quarantine"))
        self._cursor = folder / "feed.json"
        for place in (folder, self._waiting, self._quarantine):
            remove_leftovers(place)

    def follow(self, server: OrthancServer, *, from_now: bool = False) -> None:
        """Put the series of all new changes on the list.

        A change is on the list before the place in the feed moves on, so none is lost.

        Args:
            server: the server.
            from_now: leave out what was there before the list was begun.

        Raises:
            BusyError: another worker is doing it.
        """
        with case_lock(self._folder, "feed"):
            known = _read(self._cursor)
            since = known.get("since")
            if since is None and from_now:
                since = server.last_change()
                self._keep(server, since)
            elif since and server.change(since) not in (known.get("change"), None):
                since = 0  # the database of the server was made anew, and has as many changes again
            since, done = int(since or 0), False
            while not done:
                found, last, done = server.changes(since)
                if last < since:  # the database of the server was made anew
                    since, done = 0, False
                    continue
                for number, series in found:
                    write_json(self._waiting / f"{number:012d}.json", {"series": series})
                if last > since:
                    since = last
                    self._keep(server, since)

    def _keep(self, server: OrthancServer, since: int) -> None:
        write_json(self._cursor, {"since": since, "change": server.change(since)})

    def waiting(self) -> list[Waiting]:
        """Return the series that wait, those first that were tried least, in the order of their changes."""
        return sorted(_grouped(self._waiting), key=lambda item: item.attempts)

    def attempted(self, item: Waiting) -> None:
        """Note that a worker begins with a series: one that kills workers must not keep them from others."""
        write_json(item.files[-1], {"series": item.series, "attempts": item.attempts + 1, "retry": item.retry})

    def finish(self, item: Waiting) -> None:
        """Take a series from the list; changes that came after ``item`` was listed stay."""
        earlier = [other for other in _grouped(self._quarantine) if other.series == item.series]
        _remove([item, *earlier])

    def quarantine(self, item: Waiting, configuration: str) -> None:
        """Move a series that failed out of the list."""
        said = {"series": item.series, "configuration": configuration}
        write_json(self._quarantine / item.files[-1].name, said)
        _remove([item])

    def release(self, configurations: Iterable[str], *, retry: bool) -> None:
        """Put quarantined series back on the list.

        Args:
            configurations: those of the rules; series that failed with others are released, since rules have changed.
            retry: release all, and try again whatever has failed or was taken by a worker of another folder.
        """
        known = set(configurations)
        for item in _grouped(self._quarantine):
            if retry or item.configuration not in known:
                write_json(self._waiting / item.files[-1].name, {"series": item.series, "retry": retry})
                _remove([item])
        for item in _grouped(self._waiting) if retry else ():
            write_json(item.files[-1], {"series": item.series, "retry": True})


def _remove(items: Iterable[Waiting]) -> None:
    for file in [file for item in items for file in item.files]:
        file.unlink(missing_ok=True)


def _grouped(folder: Path) -> list[Waiting]:
    """Return the series of a folder of entries, in the order of their first entries."""
    files: dict[str, list[Path]] = {}
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        said = _read(path)
        if isinstance(series := said.get("series"), str):  # otherwise another worker has taken it away
            files.setdefault(series, []).append(path)
            known = latest.setdefault(series, {})
            known["attempts"] = max(int(said.get("attempts", 0)), known.get("attempts", 0))
            known["retry"] = bool(said.get("retry")) or known.get("retry", False)
            known["configuration"] = said.get("configuration")
    return [Waiting(series, tuple(found), **latest[series]) for series, found in files.items()]


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file that was written atomically, or nothing if there is none."""
    with suppress(FileNotFoundError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
        return said if isinstance(said, dict) else {}
    return {}
