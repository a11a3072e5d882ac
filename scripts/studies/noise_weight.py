# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How much the noise of a measurement should count against the data, and how exactly they are solved for: PSNR.

    python scripts/studies/noise_weight.py DATA --work FOLDER [--write docs/results]

DATA is the folder of the volumes of ``scripts/validate_bundles.py``. The middle of a volume that selected settings
before is measured with noise, relative to the root mean square of the measurement, and reconstructed by the default of
its task with each ``consistency#noise_weight``, and by ADMM-TV at the best of three weights; of CT also with each
``consistency#iterations``. FOLDER keeps what was computed.
"""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai_diffrecon import load
from monai_diffrecon.comparison.volume_metrics import psnr
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume

CT, HEAD = "ct/totalseg_aorta_thorax", "mr/colin27_T1"
ROOT = Path(__file__).resolve().parents[2]
#: Title -> bundle, task, volume, voxels, options of the operator.
CASES: dict[str, tuple[str, str, str, tuple[int, ...], dict[str, Any]]] = {
    "CT, 20 views": ("body_ct", "sparse_view_ct", CT, (100, 100, 16), {"views": 20}),
    "CT, 60 views": ("body_ct", "sparse_view_ct", CT, (100, 100, 16), {"views": 60}),
    "CT, 90 degrees": ("body_ct", "limited_angle_ct", CT, (80, 80, 16), {}),
    "MRI, 8 times faster": ("brain_mr", "accelerated_mri", HEAD, (80, 96, 12), {}),
    "MRI, 5 mm to 1 mm": ("brain_mr", "z_super_resolution", HEAD, (80, 90, 40), {}),
}
NOISES, WEIGHTS = (0.001, 0.005, 0.02, 0.05), (1.0, 0.5, 0.25)
#: Of conjugate gradients, and the noises that they are compared at: without noise nothing but them holds the network.
ITERATIONS, FEW_NOISES = (5, 10, 20, 40), (0.0, 0.001, 0.005)
#: Of ADMM-TV, relative to the operator's norm.
TV, RHO = (0.0001, 0.001, 0.01), 0.02


class Case:
    """A measured volume at one level of noise."""

    def __init__(self, title: str, noise: float, data: Path) -> None:
        self.bundle, self.task, name, size, operator = CASES[title]
        voxels, read = read_volume(data / f"{name}.nii.gz")
        for axis, count in enumerate(size, start=1):
            voxels = voxels.narrow(axis, (voxels.shape[axis] - count) // 2, count)
        unit = "HU" if self.bundle == "body_ct" else "arbitrary"
        self.truth = (voxels.clamp(-1000.0, 1000.0) if unit == "HU" else voxels).contiguous()
        task = ROOT / "bundles" / self.bundle / "configs" / "tasks" / f"{self.task}.json"
        spec = json.loads(task.read_text())["operator"] | operator
        geometry = geometry_of(self.truth.shape[1:], affine_of(read))
        self.measurement, _ = simulate(self.truth, geometry, Simulation(spec, noise=noise), unit=unit)

    def psnr(self, **options: Any) -> float:
        """Return the PSNR of a method of the task, in dB."""
        made = load(self.bundle, task=self.task, **options).reconstruct(self.measurement)
        return psnr(made.volume, self.truth)


def weights(case: Case) -> dict[str, float]:
    """Return column -> PSNR for each weight of the noise, and of ADMM-TV."""
    tv = [{"sampler#rho": RHO, "sampler#threshold": weight / RHO, "sampler#iterations": 60} for weight in TV]
    found = {f"weight {w:g}": case.psnr(overrides={"consistency#noise_weight": w}) for w in WEIGHTS}
    return found | {"ADMM-TV": max(case.psnr(method="admm_tv", overrides=options) for options in tv)}


def iterations(case: Case) -> dict[str, float]:
    """Return column -> PSNR for each number of iterations."""
    return {f"{n} iterations": case.psnr(overrides={"consistency#iterations": n}) for n in ITERATIONS}


def table(
    measure: Callable[[Case], dict[str, float]],
    columns: Sequence[str],
    titles: Sequence[str],
    noises: Sequence[float],
    args: Namespace,
) -> list[str]:
    """Return lines of Markdown, a row a title and noise; rows are taken from the folder if they are there."""
    folder = args.work / measure.__name__
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"| task | noise | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for title in titles:
        for noise in noises:
            path = folder / f"{title.replace(' ', '_')}_{noise:g}.json"
            if not path.exists():
                write_json(path, measure(Case(title, noise, args.data)))
            found = json.loads(path.read_text())
            lines.append(f"| {title} | {noise:g} | {' | '.join(f'{found[name]:.2f}' for name in columns)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--write", type=Path, help="folder of the page")
    args = parser.parse_args()
    lines = [
        "# How much the noise counts",
        "",
        "Written by `scripts/studies/noise_weight.py`: PSNR (dB) of the default with each "
        "`consistency#noise_weight`, and of ADMM-TV (60 iterations, the best of the weights "
        f"{', '.join(f'{w:g}' for w in TV)}), on the middle of "
        "volumes that settings were chosen on. The noise is relative to the root mean square of the measurement.",
        "",
        *table(weights, [*(f"weight {w:g}" for w in WEIGHTS), "ADMM-TV"], args.cases, NOISES, args),
    ]
    if ct := [title for title in args.cases if title.startswith("CT")]:
        lines += ["", "## How exactly the data are solved for", ""]
        lines += ["The same of CT with each `consistency#iterations` and the noise weight of the task.", ""]
        lines += table(iterations, [f"{n} iterations" for n in ITERATIONS], ct, FEW_NOISES, args)
    if args.write:
        text = "\n".join(lines) + "\n"
        atomic_write(args.write / "noise_weight.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
