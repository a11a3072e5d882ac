# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Settings of a task, chosen by the mean PSNR of the validation subjects: one after the other, the best is kept.

    python scripts/studies/settings.py DATA --work FOLDER [--tasks mr_8x ct_32 ...] [--size 96 96 24]

DATA, and the tasks and their subjects, are those of ``scripts/validate_bundles.py``. A setting is changed if the mean
gains more than 0.02 dB; the others stay as the task has them. FOLDER gets a JSON file a task with everything that was
tried, and what was computed is not computed again. The example volume is never used.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from monai.bundle import ConfigParser

from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.atomic import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from validate_bundles import ROOT, TASKS, Task, write_part

LEAST_GAIN = 0.02
#: Key -> values beside that of the task.
THICK = {
    "sampler#steps": [20, 30, 40],
    "sampler#sigma_start": [0.15, 0.2, 0.5],
    "sampler#sigma_end": [0.01, 0.02, 0.05],
    "sampler#momentum": [0.5, 0.65, 0.9],
    "consistency#correlation": [0.4, 1.0, 1.4],
    "consistency#iterations": [3, 10],
    "perpendicular#K": [3, 10, "average"],
}
INTEGRALS = {
    "perpendicular#primary": [["axial", "coronal", "sagittal"], "coronal", "sagittal"],
    "sampler#steps": [20, 40],
    "sampler#sigma_start": [0.07, 0.1, 0.15, 0.2, 0.3],
    "sampler#sigma_end": [0.003, 0.005, 0.02],
    "sampler#momentum": [0.5, 0.65, 0.9],
    "consistency#iterations": [3, 10, 20],
    "perpendicular#K": [3, 1.5],
}


class Trial:
    """Reconstructions of the subjects of a task with settings.

    Args:
        task: the task.
        data: folder of the volumes.
        folder: gets the parts and what was tried.
    """

    def __init__(self, task: Task, data: Path, folder: Path) -> None:
        self.root, self.task, self.kept = ROOT / "bundles" / task.bundle, task, folder / "tried.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.tried: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.is_file() else {}
        self.parts = [folder / f"part{i}.nii.gz" for i in range(len(task.volumes))]
        for volume, part in zip(task.volumes, self.parts, strict=True):
            write_part(task, volume, data, part)

    def psnr(self, settings: dict[str, Any]) -> list[float]:
        """Return the PSNR (dB) of each subject, and keep it."""
        name = json.dumps(settings, sort_keys=True)
        if name not in self.tried:
            span = None if self.task.window is None else self.task.window[1] - self.task.window[0]
            found = []
            for part in self.parts:
                config = self.config()
                config.update({"image": str(part), **settings})
                case = config.get_parsed_content("dataset")[0]
                done = config.get_parsed_content("inferer").reconstruct(case["image"], case="part")
                found.append(volume_metrics(done.volume, case["reference"], span)["psnr"])
            self.tried[name] = found
            write_json(self.kept, self.tried)
            print(f"{self.task.title}: {settings}: {fmean(found):.3f} dB", flush=True)
        values: list[float] = self.tried[name]
        return values

    def config(self) -> ConfigParser:
        """Return the task's configuration."""
        config, overlay = ConfigParser(), self.root / f"configs/tasks/{self.task.overlay}.json"
        config.read_config([str(self.root / "configs/inference.json"), str(overlay)])
        given = {"bundle_root": str(self.root), "case_name": "part", "simulate": True, "inferer#progress": False}
        config.update({**given, **self.task.measure})
        return config


def search(trial: Trial, values: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the settings that differ from the task's, after one pass over the keys."""
    best: dict[str, Any] = {}
    for key, candidates in values.items():
        found = {repr(value): value for value in candidates}
        means = {name: fmean(trial.psnr({**best, key: value})) for name, value in found.items()}
        name = max(means, key=means.__getitem__)
        if means[name] > fmean(trial.psnr(best)) + LEAST_GAIN:
            best[key] = found[name]
    return best


def main() -> None:
    """Search, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--size", type=int, nargs=3, default=(96, 96, 24), help="most voxels of a part; thick: x 40")
    args = parser.parse_args()
    for name in args.tasks:
        thick = TASKS[name].overlay == "z_super_resolution"
        size = (*args.size[:2], 40) if thick else tuple(args.size)
        trial = Trial(replace(TASKS[name], size=size), args.data, args.work / name)
        best = search(trial, THICK if thick else INTEGRALS)
        pairs = list(zip(trial.psnr(best), trial.psnr({}), strict=True))
        gains = [after - before for after, before in pairs]
        print(f"{name}: {json.dumps(best)}: {fmean(gains):+.3f} dB, worst {min(gains):+.3f}", flush=True)
        write_json(args.work / name / "best.json", {"settings": best, "gains": gains})


if __name__ == "__main__":
    main()
