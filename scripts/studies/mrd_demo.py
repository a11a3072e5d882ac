# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scan sent to ``python -m diffrecon_mri.stream``, and the images that come back beside ``diffrecon reconstruct``.

    python scripts/studies/mrd_demo.py [--work FOLDER] [--write docs/results/mrd_streams.md]

Slices of the example head are measured by simulated coils; the file is sent by the clients of the tests, in both
protocols, and reconstructed as a file.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from diffrecon_mri.simulate import Receiver, write_ismrmrd
from diffrecon_mri.stream.reconstruction import CASE
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "diffrecon-mri" / "tests" / "stream"))

from clients import answer, as_volume, ask, mrd_bytes, mrd_images, scan_bytes  # noqa: E402

BUNDLE = ROOT / "bundles" / "brain_mr"
CORNER, SIZE = (24, 31, 146), (136, 152, 12)
COILS, ACCELERATION, CENTRE, NOISE = 8, 4, 20, 0.015


def write_scan(path: Path) -> torch.Tensor:
    """Write the scan and return the truth (X, Y, Z), as the coil maps of white noise shade it."""
    head, geometry = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    x, y, z = (slice(start, start + size) for start, size in zip(CORNER, SIZE, strict=True))
    part = head[0, x, y, z] / torch.quantile(head[0, x, y, z].flatten()[::7], 0.99)
    affine = affine_of(geometry)
    affine[:3, 3] = (affine @ [*CORNER, 1])[:3]
    maps = birdcage_maps(COILS, SIZE)
    volume = part * smooth_phase(SIZE, seed=1, strength=0.7)
    receiver = Receiver(std=NOISE, scans=32, seed=1)
    # Readout towards the front, phase encoding towards the left.
    write_ismrmrd(
        path,
        volume,
        maps,
        affine=affine,
        axes="ALS",
        mask=measured_lines(),
        acceleration=ACCELERATION,
        receiver=receiver,
    )
    return part * maps.abs().square().sum(0).sqrt() / NOISE


def measured_lines() -> torch.Tensor:
    """Return which lines are measured."""
    lines = torch.arange(SIZE[0]) % ACCELERATION == 0
    lines[(SIZE[0] - CENTRE) // 2 : (SIZE[0] + CENTRE) // 2] = True
    return lines


def start_server() -> tuple[subprocess.Popen[str], tuple[str, int]]:
    """Start a server at any free port."""
    words = [sys.executable, "-m", "diffrecon_mri.stream", "--bundle", str(BUNDLE), "--device", "cpu", "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"listening at (\S+), port (\d+)", line):
            return server, (found[1], int(found[2]))
    raise SystemExit("the server did not start")


def on_grid(
    array: np.ndarray, affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, float]:
    """Return an array on another grid of the same voxels, and how far voxels are apart at most, mm."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    there = (index @ other[:3, :3].T + other[:3, 3] - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    nearest = np.rint(there).astype(int)
    return array[tuple(nearest.T)].reshape(shape), float(np.abs((there - nearest) @ affine[:3, :3].T).max())


def psnr(volume: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR in dB; the peak is the largest true value."""
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((volume - truth) ** 2))))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "mrd_demo")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    scan = arguments.work / "scan.h5"
    truth = write_scan(scan).numpy()
    server, address = start_server()
    found = {}
    try:
        for name, data in (("ISMRMRD session", scan_bytes(scan)), ("MRD 2 stream", mrd_bytes(scan))):
            started = time.monotonic()
            said = ask(address, data, seconds=1800)
            seconds = time.monotonic() - started
            images = mrd_images(said) if name.startswith("MRD") else answer(said)[1]
            found[name] = (*as_volume(images), len(data), len(images), seconds)
    finally:
        server.terminate()
        log = server.communicate()[0]
    words = ["reconstruct", str(scan), "--bundle", str(BUNDLE), "--device", "cpu", "--case", CASE]
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "monai_diffrecon", *words, "--output", str(arguments.work / "file")], check=True
    )
    seconds = time.monotonic() - started
    volume, geometry = read_volume(arguments.work / "file" / f"{CASE}_recon.nii.gz")
    wanted = volume[0].numpy()
    rows = [f"| `diffrecon reconstruct` of the file | | | {psnr(wanted, truth):.2f} | | | {seconds:.0f} |"]
    for name, (array, affine, size, count, seconds) in found.items():
        values, apart = on_grid(array, affine, affine_of(geometry), wanted.shape)
        rows.append(
            f"| {name} | {size / 1e6:.1f} MB | {count} | {psnr(values, truth):.2f} "
            f"| {np.abs(values - wanted).max():.2g} | {apart:.1e} mm | {seconds:.0f} |"
        )
    text = REPORT.format(
        sizes=" x ".join(map(str, SIZE)),
        coils=COILS,
        lines=int(measured_lines().sum()),
        all=SIZE[0],
        rows="\n".join(rows),
        log="\n".join(line.split(" ", 2)[-1] for line in log.splitlines()),
        versions=", ".join(f"{p} {version(p)}" for p in ("ismrmrd", "mrd-python", "torch")),
        system=f"{platform.system()} on {platform.machine()}",
    )
    sys.stdout.write(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


REPORT = """# MRD streams

Written by `scripts/studies/mrd_demo.py`: {sizes} voxels of 1 mm of the example head (`examples/colin27_t1.nii.gz`),
measured by {coils} simulated coils ({lines} of {all} lines), with noise scans. The file is sent to
`python -m diffrecon_mri.stream` on loopback by the writers of the packages `ismrmrd` and `mrd-python`; what comes back
is compared with `diffrecon reconstruct` of the file.

| | sent | images | PSNR (dB) | largest difference to the file's | voxels apart | seconds |
|---|---|---|---|---|---|---|
{rows}

The seconds of `diffrecon reconstruct` include the start of Python, the record and the page; those of the first stream
include loading the networks of the task. The server's log:

```
{log}
```

{versions}; {system}, 2 cores shared with much other work, one thread.
No scanner and no Gadgetron took part.
"""


if __name__ == "__main__":
    main()
