# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An Orthanc server on this machine, a thick-slice series, and the worker that returns a derived series.

    python scripts/orthanc/demo.py

Everything lies in a temporary folder and ends with the script. The series is a part of examples/colin27_t1.nii.gz,
5 mm slices.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydicom import dcmread

from monai_diffrecon.io.dicom.writer import write_series
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume

ROOT = Path(__file__).resolve().parents[2]
HEAD = ROOT / "examples" / "colin27_t1.nii.gz"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses at the moment."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in with_sockets]
    for each in with_sockets:
        each.close()
    return ports


class Orthanc:
    """A server on loopback in a folder; it can be killed and started again.

    Args:
        folder: for its files.
        plugins: files of plugins.
        user: name and password that it asks for.
        modalities: name -> port of other servers on this machine, to which it can send.
    """

    def __init__(
        self,
        folder: Path,
        plugins: Sequence[str] = (),
        user: tuple[str, str] | None = None,
        modalities: Mapping[str, int] | None = None,
    ) -> None:
        http, self.port = free_ports(2)
        self.url, self.folder, self.session = f"http://127.0.0.1:{http}", folder, requests.Session()
        self.session.auth = user
        others = {"SELF": self.port, **(modalities or {})}
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": http,
            "DicomPort": self.port,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": False,
            "DicomModalities": {name: ["ORTHANC", "127.0.0.1", port] for name, port in others.items()},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": user is not None,
            "RegisteredUsers": dict([user] if user else []),
            "StableAge": 1,
            "Plugins": list(plugins),
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        for _ in range(300):
            if self.process.poll() is not None:
                raise SystemExit(f"Orthanc ended; see {self.folder / 'log'}")
            try:
                self.session.get(f"{self.url}/system", timeout=5)
                return
            except requests.RequestException:
                time.sleep(0.1)
        raise SystemExit("Orthanc does not answer")

    def stop(self, *, kill: bool = False) -> None:
        """End it, as a power cut would or in order."""
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait()

    def get(self, path: str) -> Any:
        """Return an answer in JSON."""
        answer = self.session.get(f"{self.url}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def send(self, folder: Path, sender: str) -> None:
        """Send it the files of a folder by DICOM."""
        command = ["storescu", "-aet", sender, "-aec", "ORTHANC", "127.0.0.1", str(self.port), "+sd", str(folder)]
        subprocess.run(command, check=True, capture_output=True)

    def settle(self) -> None:
        """Wait until all series are stable."""
        while not all(series["IsStable"] for series in self.get("/series?expand")):
            time.sleep(0.2)

    def derived(self) -> list[dict[str, Any]]:
        """Return the series that the package made."""
        found = self.get("/series?expand")
        return [series for series in found if series["MainDicomTags"].get("Manufacturer") == "monai_diffrecon"]

    def state(self, series: str) -> dict[str, Any]:
        """Return the state that workers keep in a series, empty without one."""
        answer = self.session.get(f"{self.url}/series/{series}/metadata/4100", timeout=60)
        return answer.json() if answer.status_code == 200 else {}

    @classmethod
    @contextmanager
    def running(cls, folder: Path, **options: Any) -> Iterator[Orthanc]:
        """Yield a server that is stopped at the end."""
        server = cls(folder, **options)
        try:
            yield server
        finally:
            server.stop()


def thick_series(folder: Path, size: tuple[int, int, int], thickness: int, number: int = 1) -> Path:
    """Write a series of a part of the example head: ``size`` voxels in columns, rows and slices; return the folder."""
    volume, geometry = read_volume(HEAD)
    columns, rows, slices = size
    begin = [(have - want) // 2 for have, want in zip(geometry.shape, (columns, rows, slices * thickness), strict=True)]
    x, y, z = begin
    part = volume[:, x : x + columns, y : y + rows, z : z + slices * thickness]
    part = part.reshape(1, columns, rows, slices, thickness).mean(-1) + number  # no two series are the same
    affine = np.array(geometry.affine)
    affine[:3, 3] += affine[:3, :3] @ [x, y, z + (thickness - 1) / 2]
    affine[:3, 2] *= thickness
    placed = geometry_of(tuple(part.shape[1:]), affine)
    write_series(folder, part, placed, case=f"P{number}", template={"Modality": "MR"}, entropy=str(number))
    for path in folder.glob("*.dcm"):  # as a scanner would have written it
        dataset = dcmread(path)
        dataset.Manufacturer, dataset.SeriesDescription, dataset.PatientName = "Example", "T1 AX", f"Doe^{number}"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        dataset.save_as(path)
    return folder


def main() -> None:
    """Start, send, reconstruct, show and stop."""
    work = Path(tempfile.mkdtemp(prefix="orthanc_demo_"))
    rules = {"name": "thick_t1", "modality": "MR", "description": "t1.*ax", "senders": ["MR1"], "thickness": 3}
    rules |= {"bundle": "brain_mr", "overrides": {"sampler#steps": 4}}
    (work / "rules.json").write_text(json.dumps({"rules": [rules]}))
    try:
        with Orthanc.running(work / "orthanc") as server:
            print(f"Orthanc: {server.url}", flush=True)
            server.send(thick_series(work / "scan", (96, 128, 8), 5), "MR1")
            server.settle()
            (source,) = server.get("/series")
            command = [sys.executable, "-W", "ignore", "-m", "monai_diffrecon", "serve", "--orthanc", server.url]
            command += ["--rules", str(work / "rules.json"), "--work", str(work / "worker"), "--once"]
            print("diffrecon " + " ".join(command[5:]), flush=True)
            subprocess.run(command, check=True)
            print(f"state of the source: {json.dumps(server.state(source), indent=2)}")
            for series in server.derived():
                count, study = len(series["Instances"]), series["ParentStudy"]
                same = study == server.get(f"/series/{source}")["ParentStudy"]
                print(f"derived series: {count} images, {'in the study of the source' if same else 'in another study'}")
                print(json.dumps(series["MainDicomTags"], indent=2))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
