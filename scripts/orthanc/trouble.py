# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Series that are malformed, and series that change while they are read, beside a load of others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo import Orthanc, thick_series
from pydicom import dcmread
from pydicom.encaps import encapsulate
from workers import CHEAP, SENDERS, SLOW, computed, end, start

from monai_diffrecon.serve.connection import Connection
from monai_diffrecon.serve.server import OrthancServer

#: Thick slices of a series that changes, and the number of those that come, go or are replaced.
SLICES, MOVED = 12, 2


def edited(source: Path, folder: Path, change: Callable[[Any], None], number: int) -> Path:
    """Copy a series with changed headers, as a series of its own."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        dataset = dcmread(path)
        dataset.SeriesInstanceUID += f".{number}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID}.{number}"
        change(dataset)
        dataset.save_as(folder / path.name)
    return folder


def half(dataset: Any) -> None:
    """Cut the pixel data."""
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 4 * 2]


def huge(dataset: Any) -> None:
    """Declare more pixels than there are."""
    dataset.Rows = dataset.Columns = 65535


def colour(dataset: Any) -> None:
    """Declare colours."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def without_place(dataset: Any) -> None:
    """Leave out where the image lies."""
    del dataset.ImagePositionPatient


def tilted(dataset: Any) -> None:
    """Turn every other image."""
    if dataset.InstanceNumber % 2:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def compressed(dataset: Any) -> None:
    """Take the pixels for a JPEG 2000 stream."""
    dataset.PixelData = encapsulate([dataset.PixelData])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"


def led_away(dataset: Any) -> None:
    """Name files elsewhere, and cut the pixel data."""
    dataset.SeriesDescription, dataset.PatientID = "T1 ../../../outside", "../../../outside"
    dataset.PatientName = "../outside^$(touch outside)"
    half(dataset)


def gap(dataset: Any) -> None:
    """Move half of the slices away."""
    if dataset.InstanceNumber > SLICES // 2:
        dataset.ImagePositionPatient[2] += 6


MALFORMED = (half, huge, colour, without_place, tilted, compressed, led_away, gap)


def upload(server: Orthanc, files: list[Path]) -> tuple[str, list[str]]:
    """Upload files; return their series and their instances."""
    address, said = f"{server.url}/instances", []
    for path in files:
        said.append(server.session.post(address, data=path.read_bytes(), timeout=60).json())
    return said[0]["ParentSeries"], [each["ID"] for each in said]


class Changing:
    """A series that changes in one of four ways as soon as a worker has begun with it."""

    def __init__(self, kind: str, number: int, folder: Path, server: Orthanc) -> None:
        self.kind, self.server, self.changed = kind, server, False

        def slow(dataset: Any) -> None:
            dataset.SeriesDescription = "slow"

        folder.mkdir()
        scan = thick_series(folder / "scan", (64, 64, SLICES), 3, number)
        self.files = sorted(edited(scan, folder / "slow", slow, number).iterdir())
        self.series, instances = upload(server, self.files[: -MOVED if kind == "grows" else None])
        self.moved, self.slices = instances[-MOVED:], SLICES - (MOVED if kind == "shrinks" else 0)

    def look(self) -> None:
        """Change it if a worker is at it."""
        if self.changed or self.server.state(self.series).get("state") != "working":
            return
        self.changed = True
        if self.kind in ("shrinks", "is replaced"):
            for instance in self.moved:
                self.server.session.delete(f"{self.server.url}/instances/{instance}", timeout=60)
        if self.kind == "vanishes":
            self.server.session.delete(f"{self.server.url}/series/{self.series}", timeout=60)
        if self.kind == "is replaced":
            for path in self.files[-MOVED:]:
                dataset = dcmread(path)
                dataset.PixelData = dataset.PixelData[::-1]
                dataset.save_as(path)
        if self.kind in ("grows", "is replaced"):
            upload(self.server, self.files[-MOVED:])

    def settled(self, server: OrthancServer) -> bool:
        """Say whether what is there now has been reconstructed."""
        now = server.series(self.series)
        if self.kind == "vanishes":
            return self.changed and now is None
        state, _ = server.state(self.series)
        return now is not None and state.get("state") == "done" and state.get("content") == now.content


def trouble(root: Path, count: int, each: int = 3) -> list[str]:
    """Send malformed series, and change ``each`` series in every way, beside ``count`` series of four senders."""
    scans = root / "scans"
    scans.mkdir(parents=True)
    good = thick_series(scans / "good", (64, 64, SLICES), 3, 1000)
    bad = [edited(good, scans / make.__name__, make, n) for n, make in enumerate(MALFORMED, 1)]
    folders = [thick_series(scans / f"{n}", (64, 64, 60), 3, n) for n in range(count)]
    # What is uploaded has no sender. What changes is computed slowly enough to be caught.
    anyone: dict[str, Any] = {"name": "any", "senders": []}
    rules = [{}, anyone, anyone | {"name": "slow", "description": "slow", "overrides": SLOW}]
    with Orthanc.running(root / "orthanc") as server, ThreadPoolExecutor(len(SENDERS)) as pool:
        ours = OrthancServer(Connection(server.url))
        workers = [start(server.url, root / "worker", CHEAP, "--every", "0.5", rules=rules) for _ in range(2)]
        begun = time.perf_counter()
        sent = pool.map(lambda n: server.send(folders[n], SENDERS[n % len(SENDERS)]), range(count))
        failing = [upload(server, sorted(folder.iterdir()))[0] for folder in bad]
        kinds = [kind for kind in ("grows", "shrinks", "is replaced", "vanishes") for _ in range(each)]
        moving = [Changing(kind, 2000 + n, scans / f"changing{n}", server) for n, kind in enumerate(kinds)]
        while time.perf_counter() - begun < 1800:
            for series in moving:
                series.look()
            states = [server.state(series).get("state") for series in server.get("/series")]
            wanted = count + sum(series.kind != "vanishes" for series in moving)
            failed = all(server.state(series).get("state") == "failed" for series in failing)
            if failed and states.count("done") == wanted and all(series.settled(ours) for series in moving):
                break
            time.sleep(0.1)
        list(sent)  # raises what sending raised
        seconds = time.perf_counter() - begun
        codes = [end(pid, signal.SIGTERM) for pid in workers]
        reasons = [server.state(series).get("reason") for series in failing]
        states = [server.state(series) for series in server.get("/series")]
        derived = sorted(len(series["Instances"]) for series in server.derived())
    log, names = (root / "worker" / "log").read_text(), computed(root / "worker")
    expected = sorted([180] * count + [3 * series.slices for series in moving if series.kind != "vanishes"])
    assert codes == [143, 143], codes
    assert all(reasons), reasons
    assert [series.changed for series in moving] == [True] * len(moving)
    assert derived == expected, (derived, expected)
    assert len(names) >= len(derived)
    assert {path.name for path in root.iterdir()} == {"scans", "orthanc", "worker"}
    assert {path.name for path in (root / "worker").iterdir()} == {"rules.json", "log", "folder"}
    assert not list(root.glob("**/outside*"))
    assert not list((root / "worker" / "folder" / "series").glob("*/*"))
    assert not [word for word in ("Doe", "outside") if word in log], log
    dropped = log.count("has changed meanwhile")
    return [
        f"- Beside {count} such series, {len(bad)} malformed ones and {len(moving)} that change while they are read "
        f"({each} each that grow, shrink, get other pixels, or vanish): both workers go on. After {seconds:.0f} s all "
        f"{len(derived)} derived series are there, made of the last state of their sources ({dropped} reconstructions "
        "were dropped), and the malformed ones have failed. Nothing lies outside the folder of the workers. Reasons:",
        *(f"  - {make.__name__.replace('_', ' ')}: `{said}`" for make, said in zip(MALFORMED, reasons, strict=True)),
    ]
