# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The shipped bundles against tuned classical methods on subjects that nobody trained on, all tasks in one command.

    python scripts/validate_bundles.py DATA --work FOLDER [--tasks ...] [--samples 4] [--output FILE.md]

DATA holds ``mr/`` and ``ct/``. For each task a part of the validation subject is measured, 3D ADMM-TV is tuned on that
measurement by the truth, and a cohort is evaluated (``diffrecon evaluate``): classical methods, each network alone, the
default, and samples for the calibration. FOLDER gets a report a task, ``index.html`` that joins them, and an MLflow
store with one run over all (``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``). What was computed is not
computed again.
"""

from __future__ import annotations

import argparse
import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation
from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.tracking.export_run import TrackedRun

ROOT = Path(__file__).resolve().parent.parent
BRAIN, BODY = ("brain_mr_t1_axial", "brain_mr_t1_coronal"), ("body_ct_axial", "body_ct_coronal")
DEFAULT, TUNED = "Both planes (default)", "3D ADMM-TV, tuned"
MOST_CALLS, SAMPLE_CALLS = 50, 16


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Attributes:
        title: for readers.
        overlay: name in ``configs/tasks``.
        volume: file under DATA.
        crop: first and end voxel of x, y, z.
        bundles: axial and coronal.
        rival: label of the method that the bar is over, and by how many dB.
        classical: label -> preset, besides the tuned total variation.
        rho: of ADMM, relative to ``||A^T A||``.
        window: intensities are clamped to it, and it is the data range.
        measure: overrides of the overlay that say what is measured.
        tuned_on: part on which ADMM-TV is tuned, when the whole takes too long.
    """

    title: str
    overlay: str
    volume: str
    crop: tuple[int, int, int, int, int, int]
    bundles: tuple[str, str]
    rival: tuple[str, float]
    classical: dict[str, str]
    rho: float
    window: tuple[float, float] | None = None
    measure: dict[str, Any] = field(default_factory=dict)
    tuned_on: tuple[int, int, int, int, int, int] | None = None


WHOLE = ("mr/ljubx19_T1.nii.gz", (0, 182, 0, 218, 0, 182), BRAIN)
HEAD = ("mr/ljubx19_T1.nii.gz", (20, 164, 24, 198, 60, 100), BRAIN)
CHEST = ("ct/totalseg_aorta_thorax.nii.gz", (0, 120, 0, 126, 56, 88), BODY)
WINDOW = (-1000.0, 1000.0)
FBP = {"Filtered back-projection": "fbp"}
TASKS = {
    "mr_z_sr": Task(
        "Brain MR, 5 mm to 1 mm",
        "z_super_resolution",
        *WHOLE,
        ("Cubic", 2.5),
        {"Cubic": "cubic"},
        0.3,
        tuned_on=HEAD[1],
    ),
    "mr_8x": Task("Brain MR, 8 times faster", "accelerated_mri", *HEAD, (TUNED, 3.0), {}, 0.3),
    "ct_32": Task(
        "Body CT, 32 views", "sparse_view_ct", *CHEST, (TUNED, 2.0), FBP, 0.1, WINDOW, {"operator#views": 32}
    ),
    "ct_8": Task("Body CT, 8 views", "sparse_view_ct", *CHEST, (TUNED, 1.5), FBP, 0.1, WINDOW, {"operator#views": 8}),
    "ct_90": Task("Body CT, 90 degrees", "limited_angle_ct", *CHEST, (TUNED, 2.0), FBP, 0.1, WINDOW),
}


def part_of(task: Task, data: Path, path: Path, crop: tuple[int, ...] | None = None) -> None:
    """Write the part of the subject that is measured, or another part."""
    volume, geometry = read_volume(data / task.volume)
    a, b, c, d, e, f = crop or task.crop
    volume = volume[:, a:b, c:d, e:f]
    if task.window is not None:
        volume = volume.clamp(*task.window)
    write_volume(path, volume.contiguous(), geometry_of(volume.shape[1:], affine_of(geometry)))


def tv(task: Task, weight: float, iterations: int, nonnegative: bool) -> dict[str, Any]:
    """Return the spec of 3D ADMM-TV; the weight is lambda over ``||A^T A||`` in network units."""
    return {
        "name": "admm_tv",
        "rho": task.rho,
        "threshold": weight / task.rho,
        "iterations": iterations,
        "nonnegative": nonnegative,
    }


def tuned_tv(task: Task, part: Path, kept: Path) -> dict[str, Any]:
    """Return the spec of the ADMM-TV that is nearest to the truth: weight, then constraint, then iterations.

    The weight goes by factors of the root of 10 until it has a maximum with a worse weight on either side, then by the
    root of that around it.
    """
    root = ROOT / "bundles" / task.bundles[0]
    config = ConfigParser()
    config.read_config([str(root / "configs/inference.json"), str(root / f"configs/tasks/{task.overlay}.json")])
    config.update({"bundle_root": str(root), "image": str(part), "case_name": "part", **task.measure})
    config.update({"consistency": {"name": "none"}, "sampler": {"name": "initial"}})
    measured = config.get_parsed_content("dataset")[0]
    span = None if task.window is None else task.window[1] - task.window[0]
    tried: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}

    def psnr(weight: float, iterations: int = 150, nonnegative: bool = True) -> float:
        name = f"{weight:.3g} {iterations} {nonnegative}"
        if name not in tried:
            config.update({"sampler": tv(task, weight, iterations, nonnegative)})
            inferer = config.get_parsed_content("inferer")
            done = inferer.reconstruct(measured["image"], case="part")
            tried[name] = volume_metrics(done.volume, measured["reference"], span)["psnr"]
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
    options = [(n, c) for c in (True, False) for n in (30, 60, 150, 400)]
    weight = 10 ** (best / 2)
    iterations, constrained = max(options, key=lambda o: psnr(weight, *o))
    if iterations == 400 and psnr(weight, 1000, constrained) > psnr(weight, 400, constrained):
        iterations = 1000
    return tv(task, weight, iterations, constrained)


def cohort_of(task: Task, part: Path, rival: dict[str, Any], samples: int) -> dict[str, Any]:
    """Return the cohort's file."""

    def method(label: str, plane: int = 0, **more: Any) -> dict[str, Any]:
        overrides = {**task.measure, **more.pop("overrides", {})}
        bundle = str(ROOT / "bundles" / task.bundles[plane])
        return {"label": label, "bundle": bundle, "task": task.overlay, "overrides": overrides, **more}

    both = {"auxiliary_bundle": f"../{task.bundles[1]}"}
    methods = [method(label, preset=preset) for label, preset in task.classical.items()]
    methods += [
        method(TUNED, preset="admm_tv", overrides={"sampler": rival}),
        method("Axial network alone", overrides={"prior": "slices"}),
        method("Coronal network alone", 1, overrides={"prior": "slices"}),
        method(DEFAULT, **both),
    ]
    if samples > 1 and task.tuned_on is None:
        drawn = {"num_samples": samples, "calls": SAMPLE_CALLS}
        methods.append(method(f"Mean of {samples} samples", preset="posterior", overrides=drawn, **both))
    cohort: dict[str, Any] = {
        "title": task.title,
        "cases": [{"image": str(part), "name": "validation"}],
        "methods": methods,
        "baseline": task.rival[0],
    }
    return cohort if task.window is None else {**cohort, "data_range": task.window[1] - task.window[0]}


def verdicts(task: Task, rows: dict[str, CaseRow]) -> list[tuple[str, bool]]:
    """Return what was asked for with what was found, and whether it holds."""
    default, (name, bar) = rows[DEFAULT], task.rival
    gain = default.value("psnr") - rows[name].value("psnr")
    alone = [r for label, r in rows.items() if label.endswith("alone")]
    above = min(default.value("psnr") - r.value("psnr") for r in alone)
    calls = default.value("denoiser_calls")
    found = [
        (f"{gain:+.2f} dB over {name} (target: {bar:+.1f})", gain >= bar),
        (f"{above:+.2f} dB over the better single network", above >= 0),
        (f"{calls:.0f} network calls per slice (at most {MOST_CALLS})", calls <= MOST_CALLS),
    ]
    if name == "Cubic":
        classical = [r for label, r in rows.items() if label in (*task.classical, TUNED)]
        planes = [f"ssim_{plane}" for plane in ("axial", "coronal", "sagittal")]
        least = min(default.value(p) - r.value(p) for p in planes for r in classical)
        found.append((f"SSIM {least:+.4f} over the best classical method in the worst plane", least > 0))
    return found


def table(task: Task, rows: list[CaseRow], rival: dict[str, Any]) -> list[str]:
    """Return a task as lines of Markdown."""
    size = " x ".join(str(b - a) for a, b in zip(task.crop[::2], task.crop[1::2], strict=True))
    weight = rival["threshold"] * rival["rho"]
    lines = [
        f"### {task.title}",
        "",
        f"`{task.overlay}`, {Path(task.volume).name.split('.')[0]}, {size} voxels from "
        f"{', '.join(map(str, task.crop[::2]))}. ADMM-TV: weight {weight:.2g}, {rival['iterations']} iterations"
        f"{', no negative values' if rival['nonnegative'] else ''}"
        f"{'' if task.tuned_on is None else f', tuned on voxels {list(task.tuned_on)}'}.",
        "",
        "| method | calls | PSNR (dB) | SSIM axial | coronal | sagittal | 90 % interval holds | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ssim = " | ".join(f"{row.value(f'ssim_{p}'):.4f}" for p in ("axial", "coronal", "sagittal"))
        held = row.value("coverage_90")
        lines.append(
            f"| {row.method} | {row.value('denoiser_calls'):.0f} | {row.value('psnr'):.2f} | {ssim} "
            f"| {'' if held != held else f'{100 * held:.0f} %'} | {row.value('seconds'):.0f} |"
        )
    found = verdicts(task, {row.method: row for row in rows})
    return [*lines, "", *(f"- {'met' if holds else '**missed**'}: {text}" for text, holds in found), ""]


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
            part = folder / "part.nii.gz"
            if not part.exists():
                part_of(task, args.data, part)
            tuning = part if task.tuned_on is None else folder / "tuning.nii.gz"
            if not tuning.exists():
                part_of(task, args.data, tuning, task.tuned_on)
            rival = tuned_tv(task, tuning, folder / "admm_tv.json")
            write_json(folder / "cohort.json", cohort_of(task, part, rival, args.samples))
            evaluation = CohortEvaluation(
                folder / "cohort.json",
                folder,
                tracking_uri=store,
                experiment="validation",
                parent_run_id=run.run_id,
            )
            rows = evaluation.run()
            texts[name] = table(task, rows, rival)
            print("\n".join(texts[name]), flush=True)
            (picture,) = (folder / "montages").glob("*.png")
            atomic_write(folder / "montage.png", lambda path, picture=picture: path.write_bytes(picture.read_bytes()))
            for file in (evaluation.report, folder / "montage.png"):
                run.log_artifact(file, name)
            psnr = {row.method: row.value("psnr") for row in rows}
            run.log_metrics({f"gain/{name}": psnr[DEFAULT] - psnr[task.rival[0]]})
        index = args.work / "index.html"
        atomic_write(index, lambda path: path.write_text(page(texts), encoding="utf-8"))
        run.log_artifact(index)
    head = [
        "# Results on validation subjects",
        "",
        f"`scripts/validate_bundles.py`, {torch.get_num_threads()} threads. These subjects are not in the training "
        "data; the default settings were chosen on them. No noise is added. 3D ADMM-TV uses the weight, constraint and "
        "number of iterations that are best by the ground truth. Calls are network calls per slice. Sampling a whole "
        "volume takes long; samples for 5 mm slices are in [docs/studies/uncertainty.md](../studies/uncertainty.md).",
        "",
    ]
    if args.output is not None:
        text = "\n".join([*head, *(line for lines in texts.values() for line in lines)])
        args.output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.output, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
