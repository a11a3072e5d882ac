# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the shipped bundles keep, blur and invent, against other methods: a study of image quality for each task.

    python scripts/studies/image_quality.py --work FOLDER [--tasks ct_32 mr_8x thick] [--methods Default Conservative]
        [--workers 2] [--output FILE.md]

No data is needed: the phantoms are drawn. FOLDER gets a report for each task (``TASK/image_quality.html``); FILE.md the
summaries, with a picture of lesions beside it for each task. What was reconstructed is not reconstructed again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.evaluation.image_quality.study.runner import QualityStudy
from monai_diffrecon.io.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[2]
TUNED = "ADMM-TV"
#: Weights of the rival; the best by PSNR is taken.
THRESHOLDS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
_Z_TV: dict[str, Any] = {
    "prior": {"name": "slices"},
    "consistency": {"name": "admm", "rho": 0.026, "regularizers": [{"name": "z_tv", "threshold": 0.004}]},
}
#: For a small head: MS lesions, a bleed, a vessel.
_SMALL = [
    *({"kind": "ms_lesion", "diameter": d, "contrast": c} for d in (4.0, 6.0, 8.0) for c in (-100.0, -250.0)),
    {"kind": "bleed", "diameter": 4.0, "contrast": -500.0},
    {"kind": "vessel", "diameter": 2.0, "contrast": -250.0},
]


def methods(bundle: str, task: str, classical: tuple[str, str], levels: int = 100) -> list[dict[str, Any]]:
    """Return the six methods, and the classical estimate for comparison.

    Args:
        bundle: name of the bundle.
        task: of the bundle.
        classical: label and preset of the classical estimate.
        levels: noise levels of TPDM's predictor-corrector; the published 2000 would take half a day on two cores.
    """
    common = {"bundle": str(ROOT / "bundles" / bundle), "task": task}
    return [
        {"label": "Default", **common},
        {"label": "Conservative", **common, "preset": "conservative"},
        {"label": "One plane, z-TV", **common, "overrides": _Z_TV},
        {"label": TUNED, **common, "preset": "admm_tv", "overrides": {"sampler#iterations": 100}},
        {"label": "DDS", **common, "preset": "dds"},
        {
            "label": f"TPDM, {levels} levels",
            **common,
            "preset": "tpdm",
            "overrides": {"sampler#steps": levels},
        },
        {"label": classical[0], **common, "preset": classical[1]},
    ]


TASKS: dict[str, dict[str, Any]] = {
    "ct_32": {
        "title": "CT, 32 views with photon noise",
        "modality": "CT",
        "grid": {"shape": [96, 96, 24], "spacing": 1.5},
        "phantoms": [
            {"name": "lesions", "most": 64},
            "uniform",
            {"name": "rods", "realizations": 1},
        ],
        "methods": methods("body_ct", "sparse_view_ct", ("FBP", "fbp")),
        "simulate": {"photons": 1e6},
        "focus": {"lesion": "nodule", "diameter": 4.0, "contrast": 40.0},
        "data_range": 2000,
    },
    "mr_8x": {
        "title": "MRI, 8 times faster, with noise",
        "modality": "MR",
        "grid": {"shape": [96, 112, 16], "spacing": 1.4},
        "phantoms": [
            {"name": "lesions", "most": 64},
            "uniform",
            {"name": "rods", "realizations": 1, "contrasts": [-100, -300, 300]},
        ],
        "methods": methods("brain_mr", "accelerated_mri", ("Least squares", "cg_least_squares")),
        "simulate": {"noise": 0.02},
    },
    "thick": {
        "title": "MR, slices of 5 mm to 1 mm",
        "modality": "MR",
        "grid": {"shape": [80, 96, 40], "spacing": 1.0},
        "phantoms": [
            {"name": "lesions", "most": 64, "lesions": _SMALL},
            {"name": "uniform", "realizations": 1},
            {"name": "rods", "realizations": 1, "contrasts": [-300], "diameter": 18, "axis": 0},
        ],
        "methods": methods("brain_mr", "z_super_resolution", ("Cubic", "cubic"), 30),
        "simulate": {"noise": 0.01},
    },
}


def tuned(content: dict[str, Any], work: Path, executor: Any) -> dict[str, Any]:
    """Return a study with the weight of ADMM-TV that is best by the PSNR of another phantom with lesions.

    Args:
        content: of the study.
        work: folder for the trials.
        executor: what runs them.
    """
    (rival,) = (method for method in content["methods"] if method["label"] == TUNED)
    trials = [
        {**rival, "label": str(threshold), "overrides": {**rival["overrides"], "sampler#threshold": threshold}}
        for threshold in THRESHOLDS
    ]
    lesions = [phantom for phantom in content["phantoms"] if isinstance(phantom, dict) and phantom["name"] == "lesions"]
    few = {"phantoms": lesions, "realizations": 1, "metrics": [], "seed": 1000, "methods": trials}
    study = QualityStudy({**content, **few}, work, track=False, executor=executor)
    study.run()
    psnr = {
        label: [r.value("psnr") for r in study.evaluation.rows if r.method == label] for label in map(str, THRESHOLDS)
    }
    best = max(THRESHOLDS, key=lambda threshold: fmean(psnr[str(threshold)]))
    print(f"{TUNED}: weight {best:g}")
    chosen = {**rival, "overrides": {**rival["overrides"], "sampler#threshold": best}}
    return {**content, "methods": [chosen if method is rival else method for method in content["methods"]]}


def draw(measured: Measured, path: Path) -> None:
    """Draw the lesions of the truth and of all methods, on one grey scale."""
    found = {label: picture for label in measured.labels if (picture := measured.picture(label, "lesions")) is not None}
    first = next(iter(found.values()))
    assert first.reference is not None
    rows = {"Truth": first.reference, **{label: picture.image for label, picture in found.items()}}
    low, high = np.quantile(first.reference, [0.005, 0.995])
    figure, axes = plt.subplots(len(rows), 1, figsize=(9.0, 1.0 * len(rows)), layout="constrained")
    for axis, (label, image) in zip(axes, rows.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=low - 0.3 * (high - low), vmax=high + 0.3 * (high - low))
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    width = first.reference.shape[1] / len(first.columns)
    captions = [column.replace(" ", "\n", 1).replace("_", " ") for column in first.columns]
    axes[0].set_xticks([(i + 0.5) * width for i in range(len(captions))], captions, fontsize=7)
    axes[0].xaxis.tick_top()
    axes[0].tick_params(length=0)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", metavar="LABEL", help="only these; all by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    parts = []
    for name in arguments.tasks:
        begun = time.monotonic()
        executor = {"name": "processes", "workers": arguments.workers} if arguments.workers > 1 else "serial"
        content, wanted = TASKS[name], arguments.methods
        if wanted is not None:
            content = {**content, "methods": [m for m in content["methods"] if m["label"] in wanted]}
        if wanted is None or TUNED in wanted:
            content = tuned(content, arguments.work / f"{name}_tuning", executor)
        study = QualityStudy(content, arguments.work / name, track=False, executor=executor)
        study.run()
        minutes = (time.monotonic() - begun) / 60
        print(f"{study.report}: {minutes:.1f} min")
        summary = (study.output_dir / "summary.md").read_text(encoding="utf-8")
        parts.append(f"## {TASKS[name]['title']}\n\n{summary}")
        if arguments.output is not None and study.measured is not None:
            picture = arguments.output.with_name(f"{arguments.output.stem}_{name}.png")
            draw(study.measured, picture)
            parts.append(f"![Lesions: the truth, and as reconstructed]({picture.name})\n")
    if arguments.output is not None:
        about = (
            "`scripts/studies/image_quality.py`: phantoms with lesions that no network was trained on, drawn by a "
            "seed. [Judging image quality](../image_quality.md) says what words and numbers mean.\n"
        )
        text = "\n".join(["# Image quality of the shipped bundles\n", about, *parts])
        atomic_write(arguments.output, lambda temporary: temporary.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
