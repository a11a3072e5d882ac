# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The shipped bundles against tuned classical methods on subjects that nobody trained on, all tasks in one command.

    python scripts/validate_bundles.py DATA --work FOLDER [--tasks ...] [--samples 4] [--output FILE.md]

DATA holds ``mr/``, ``mr_other/`` and ``ct/``. For each task the middle of three validation subjects is measured, 3D
ADMM-TV is tuned by the truth on the mean of them, and a cohort is evaluated (``diffrecon evaluate``): classical
methods, one plane alone, the default, and samples for the calibration. FOLDER gets a report a task, ``index.html`` that
joins them, and an MLflow store with one run over all (``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``).
What was computed is not computed again.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Spacing

from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking.export_run import TrackedRun

ROOT = Path(__file__).resolve().parent.parent
DEFAULT, ALONE, TUNED = "Three planes (default)", "One plane alone", "3D ADMM-TV, tuned"
MOST_CALLS, SAMPLE_CALLS = 40, 16
#: Iterations of the rival; more as long as they help.
ITERATIONS = (30, 60, 150, 400, 1000)


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Attributes:
        title: for readers.
        overlay: name in ``configs/tasks``.
        bundle: name of the bundle.
        volumes: files under DATA without ``.nii.gz``, each of another scan.
        size: most voxels of x, y, z of the part that is measured, around the centre of the foreground.
        rival: label of the method that the bar is over, and by how many dB of the mean.
        classical: label -> preset, besides the tuned total variation.
        rho: of ADMM, relative to ``||A^T A||``.
        window: intensities are clamped to it, and it is the data range.
        measure: overrides of the overlay that say what is measured.
        first: first voxel of the part, instead of around the centre.
        spacing: voxel size in mm that the volume is resampled to, along each axis; None keeps its own.
    """

    title: str
    overlay: str
    bundle: str
    volumes: tuple[str, ...]
    size: tuple[int, int, int]
    rival: tuple[str, float]
    classical: dict[str, str] = field(default_factory=dict)
    rho: float = 0.3
    window: tuple[float, float] | None = None
    measure: dict[str, Any] = field(default_factory=dict)
    first: tuple[int, int, int] | None = None
    spacing: float | None = None


T1 = ("mr/ljubx19_T1", "mr/fnndsc_eun_T1", "mr/fsformats_T1_brain")
T2_FLAIR = ("mr/ljubx19_T2", "mr/upenngbm_00002_T2_brain", "mr/ljubx19_FLAIR")
BODY = ("ct/totalseg_aorta_thorax", "ct/4dlung_113HM10395_chest", "ct/nsclcrg_R01001_upper")
HEAD, CHEST = (144, 176, 40), (128, 128, 32)
WINDOW = (-1000.0, 1000.0)
CUBIC, FBP = {"Cubic": "cubic"}, {"Filtered back-projection": "fbp"}
FINE = {"operator#thickness": 4.5, "operator#target_spacing": 1.5}
TASKS = {
    "mr_z_sr": Task("T1, 5 mm to 1 mm", "z_super_resolution", "brain_mr", T1, HEAD, ("Cubic", 3.2), CUBIC),
    "mr_fine": Task(
        "Prostate T2, 0.66 x 0.66 mm, 4.5 mm to 1.5 mm",
        "z_super_resolution",
        "brain_mr",
        ("mr_other/prostateusbx_0001_T2",),
        (160, 160, 42),
        ("Cubic", 2.0),
        CUBIC,
        measure=FINE,
    ),
    "mr_8x": Task("T1, 8 times faster", "accelerated_mri", "brain_mr", T1, HEAD, (TUNED, 4.2)),
    "mr_8x_t2_flair": Task("T2 and FLAIR, 8 times faster", "accelerated_mri", "brain_mr", T2_FLAIR, HEAD, (TUNED, 3.0)),
    "ct_32": Task(
        "CT, 32 views",
        "sparse_view_ct",
        "body_ct",
        BODY,
        CHEST,
        (TUNED, 4.2),
        FBP,
        0.1,
        WINDOW,
        {"operator#views": 32},
        spacing=1.5,
    ),
    "ct_8": Task(
        "CT, 8 views",
        "sparse_view_ct",
        "body_ct",
        BODY,
        CHEST,
        (TUNED, 3.2),
        FBP,
        0.1,
        WINDOW,
        {"operator#views": 8},
        spacing=1.5,
    ),
    "ct_90": Task(
        "CT, 90 degrees", "limited_angle_ct", "body_ct", BODY, CHEST, (TUNED, 4.2), FBP, 0.1, WINDOW, spacing=1.5
    ),
}


def write_part(task: Task, volume: str, data: Path, path: Path) -> None:
    """Write the part of a subject that is measured."""
    voxels, geometry = read_volume(data / f"{volume}.nii.gz")
    affine = affine_of(geometry)
    if task.spacing is not None:
        resample = Spacing(pixdim=(task.spacing,) * 3, mode=3)
        resampled = resample(MetaTensor(voxels, affine=torch.as_tensor(affine)))
        voxels, affine = resampled.as_subclass(torch.Tensor), np.asarray(resampled.affine)
    if task.window is not None:
        voxels = voxels.clamp(*task.window)
    low, high = float(voxels.min()), float(voxels.max())
    centre = (voxels[0] > low + 0.1 * (high - low)).nonzero().float().mean(0)
    for axis, (c, size, most) in enumerate(zip(centre.tolist(), voxels.shape[1:], task.size, strict=True)):
        start = min(max(round(c) - most // 2, 0), max(size - most, 0)) if task.first is None else task.first[axis]
        voxels = voxels.narrow(1 + axis, start, min(size, most))
    write_volume(path, voxels.contiguous(), geometry_of(voxels.shape[1:], affine))


def tv(task: Task, weight: float, iterations: int, nonnegative: bool) -> dict[str, Any]:
    """Return the spec of 3D ADMM-TV; the weight is lambda over ``||A^T A||`` in network units."""
    return {
        "name": "admm_tv",
        "rho": task.rho,
        "threshold": weight / task.rho,
        "iterations": iterations,
        "nonnegative": nonnegative,
    }


def tuned_tv(task: Task, parts: Sequence[Path], kept: Path) -> dict[str, Any]:
    """Return the spec of the ADMM-TV of the highest mean PSNR: weight, then constraint, then iterations.

    The weight goes by factors of the root of 10 until it has a maximum with a worse weight on either side, then by the
    root of that around it.
    """
    root = ROOT / "bundles" / task.bundle
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / f"configs/tasks/{task.overlay}.json")])
    config.update({"bundle_root": str(root), "case_name": "part", "simulate": True, **task.measure})
    config.update({"consistency": {"name": "none"}, "sampler": {"name": "initial"}})
    measured = []
    for part in parts:
        config.update({"image": str(part)})
        measured.append(config.get_parsed_content("dataset")[0])
    span = None if task.window is None else task.window[1] - task.window[0]
    tried: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}

    def psnr(weight: float, iterations: int = 150, nonnegative: bool = True) -> float:
        name = f"{weight:.3g} {iterations} {nonnegative}"
        if name not in tried:
            config.update({"sampler": tv(task, weight, iterations, nonnegative)})
            inferer = config.get_parsed_content("inferer")
            volumes = [inferer.reconstruct(one["image"], case="part").volume for one in measured]
            pairs = zip(volumes, measured, strict=True)
            tried[name] = fmean(volume_metrics(volume, one["reference"], span)["psnr"] for volume, one in pairs)
            print(f"  ADMM-TV weight {weight:.3g}, {iterations} iterations: {tried[name]:.2f} dB", flush=True)
            write_json(kept, tried)
        return tried[name]

    best = -5.0  # exponent of the root of 10
    for step in (1.0, 0.5):
        while True:
            nearby = {e: psnr(10 ** (e / 2)) for e in (best - step, best, best + step)}
            if max(nearby, key=nearby.__getitem__) == best:
                break
            best = max(nearby, key=nearby.__getitem__)
    weight, options = 10 ** (best / 2), []
    for constrained in (True, False):
        numbers = [30]
        while len(numbers) < len(ITERATIONS) and psnr(weight, numbers[-1], constrained) >= max(
            psnr(weight, n, constrained) for n in numbers
        ):
            numbers.append(ITERATIONS[len(numbers)])
        options += [(n, constrained) for n in numbers]
    iterations, constrained = max(options, key=lambda o: psnr(weight, *o))
    return tv(task, weight, iterations, constrained)


def cohort_of(task: Task, parts: Sequence[Path], rival: dict[str, Any], samples: int) -> dict[str, Any]:
    """Return the cohort's file."""

    def method(label: str, **more: Any) -> dict[str, Any]:
        overrides = {**task.measure, **more.pop("overrides", {})}
        bundle = str(ROOT / "bundles" / task.bundle)
        return {"label": label, "bundle": bundle, "task": task.overlay, "overrides": overrides, **more}

    methods = [method(label, preset=preset) for label, preset in task.classical.items()]
    methods += [
        method(TUNED, preset="admm_tv", overrides={"sampler": rival}),
        method(ALONE, overrides={"prior": "slices"}),
        method(DEFAULT),
    ]
    if samples > 1:
        drawn = {"num_samples": samples, "calls": SAMPLE_CALLS}
        methods.append(method(f"Mean of {samples} samples", preset="posterior", overrides=drawn))
    cohort: dict[str, Any] = {
        "title": task.title,
        "cases": [{"image": str(part), "name": f"validation{i}"} for i, part in enumerate(parts)],
        "methods": methods,
        "baseline": task.rival[0],
    }
    return cohort if task.window is None else {**cohort, "data_range": task.window[1] - task.window[0]}


Rows = dict[str, list[CaseRow]]


def mean(rows: list[CaseRow], key: str) -> float:
    """Return the mean of a metric over the cases."""
    return fmean(row.value(key) for row in rows)


def gains(task: Task, rows: Rows) -> list[float]:
    """Return by how many dB the default exceeds the rival, for each case."""
    pairs = zip(rows[DEFAULT], rows[task.rival[0]], strict=True)
    return [default.value("psnr") - rival.value("psnr") for default, rival in pairs]


def verdicts(task: Task, rows: Rows) -> list[tuple[str, bool]]:
    """Return what was asked for with what was found, and whether it holds."""
    (name, bar), gained = task.rival, gains(task, rows)
    above = mean(rows[DEFAULT], "psnr") - mean(rows[ALONE], "psnr")
    calls = max(row.value("denoiser_calls") for row in rows[DEFAULT])
    return [
        (f"{fmean(gained):+.2f} dB over {name}, worst {min(gained):+.2f} (target: {bar:+.1f})", fmean(gained) >= bar),
        (f"{above:+.2f} dB over one plane alone", above >= 0),
        (f"{calls:.0f} network calls per slice (at most {MOST_CALLS})", calls <= MOST_CALLS),
    ]


def table(task: Task, rows: Rows, rival: dict[str, Any]) -> list[str]:
    """Return a task as lines of Markdown."""
    size, weight = " x ".join(map(str, task.size)), rival["threshold"] * rival["rho"]
    lines = [
        f"### {task.title}",
        "",
        f"`{task.bundle}`, `{task.overlay}`, at most {size} voxels of {', '.join(Path(v).name for v in task.volumes)}"
        f"{'' if task.spacing is None else f', resampled to {task.spacing:g} mm'}. "
        f"ADMM-TV: weight {weight:.2g}, {rival['iterations']} iterations"
        f"{', no negative values' if rival['nonnegative'] else ''}.",
        "",
        "| method | calls | PSNR (dB) | worst | SSIM axial | coronal | sagittal | 90 % interval holds | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, cases in rows.items():
        ssim = " | ".join(f"{mean(cases, f'ssim_{p}'):.4f}" for p in ("axial", "coronal", "sagittal"))
        held, worst = mean(cases, "coverage_90"), min(row.value("psnr") for row in cases)
        lines.append(
            f"| {label} | {mean(cases, 'denoiser_calls'):.0f} | {mean(cases, 'psnr'):.2f} | {worst:.2f} | {ssim} "
            f"| {'' if held != held else f'{100 * held:.0f} %'} | {mean(cases, 'seconds'):.0f} |"
        )
    return [*lines, "", *(f"- {'met' if holds else '**missed**'}: {text}" for text, holds in verdicts(task, rows)), ""]


def page(lines: dict[str, list[str]]) -> str:
    """Return the page that joins the reports."""
    body = "".join(
        f'<section><h2><a href="{name}/report.html">{html.escape(TASKS[name].title)}</a></h2>'
        + "".join(f"<p>{html.escape(line[2:].replace('**', ''))}</p>" for line in text if line.startswith("- "))
        + f'<img src="{name}/montage.png" alt="{html.escape(TASKS[name].title)}"></section>'
        for name, text in lines.items()
    )
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "img{max-width:100%}p{margin:.2rem 0}"
    )
    title = "Results on validation subjects"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        f"<h1>{title}</h1>{body}</html>\n"
    )


def main() -> None:
    """Tune, evaluate, and write pages and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--samples", type=int, default=4, help="draws for the calibration; 1 for none")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{args.work.resolve()}/mlflow.db"
    texts: dict[str, list[str]] = {}
    with TrackedRun(args.work, "validation", track=True, experiment="validation", tracking_uri=store) as run:
        for name in args.tasks:
            task, folder = TASKS[name], args.work / name
            folder.mkdir(exist_ok=True)
            print(task.title, flush=True)
            parts = [folder / f"part{i}.nii.gz" for i in range(len(task.volumes))]
            for volume, part in zip(task.volumes, parts, strict=True):
                if not part.exists():
                    write_part(task, volume, args.data, part)
            rival = tuned_tv(task, parts, folder / "admm_tv.json")
            write_json(folder / "cohort.json", cohort_of(task, parts, rival, args.samples))
            evaluation = CohortEvaluation(
                folder / "cohort.json",
                folder,
                tracking_uri=store,
                experiment="validation",
                parent_run_id=run.run_id,
            )
            found = evaluation.run()
            rows = {label: [row for row in found if row.method == label] for label in {row.method: 0 for row in found}}
            texts[name] = table(task, rows, rival)
            print("\n".join(texts[name]), flush=True)
            picture = sorted((folder / "montages").glob("*.png"))[0].read_bytes()
            atomic_write(folder / "montage.png", lambda path, picture=picture: path.write_bytes(picture))  # type: ignore[misc]
            for file in (evaluation.report, folder / "montage.png"):
                run.log_artifact(file, name)
            run.log_metrics({f"gain/{name}": fmean(gains(task, rows)), f"worst_gain/{name}": min(gains(task, rows))})
        index = args.work / "index.html"
        atomic_write(index, lambda path: path.write_text(page(texts), encoding="utf-8"))
        run.log_artifact(index)
    head = [
        "# Results on validation subjects",
        "",
        f"`scripts/validate_bundles.py`, {torch.get_num_threads()} threads. These subjects are not in the training "
        "data; the default settings were chosen on some of them. No noise is added. PSNR, SSIM and seconds are means "
        "over the subjects. 3D ADMM-TV uses the weight, constraint and number of iterations that are best by the mean "
        "of the ground truths. Calls are network calls per slice.",
        "",
    ]
    if args.output is not None:
        text = "\n".join([*head, *(line for lines in texts.values() for line in lines)])
        args.output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.output, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
