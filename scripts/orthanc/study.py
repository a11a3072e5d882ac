# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The worker and a real Orthanc server: conformance, TLS, kills of both, load, and load with trouble.

    python scripts/orthanc/study.py WORK [--kills 20] [--server-kills 3] [--series 20] [--output FILE.md]

Needs Orthanc, storescu (dcmtk), dciodvfy (dicom3tools), nginx and openssl. Workers are forked from this
process, which has imported everything, and killed by SIGKILL.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from demo import Orthanc, thick_series
from secured import secured
from trouble import trouble
from workers import CHEAP, SENDERS, SLOW, computed, end, fetch, start, volumes

from monai_diffrecon.io.dicom.series_reader import DicomSeriesReader
from monai_diffrecon.serve import worker
from monai_diffrecon.tracking.mlflow_client import mlflow_module

ROOT = Path(__file__).resolve().parents[2]


def conformance(root: Path) -> list[str]:
    """Send a series, take the derived one from the server, and check headers and geometry."""
    with Orthanc.running(root / "orthanc") as server:
        scan = thick_series(root / "scan", (64, 72, 6), 5)
        server.send(scan, "MR1")
        server.settle()
        assert end(start(server.url, root / "worker", SLOW | {"sampler#steps": 2}, "--once")) == 0
        (derived,) = server.derived()
        files = fetch(server, derived, root / "derived")
    said = [subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False) for path in files]
    errors = sum(line.startswith("Error") for each in said for line in (each.stdout + each.stderr).splitlines())
    source, thin = DicomSeriesReader().read(scan), DicomSeriesReader().read(root / "derived")
    expected = np.array(source.geometry.affine)
    thickness = source.geometry.spacing[2]
    expected[:3, 2] /= thickness
    # The middle of the first thin slice lies two millimetres before that of the first thick one.
    expected[:3, 3] -= expected[:3, 2] * (thickness - 1) / 2
    corners = np.array([[x, y, z, 1] for x in (0, 63) for y in (0, 71) for z in (0, thin.geometry.shape[2] - 1)])
    worst = float(np.abs(corners @ (np.array(thin.geometry.affine) - expected).T).max())
    assert errors == 0, next(each.stderr for each in said if "Error" in each.stderr)
    assert worst < 1e-3, worst
    return [
        f"- Derived series: {len(files)} images, {errors} errors of `dciodvfy`; corners of the volume within "
        f"{worst:.1e} mm of where the source says."
    ]


def kills(root: Path, workers: int, servers: int) -> list[str]:
    """Kill the worker and the server at random moments; each series is there once, and the same."""
    chance, count = random.Random(0), 3
    with Orthanc.running(root / "orthanc") as server:
        for number in range(1, count + 1):
            server.send(thick_series(root / f"scan{number}", (64, 72, 8), 5, number), SENDERS[number])
        server.settle()
        begun = time.perf_counter()
        assert end(start(server.url, root / "whole", SLOW, "--once")) == 0
        whole = time.perf_counter() - begun
    with Orthanc.running(root / "orthanc2") as server:
        for number in range(1, count + 1):
            server.send(root / f"scan{number}", SENDERS[number])
        server.settle()
        done, outages = 0, 0
        while done < workers:
            pid = start(server.url, root / "killed", SLOW, "--every", "0.5")
            time.sleep(chance.uniform(0.1, 0.25) * whole)
            if outages < servers and done % (workers // (servers + 1) or 1) == 1:
                server.stop(kill=True)
                outages += 1
                time.sleep(1)
                server.start()
                time.sleep(0.1 * whole)
            if end(pid, signal.SIGKILL) == -signal.SIGKILL:
                done += 1
        assert end(start(server.url, root / "killed", SLOW, "--once")) == 0
        derived, states = server.derived(), [server.state(series) for series in server.get("/series")]
        complete = sorted(len(series["Instances"]) for series in derived)
    assert len(derived) == count, len(derived)
    assert sorted(state["state"] for state in states if state) == count * ["done"], states
    names = computed(root / "killed")
    assert len(names) == len(set(names)) == count, names
    assert volumes(root / "whole") == volumes(root / "killed")
    return [
        f"- {done} kills of the worker and {outages} of the server while {count} series were reconstructed "
        f"({whole:.0f} s without interruption): {len(derived)} derived series of {complete} images, each computed "
        "once; volumes are the same bit for bit as without kills."
    ]


def load(root: Path, count: int) -> list[str]:
    """Send series from four senders at once to two workers."""
    with Orthanc.running(root / "orthanc") as server:
        folders = [thick_series(root / f"scan{n}", (64, 64, 60), 3, n) for n in range(count)]
        workers = [start(server.url, root / "worker", CHEAP, "--every", "0.5") for _ in range(2)]
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(SENDERS)) as pool:
            list(pool.map(lambda n: server.send(folders[n], SENDERS[n % len(SENDERS)]), range(count)))
        sent, ages = time.perf_counter() - begun, []
        while len(ages) < count and time.perf_counter() - begun < 3000:
            time.sleep(1.0)
            done = sum(server.state(series).get("state") == "done" for series in server.get("/series"))
            ages += [time.perf_counter() - begun] * (done - len(ages))
        codes = [end(pid, signal.SIGTERM) for pid in workers]
        derived = server.derived()
    names = computed(root / "worker")
    told = (root / "worker" / "log").read_text().count(": done")
    assert codes == [143, 143], codes
    assert len(derived) == count == len(set(names)) == len(names), (len(derived), len(names))
    assert told == count, told
    images = statistics.mean(len(series["Instances"]) for series in derived)
    return [
        f"- {count} series of 60 slices of 64 x 64 from four senders at once, two workers, interpolation instead of a "
        f"network: all {len(derived)} derived series ({images:.0f} images each) "
        f"after {ages[-1]:.0f} s (sending took {sent:.0f} s), each computed once; {60 * count / ages[-1]:.1f} series a "
        "minute."
    ]


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--server-kills", type=int, default=3)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="parts, such as secured or trouble; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "orthanc.md")
    args = parser.parse_args()
    assert worker  # imported once for all workers
    mlflow_module()
    shutil.rmtree(args.work, ignore_errors=True)
    lines = [
        "# The worker with an Orthanc server",
        "",
        "Written by `scripts/orthanc/study.py`: `diffrecon serve` with a real server on loopback. Series are parts",
        "of the example head (`examples/colin27_t1.nii.gz`) in thick slices, sent by `storescu`. Each worker is a",
        "process of its own, ended by SIGKILL at random moments; the server is ended by SIGKILL too, and started anew.",
        "",
    ]
    parts = {
        "conformance": conformance,
        "secured": secured,
        "kills": lambda folder: kills(folder, args.kills, args.server_kills),
        "load": lambda folder: load(folder, args.series),
        "trouble": lambda folder: trouble(folder, args.series),
    }
    for name in args.only or parts:
        said = parts[name](args.work / name)
        print("\n".join(said), flush=True)
        lines += said
    orthanc = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores shared with other work"
    lines += ["", f"{machine}, {orthanc}, torch {version('torch')}.", ""]
    args.output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
