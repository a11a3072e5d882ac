# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From raw k-space files to volumes by ``python -m monai.bundle run``: Cartesian (fastMRI) and radial (ISMRMRD).

    python scripts/studies/raw_mri.py [cartesian radial] [--output docs/results/raw_mri.md] [--picture FILE.png]
    python scripts/studies/raw_mri.py --schedules --source other_subject.nii.gz --crop 24 28 90 136 152 24

A part of a brain is given a smooth phase and measured by 8 coils, and the files are written to ``outputs/raw_mri``.
The command is run as a user runs it, once a row of the table. The classical rivals are tuned with the truth over a
grid first. ``--schedules`` prints a grid of starts and sigma schedules for the networks instead: the task ``raw_mri``
was chosen by it on another subject.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
AXIAL = ROOT / "bundles" / "brain_mr_t1_axial"
FOLDER = ROOT / "outputs" / "raw_mri"
COILS = 8
#: Noise of each real component in each coil's fully sampled image, relative to the brain's bright voxels.
NOISE = 0.015
#: Measured lines, and how many of them are next to each other in the centre.
ACCELERATION, CENTRE = 4.0, 20
#: Spokes over those of full sampling.
SPOKES = 1.0 / 6.0
TITLES = {
    "cartesian": "fastMRI file: Cartesian, {lines} of {y} lines ({accel:.1f} times faster), white noise",
    "radial": "ISMRMRD file: golden-angle radial, {spokes} spokes (full: {full}), correlated noise, noise scans",
}
HEADING = """# Raw multi-coil MRI

{source}, {size} voxels from {first}, with a smooth phase, measured by {coils} coils with noise of
{noise:g} % of the bright voxels. Each row is one `python -m monai.bundle run` of the file
(`scripts/studies/raw_mri.py`); coil sensitivity maps are estimated with ESPIRiT. Metrics are computed on the
magnitude, without rescaling: the ground truth is in the readers' units. Baselines use the best weight of a grid,
selected with the ground truth. The sigma schedule of the task `raw_mri` was chosen on a Cartesian scan of another
subject (open_ms_data, cross-sectional patient 19). Its ten conjugate gradient steps were introduced after a radial run
of this volume had fallen behind total variation, so the radial row is not fully blind. Seconds
({threads} threads) exclude reading the file and estimating the coil maps."""
READERS = {"cartesian": "fastmri", "radial": "ismrmrd"}
#: Weights relative to ||A^T A||, which for radial samples is that of the crowded centre of k-space.
CG_GRID = {
    "cartesian": tuple((weight, n) for weight in (0.0, 0.01, 0.03, 0.1) for n in (8, 20)),
    "radial": ((0.0, 8), (0.0, 20), (0.0, 40), (1e-4, 20), (1e-4, 30)),
}
TV_WEIGHTS = {"cartesian": (0.001, 0.003, 0.01, 0.03), "radial": (3e-5, 1e-4, 5e-4)}
TV_ITERATIONS = {"iterations": 20, "cg_iterations": 3}
TV_RHO = {"cartesian": 0.3, "radial": 0.01}

#: First and last noise level, steps.
SCHEDULES = ((0.1, 0.02, 8), (0.2, 0.02, 12), (0.2, 0.01, 12), (0.3, 0.01, 16))


def part_of(source: Path, crop: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """Return a part (X, Y, Z) of a volume, its bright voxels near 1, and its affine."""
    volume, geometry = read_volume(source)
    x, y, z, *size = crop
    part = volume[0, x : x + size[0], y : y + size[1], z : z + size[2]].float()
    affine = np.array(affine_of(geometry), dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ (x, y, z)
    return part / torch.quantile(part[part > 0.01 * part.max()], 0.995), affine


def lines_of(size: int) -> Tensor:
    """Return which phase-encoding lines are measured: a fully sampled centre, and density falling outwards."""
    rng = np.random.default_rng(0)
    distance = np.abs(np.arange(size) - size // 2)
    weight = np.where(distance < CENTRE // 2, 0.0, (1.0 - distance / (0.5 * size + 1.0)) ** 1.5)
    count = round(size / ACCELERATION) - CENTRE
    mask = np.zeros(size, bool)
    mask[size // 2 - CENTRE // 2 : size // 2 + CENTRE // 2] = True
    mask[rng.choice(size, count, replace=False, p=weight / weight.sum())] = True
    return torch.from_numpy(mask)


def coil_noise() -> Tensor:
    """Return the covariance of noise between coils: some correlation, and levels that differ by a third."""
    mix = torch.randn(COILS, COILS, generator=torch.Generator().manual_seed(5), dtype=torch.complex128)
    root = torch.diag(torch.linspace(0.85, 1.15, COILS).to(torch.complex128)) + 0.08 * mix
    return NOISE**2 * root @ root.mH


def simulate(kind: str, magnitude: Tensor, affine: np.ndarray) -> tuple[str, Tensor]:
    """Write the file of a kind and its reference, ``<kind>.h5`` and ``<kind>_truth.nii.gz``; return title and truth.

    Readers make the noise white and the coil maps' squares add up to 1. What is left in the image is the shading
    ``sqrt(S^H C^-1 S)`` of the maps S and the covariance C, which the truth gets, too; for white noise it is 1.
    """
    x, y, z = magnitude.shape
    volume = magnitude * smooth_phase((x, y, z), seed=3, strength=1.0)
    maps = birdcage_maps(COILS, (x, y, z))
    path = FOLDER / f"{kind}.h5"
    truth = magnitude
    if kind == "cartesian":
        lines = lines_of(y)
        write_fastmri(path, volume, maps, mask=lines, receiver=Receiver(std=NOISE, seed=1))
        affine, count = np.eye(4), int(lines.sum())
        title = TITLES[kind].format(lines=count, y=y, accel=y / count)
    else:
        full = round(np.pi / 2 * max(x, y))
        spokes = round(SPOKES * full)
        k = radial((x, y), spokes, 2 * max(x, y), golden=True)
        receiver = Receiver(covariance=coil_noise(), scans=64, seed=2)
        write_ismrmrd(path, volume, maps, affine=affine, trajectory=k, shot=2 * max(x, y), receiver=receiver)
        inverse = torch.linalg.inv(coil_noise()).to(torch.complex64)
        truth = magnitude * torch.einsum("cxyz,cd,dxyz->xyz", maps.conj(), inverse, maps).real.sqrt()
        title = TITLES[kind].format(spokes=spokes, full=full)
    write_volume(FOLDER / f"{kind}_truth.nii.gz", truth[None], geometry_of((x, y, z), affine))
    return title, truth[None]


def run(kind: str, case: str, sampler: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Reconstruct a file by the command, and return what it wrote: the volume (1, X, Y, Z), and the record."""
    options: dict[str, Any] = {
        "config_file": [str(AXIAL / "configs/inference.json"), str(AXIAL / "configs/tasks/raw_mri.json")],
        "bundle_root": AXIAL,
        "auxiliary_bundle": "../brain_mr_t1_coronal",
        "image": FOLDER / f"{kind}.h5",
        "reference": FOLDER / f"{kind}_truth.nii.gz",
        "output_dir": FOLDER / kind,
        "case_name": case,
    }
    if sampler is not None:
        options["sampler"] = json.dumps(sampler)
    command = [sys.executable, "-m", "monai.bundle", "run"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    volume, _ = read_volume(FOLDER / kind / f"{case}_recon.nii.gz")
    return volume, json.loads((FOLDER / kind / f"{case}_recon.provenance.json").read_text())


class InProcess:
    """Reconstructs one file by many samplers: the file is read, and the coil maps are found, once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.measurement = self._config(None).get_parsed_content("dataset")[0]["image"]

    def __call__(self, sampler: dict[str, Any] | None, **options: Any) -> tuple[Tensor, Any]:
        """Return the magnitude (1, X, Y, Z) and the report; ``sampler`` None keeps the task's."""
        done = self._config(sampler, **options).get_parsed_content("inferer").reconstruct(self.measurement, case="grid")
        return done.volume.abs(), done.report

    def _config(self, sampler: dict[str, Any] | None, **options: Any) -> ConfigParser:
        config = ConfigParser()
        config.read_config([str(AXIAL / "configs/inference.json"), str(AXIAL / "configs/tasks/raw_mri.json")])
        given = {"bundle_root": str(AXIAL), "auxiliary_bundle": "../brain_mr_t1_coronal", "device": "cpu", **options}
        given |= {"image": str(FOLDER / f"{self.kind}.h5"), "reader": READERS[self.kind], "case_name": "grid"}
        config.update(given)
        if sampler is not None:
            config["sampler"] = sampler
        return config


def rivals(kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (method, setting, sampler) of the classical grid."""
    for weight, iterations in CG_GRID[kind]:
        sampler = {"name": "cg_least_squares", "weight": weight, "iterations": iterations}
        yield "CG-SENSE", f"weight {weight:g}, {iterations} iterations", sampler
    rho = TV_RHO[kind]
    for weight in TV_WEIGHTS[kind]:
        sampler = {"name": "admm_tv", "rho": rho, "threshold": weight / rho, **TV_ITERATIONS}
        yield "3D ADMM-TV", f"weight {weight:g}", sampler


def best_rivals(kind: str, truth: Tensor) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return method -> (setting, sampler) of the highest PSNR."""
    reconstruct, best = InProcess(kind), {}
    highest: dict[str, float] = {}
    for method, setting, sampler in rivals(kind):
        started = time.perf_counter()
        psnr = volume_metrics(reconstruct(sampler)[0], truth)["psnr"]
        print(f"  {kind}, {method}, {setting}: {psnr:.2f} dB, {time.perf_counter() - started:.0f} s", flush=True)
        if psnr > highest.get(method, 0.0):
            highest[method], best[method] = psnr, (setting, sampler)
    return best


def schedules(kind: str, truth: Tensor) -> None:
    """Print a grid of starts and sigma schedules."""
    reconstruct = InProcess(kind)
    starts = ("initial", {"name": "cg_least_squares", "iterations": 10})
    few = {"consistency": {"name": "conjugate_gradient", "iterations": 5}}
    grid = [(start, schedule, options) for start in starts for schedule in SCHEDULES for options in (few, {})]
    for start, (high, low, steps), options in grid:
        sampler = {"name": "pnp_hqs", "start": start, "sigma_start": high, "sigma_end": low, "steps": steps}
        started = time.perf_counter()
        volume, report = reconstruct(sampler, **options)
        m, seconds = volume_metrics(volume, truth), time.perf_counter() - started
        noise = from_tensor(reconstruct.measurement).noise_std / report.scale
        print(
            f"  {kind}, {start} {high:g} to {low:g} in {steps} {options or ''}: {m['psnr']:.2f} dB, "
            f"SSIM {m['ssim_axial']:.4f}, {m['ssim_coronal']:.4f}, {seconds:.0f} s; noise {noise:.4f}",
            flush=True,
        )


def main() -> None:
    """Simulate, reconstruct and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*TITLES, []], default=[], help="which files; default: both")
    parser.add_argument("--source", type=Path, default=ROOT / "examples" / "colin27_t1.nii.gz")
    parser.add_argument("--crop", type=int, nargs=6, default=(24, 31, 142, 136, 152, 24), help="first voxel, size")
    parser.add_argument("--schedules", action="store_true", help="a grid of starts and sigma schedules")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=FOLDER / "montage.png")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    magnitude, affine = part_of(args.source, tuple(args.crop))
    lines: list[str] = []
    for kind in args.kinds or TITLES:
        title, truth = simulate(kind, magnitude, affine)
        if args.schedules:
            schedules(kind, truth)
            continue
        rows = {"initial": ("", {"name": "initial"}), **best_rivals(kind, truth), "both planes": ("", None)}
        lines += [
            "",
            f"**{title}**",
            "",
            "| method | PSNR (dB) | SSIM axial | coronal | sagittal | network calls | seconds |",
            "|---|---|---|---|---|---|---|",
        ]
        shown, scores = {}, {}
        for method, (setting, sampler) in rows.items():
            volume, record = run(kind, method.lower().replace(" ", "_"), sampler)
            m = volume_metrics(volume, truth)
            shown[method], scores[method] = volume, m
            ssim = " | ".join(f"{m[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
            name = f"{method}, {setting}" if setting else method
            seconds = record["report"]["seconds"]
            lines.append(f"| {name} | {m['psnr']:.2f} | {ssim} | {record['report']['network_calls']} | {seconds:.0f} |")
            print(lines[-1], flush=True)
        picture = args.picture.with_name(f"{args.picture.stem}_{kind}.png")
        montage(shown, truth, picture, title=title, metrics=scores)
    if args.output is not None and lines:
        text = "\n".join([heading(args, magnitude), *lines]) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


def heading(args: argparse.Namespace, magnitude: Tensor) -> str:
    """Return what the numbers are of."""
    size = " x ".join(str(n) for n in magnitude.shape)
    return HEADING.format(
        source=args.source.name,
        size=size,
        first=tuple(args.crop[:3]),
        coils=COILS,
        noise=100 * NOISE,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
