# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What options of a run gain that need no training: whole reconstructions of validation subjects.

    python scripts/studies/run_time.py --work FOLDER [--data BRAIN_MR CT] [--tasks ...] [--table] [--output FILE.md]

BRAIN_MR and CT are folders of ``scripts/prepare_training_data.py``; without them the committed example is
reconstructed, which takes no part in any choice. What was computed is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from any_voxel_size import BODY, T1, Task, middle, volume_of
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import IntensityMap

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "colin27_t1.nii.gz"
Spec = dict[str, Any]
HEAD = """# Options of a run that need no training

`scripts/studies/run_time.py`: whole reconstructions of the middle of validation volumes with the settings of the tasks.
PSNR in dB, of a data range of 1 in network units. For each option: gain over the same run without it, mean / worst of
the subjects, and the time of the run in multiples of it, on a shared machine, so roughly. `chosen` is the noise in
multiples of the true one, or the part of the adaptation that was taken, for each subject. Measurements with noise do
not say how noisy they are: `none` takes them for exact. Volumes are 96 x 96 x 16 voxels (10 slices for the adaptation),
and 64 x 80 x 40 for thick slices.
"""
FOOT = """
- `flips` gains in MRI for each of the five subjects, though next to nothing for one of them; in CT not for each, and
  nothing for thick slices. It costs nothing.
- The weight of the data decides about noisy scans. Held-out views find the true noise of CT. Held-out points of k-space
  lean towards the data, since noise that is kept in one point does not show in another: two thirds to half of what the
  true noise gains. A scan whose noise is known should state it.
- The adaptation gains next to nothing for subjects like those that the networks were trained on. All that is learnt
  may make the loop diverge; the choice by another held-out part prevents that.
- Not measured: noise and adaptation of thick slices, and the adaptation to other contrasts and scanners, for which it
  is meant.

So `flips` is on in the task `accelerated_mri` of `brain_mr`; everything else is off by default.
"""


@dataclass(frozen=True)
class Kind:
    """A task, its noise, and the options that are tried.

    Attributes:
        bundle: name of the bundle.
        task: volumes and overlay.
        noise: of the measurement, relative to its root mean square.
        base: what all runs have.
        options: title -> what a run has beside it.
    """

    bundle: str
    task: Task
    options: Mapping[str, Spec]
    noise: float = 0.0
    base: Spec | None = None


FLIPS: dict[str, Spec] = {"flips": {"flips": True}}
#: For a measurement that does not say how noisy it is; levels are relative to its own.
NOISY: dict[str, Spec] = {
    "noise known": {"noise_std": 1.0},
    "noise tuned (0.25, 1, 4)": {"tune": {"option": "inferer#noise_std", "values": [0.25, 1.0, 4.0], "slices": 8}},
}
ADAPTED: dict[str, Spec] = {"adaptation": {"adaptation": {"slices": 10}}}
T2 = ("ljubx19_T2", "upenngbm_00002_T2_brain")
SIZE, RIVAL = (96, 96, 16), {"name": "cubic"}
MRI_8X = Task("T1, 8 times faster", "accelerated_mri", T1, RIVAL, SIZE)
THICK = Task("T1, 5 mm to 1 mm", "z_super_resolution", T1, RIVAL, (64, 80, 40))
CT_32 = Task("CT, 32 views", "sparse_view_ct", BODY, RIVAL, SIZE, 1.5)
TASKS = {
    "mr_8x": Kind("brain_mr", MRI_8X, FLIPS),
    "mr_8x_t2": Kind("brain_mr", replace(MRI_8X, title="T2, 8 times faster", volumes=T2), FLIPS),
    "mr_z": Kind("brain_mr", THICK, FLIPS),
    "ct_32": Kind("body_ct", CT_32, FLIPS),
    "mr_8x_adapt": Kind("brain_mr", replace(MRI_8X, size=(96, 96, 10)), ADAPTED),
    "mr_z_adapt": Kind("brain_mr", replace(THICK, size=(64, 64, 40)), ADAPTED),
    "ct_32_adapt": Kind("body_ct", replace(CT_32, size=(96, 96, 10)), ADAPTED),
    "mr_8x_noise": Kind("brain_mr", replace(MRI_8X, title="T1, 8 times faster, noise 10 %"), NOISY, 0.1),
    "mr_z_noise": Kind("brain_mr", replace(THICK, title="T1, 5 mm to 1 mm, noise 5 %"), NOISY, 0.05),
    "ct_32_noise": Kind("body_ct", replace(CT_32, title="CT, 32 views, noise 2 %"), NOISY, 0.02),
}


def example(task: Task) -> tuple[Tensor, tuple[float, float, float]]:
    """Return the middle of the committed example in network units, and its voxel size."""
    x, geometry = read_volume(EXAMPLE)
    return middle(x / torch.quantile(x[x > 0.02 * x.max()][::7], 0.995), task.size).clamp(0.0, 2.0), geometry.spacing


def run(kind: Kind, truth: Tensor, spacing: tuple[float, float, float], option: Spec) -> Spec:
    """Return PSNR, seconds and what was chosen of a reconstruction."""
    score = load_score_network(ROOT / "bundles" / kind.bundle)
    overrides = {"flips": False, **kind.task.overrides, **(kind.base or {}), "device": "cpu"}
    config = merged_config(
        ROOT / "bundles" / kind.bundle, task=kind.task.overlay, overrides=overrides, where=kind.task.title
    ).get()
    inferer = content_of(ConfigParser({**config, "score": score, "auxiliaries": []}), "inferer")
    inferer.progress = False
    intensity = dict(score.intensity)
    window = IntensityMap.window(**intensity) if intensity.pop("map") == "window" else None
    x = truth if window is None else window.to_physical(truth)
    geometry = geometry_of(x.shape[1:], np.diag([*spacing, 1.0]))
    how = Simulation(config["operator"], noise=kind.noise)
    measured, operator = simulate(x, geometry, how, unit=None if window is None else "HU")
    # The scan does not say how noisy it is.
    std, measured = measured.noise_std, replace(measured, simulated=True, noise_std=0.0)
    for name, value in option.items():
        tuned = name == "tune" and value["option"] == "inferer#noise_std"
        if tuned:
            value = {**value, "values": [level * std for level in value["values"]]}
        setattr(inferer, name, value * std if name == "noise_std" else value)
    start = time.monotonic()
    done = inferer.reconstruct(to_tensor(measured, image=operator.measured_geometry()), case="case")
    seconds, volume = time.monotonic() - start, done.volume.as_subclass(Tensor)
    volume = volume if window is None else window.to_network(volume)
    tune = done.report.options.get("tune") or done.report.options.get("adaptation") or {}
    relative = std if tune.get("option") == "inferer#noise_std" else 1.0
    return {
        "psnr": float(-10 * (volume - truth).square().mean().log10()),
        "seconds": seconds,
        "chosen": tune["chosen"] / relative if tune else None,
        "residuals": tune.get("residuals"),
    }


def table(kind: Kind, volumes: tuple[str, ...], found: Mapping[str, Spec]) -> list[str]:
    """Return a task as rows of Markdown, one an option; subjects that are not complete yet are left out."""
    volumes = tuple(v for v in volumes if all(f"{v} {name}" in found for name in ("plain", *kind.options)))
    if not volumes:
        return []
    plain = [found[f"{v} plain"] for v in volumes]
    mean = sum(p["psnr"] for p in plain) / len(plain)
    rows = [f"| {kind.task.title} | {len(volumes)} | none | {mean:.2f} dB | | |"]
    for name in kind.options:
        done = [found[f"{v} {name}"] for v in volumes]
        gains = [d["psnr"] - p["psnr"] for d, p in zip(done, plain, strict=True)]
        cost = sum(d["seconds"] for d in done) / sum(p["seconds"] for p in plain)
        chosen = ", ".join(f"{d['chosen']:g}" for d in done if d["chosen"] is not None)
        gain = f"{sum(gains) / len(gains):+.2f} / {min(gains):+.2f}"
        rows.append(f"| | | {name} | {gain} | {chosen} | {cost:.1f} |")
    return rows


def main() -> None:
    """Reconstruct, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs=2, metavar=("BRAIN_MR", "CT"), default=None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--table", action="store_true", help="only of what was computed before")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [HEAD, "| task | subjects | option | gain, mean / worst (dB) | chosen | time |", "|---" * 6 + "|"]
    for key in args.tasks:
        kind = TASKS[key]
        if args.data is None and kind.bundle != "brain_mr":
            continue
        volumes = kind.task.volumes if args.data is not None else ("example",)
        kept = args.work / f"{key}.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        for volume in volumes:
            folder = None if args.data is None else args.data[kind.bundle != "brain_mr"]
            truth, spacing = example(kind.task) if folder is None else volume_of(kind.task, volume, folder, EXAMPLE)
            for name, option in {"plain": {}, **kind.options}.items():
                if f"{volume} {name}" not in found and not args.table:
                    done = found[f"{volume} {name}"] = run(kind, truth, spacing, option)
                    print(f"{key} {volume} {name}: {done}", flush=True)
                    text = json.dumps(found, indent=1)
                    atomic_write(kept, lambda path, text=text: path.write_text(text))
        lines += table(kind, volumes, found)
    lines.append(FOOT.rstrip())
    print("\n".join(lines))
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text("\n".join([*lines, ""]), encoding="utf-8"))


if __name__ == "__main__":
    main()
