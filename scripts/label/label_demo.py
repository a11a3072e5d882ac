# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server on this machine, asked over HTTP, and compared with ``diffrecon reconstruct``.

    python scripts/label/label_demo.py [--write FILE.md]

The scan is a part of examples/colin27_t1.nii.gz in 5 mm slices, as NIfTI and as a DICOM series. The server gets it from
a folder, and from an Orthanc server by DICOMweb, if that is installed. Everything lies in a temporary folder and ends
with the script. What is not equal ends the script with an error.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import dcmread

from diffrecon_label.__main__ import copy_app

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts" / "orthanc"), str(ROOT / "plugins" / "diffrecon-label" / "diffrecon-slicer")]

from demo import Orthanc, free_ports, thick_series  # noqa: E402
from diffrecon_slicer_lib.client import Server, ServerError  # noqa: E402

from monai_diffrecon.io.find_reader import read_scan  # noqa: E402
from monai_diffrecon.io.nifti import write_volume  # noqa: E402

BUNDLE = ROOT / "bundles" / "brain_mr"
SIZE, THICKNESS, STEPS = (40, 48, 6), 5, 3
#: Where Debian puts the plugin of Orthanc.
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LINES: list[str] = []


def tell(line: str) -> None:
    """Print a line and keep it."""
    print(line, flush=True)
    LINES.append(line)


@contextmanager
def label_server(work: Path, studies: str) -> Iterator[Server]:
    """Yield a server of MONAI Label on loopback, started as by its own command."""
    (port,) = free_ports(1)
    work.mkdir()
    app = copy_app(work / "app")
    # What the script `monailabel` runs, with this interpreter.
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--app", str(app), "--uvicorn_app", "diffrecon_label.server:app"]
    command += ["--studies", studies, "--conf", "bundles", str(BUNDLE.parent), "--conf", "models", BUNDLE.name]
    settings = {"PYTHONWARNINGS": "ignore", "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(work / "cache")}
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=work, env=os.environ | settings)
    try:
        server, begun = Server(f"http://127.0.0.1:{port}"), time.perf_counter()
        while True:
            if process.poll() is not None or time.perf_counter() - begun > 1800:
                raise SystemExit(f"error: the server ended:\n{(work / 'log').read_text()[-3000:]}")
            try:
                server.models()
                break
            except ServerError:
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait()


def expected(scan: Path, work: Path) -> Any:
    """Return the volume that the command line writes."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "monai_diffrecon",
        "reconstruct",
        str(scan),
        "--bundle",
        str(BUNDLE),
    ]
    command += ["--output", str(work / "expected"), "--set", f"sampler#steps={STEPS}", "--set", "evaluator#view=false"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = (work / "expected").glob("*_recon.nii.gz")
    return nib.load(path)


def compare(what: str, server: Server, scan: Path | str, right: Any, work: Path) -> None:
    """Reconstruct over HTTP, and compare with the command line."""
    begun = time.perf_counter()
    done = nib.load(server.reconstruct(BUNDLE.name, {"steps": STEPS}, scan, work / "volume.nii.gz"))
    seconds = time.perf_counter() - begun
    affine = float(np.abs(done.affine - right.affine).max())
    voxels = float(np.abs(np.asarray(done.dataobj) - np.asarray(right.dataobj)).max())
    largest = float(np.abs(np.asarray(right.dataobj)).max())
    assert done.get_data_dtype() == np.float32, done.get_data_dtype()
    assert done.shape == right.shape, done.shape
    assert affine < 1e-3, affine
    assert voxels <= 1e-5 * largest, voxels
    tell(f"| {what} | {done.get_data_dtype()} | {done.shape} | {affine:.1e} | {voxels:.1e} | {seconds:.0f} |")


def refused(what: str, server: Server, scan: Path | str, work: Path, **choices: Any) -> None:
    """Check that something is refused, and tell how."""
    try:
        server.reconstruct(BUNDLE.name, {"steps": STEPS, **choices}, scan, work / "volume.nii.gz")
    except ServerError as error:
        tell(f"- {what}: `{error}`")
    else:
        raise SystemExit(f"error: not refused: {what}")


def files(work: Path, series: Path, right: Any) -> None:
    """Compare for a folder of files, and for a file that a client sends."""
    studies = work / "studies"
    shutil.copytree(series, studies / "series")
    shutil.copytree(series, studies / "gap")
    sorted((studies / "gap").iterdir())[2].unlink()
    scan = read_scan(series)[1]
    write_volume(studies / "scan.nii.gz", scan.data, scan.geometry)
    with label_server(work / "files", str(studies)) as server:
        (model,) = server.models()
        tell(f"The server of a folder has the scans {', '.join(server.images())} and the model `{model.name}`:")
        tell(f'"{model.description}" Choices: {", ".join(model.choices)}.\n')
        tell("| scan | voxels | grid | affine, largest difference (mm) | voxels, largest difference | seconds |")
        tell("|---|---|---|---|---|---|")
        compare("NIfTI in the folder", server, "scan", right, work)
        compare("DICOM series in the folder", server, "series", right, work)
        compare("NIfTI sent by the client", server, studies / "scan.nii.gz", right, work)
        log = (work / "files" / "log").read_text()
        assert f"reconstruction: step {STEPS} of {STEPS}" in log
        tell("\nRefused:\n")
        refused("a series that lacks a slice", server, "gap", work)
        refused("a scan that is not there", server, "none", work)
        refused("a number of steps that is none", server, "scan", work, steps=-1)


def archive(work: Path, series: Path, right: Any) -> None:
    """Compare for Orthanc's DICOMweb, also after an image has been added to a series that was downloaded."""
    if not shutil.which("Orthanc") or not shutil.which("storescu") or not PLUGIN.exists():
        tell("\nDICOMweb was skipped: apt-get install orthanc orthanc-dicomweb dcmtk\n")
        return
    whole = sorted(series.iterdir())
    part = work / "part"
    part.mkdir()
    for path in whole[:-1]:
        shutil.copy(path, part)
    with Orthanc.running(work / "orthanc", plugins=[str(PLUGIN)]) as orthanc:
        orthanc.send(part, "MR1")
        with label_server(work / "archive", f"{orthanc.url}/dicom-web") as server:
            (uid,) = server.images()
            assert uid == str(dcmread(whole[0]).SeriesInstanceUID)
            tell(f"\nThe server of the archive has the series that Orthanc {orthanc.get('/system')['Version']} has.\n")
            tell("| scan | voxels | grid | affine, largest difference (mm) | voxels, largest difference | seconds |")
            tell("|---|---|---|---|---|---|")
            fewer = nib.load(server.reconstruct(BUNDLE.name, {"steps": 1}, uid, work / "volume.nii.gz"))
            assert fewer.shape[2] == right.shape[2] - THICKNESS, fewer.shape
            orthanc.send(series, "MR1")
            compare("DICOMweb, after the last image arrived late", server, uid, right, work)


def main() -> None:
    """Run all, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write a page of results")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="label_demo_"))
    packages = ("monailabel", "monai", "torch", "pydicom", "numpy", "pydicom-seg")
    try:
        tell("# MONAI Label: what a server sends over HTTP\n")
        tell(
            "Written by `scripts/label_demo.sh`: the command of MONAI Label with the app of `plugins/diffrecon-label`,"
        )
        tell(f"on loopback. Bundle `{BUNDLE.name}` with both planes, {STEPS} steps. The scan is a part of the example")
        tell(f"head, {SIZE[0]} x {SIZE[1]} pixels, {SIZE[2]} slices of {THICKNESS} mm. Each volume is compared with")
        tell("what `diffrecon reconstruct` makes of the series.\n")
        series = thick_series(work / "series", SIZE, THICKNESS)
        right = expected(series, work)
        files(work, series, right)
        archive(work, series, right)
        packed = ", ".join(f"{name} {version(name)}" for name in packages)
        tell(f"\n{platform.system()} on {platform.machine()}, {os.cpu_count()} cores shared with other work,")
        tell(f"Python {platform.python_version()}, {packed}.")
    finally:
        shutil.rmtree(work)
    if args.write:
        args.write.write_text("\n".join(LINES) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
