# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Ablation of 2D priors: order of planes, z-TV, network calls, phantoms across slices, another contrast.

    python scripts/studies/priors.py VOLUME.nii.gz [--crop X0 X1 Y0 Y1 Z0 Z1] [--contrast OTHER.nii.gz]
        [--studies k_sweep planes z_tv calls phantoms contrast] [--output docs/studies/priors.md]

A finished study is kept in ``outputs/priors`` and not repeated for the same volume, voxels and threads, unless
``--again`` is given; the output joins all there are. Pictures are written beside the output. The bundles must not have
seen the volumes in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from planes import ROOT, TASKS, parsed, turns
from torch import Tensor

from monai_diffrecon.comparison.dark_canvas import BACKGROUND, FAINT, TEXT, DarkCanvas
from monai_diffrecon.comparison.montage import EDGES, montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.protocols import PLANE_AXIS
from monai_diffrecon.testing.phantoms.stress import branching_vessels, twisting_tube

FOLDER = ROOT / "outputs" / "priors"
Z_TV = {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.002}]}
PHANTOM_SHAPE = (96, 96, 40)
PHANTOMS: dict[str, Callable[[], Tensor]] = {
    "vessels": lambda: branching_vessels(PHANTOM_SHAPE, seed=2),
    "tube": lambda: twisting_tube(PHANTOM_SHAPE),
}
STEPS, MOMENTA = (4, 8, 12, 20, 30, 50), (0.0, 0.8)
#: Two decades about that of the preset dds.
THRESHOLDS = (0.0004, 0.0013, 0.004, 0.013, 0.04)
TURNS: dict[str, int | float | str] = {
    **{str(k): k for k in (2, 3, 4, 6, 10)},
    "2.5 (drawn at random)": 2.5,
    "average (all three at each step)": "average",
}
#: Study -> heading, and what is varied.
ABOUT = {
    "k_sweep": (
        "K of the perpendicular prior",
        "Every K-th step uses an auxiliary plane, the others use the primary planes of the task (coronal and sagittal "
        "for z-super-resolution, axial for MRI). All other settings are those of the task. K = 1 leaves no step for "
        "the primary planes and is refused; 'never' is the limit of large K.",
    ),
    "planes": (
        "Number of planes",
        "The same steps, start and data consistency with the networks of one, two and three planes; the sagittal "
        "plane shares the coronal network.",
    ),
    "z_tv": (
        "Weight of z-TV with one plane",
        "The axial plane alone, its estimate corrected by ADMM with z-TV at the given threshold (network units, rho "
        "0.026). 'none' is ADMM without a regularizer, that is, conjugate gradients. At 0 there is no shrinkage, but "
        "ADMM still couples the differences along Z to those of the previous step.",
    ),
    "calls": (
        "Network calls per slice",
        "The task's sampler with different numbers of steps, with and without momentum; both planes, all other "
        "settings as in the task.",
    ),
    "phantoms": (
        "Structure across the slices",
        f"Two phantoms of {' x '.join(map(str, PHANTOM_SHAPE))} voxels of 1 mm, unlike heads: a tree of "
        "bifurcating vessels, and a tube that winds three times around a straight one along Z.",
    ),
    "contrast": (
        "Another contrast",
        "The methods of the previous section, on another contrast of the same subject at the same voxels.",
    ),
}


class Case(NamedTuple):
    """A volume to measure: its file, and its voxels (1, X, Y, Z)."""

    path: Path
    volume: Tensor


class Row(NamedTuple):
    """A row of a table, as in study_planes."""

    label: str
    plane: str
    both: bool
    overrides: dict[str, Any]


class Done(NamedTuple):
    """A row's result."""

    volume: Tensor
    truth: Tensor
    metrics: dict[str, float]
    calls: int


def line(label: str, metrics: Mapping[str, float], calls: int, seconds: float) -> str:
    """Return a row of the table."""
    ssim = " | ".join(f"{metrics[f'ssim_{plane}']:.4f}" for plane in ("axial", "coronal", "sagittal"))
    return f"| {label} | {calls} | {metrics['psnr']:.2f} | {ssim} | {seconds:.0f} |"


def case_of(name: str, volume: Tensor, affine: np.ndarray) -> Case:
    """Write a volume where the tasks can read it."""
    path = FOLDER / f"{name}.nii.gz"
    write_volume(path, volume, geometry_of(volume.shape[1:], affine))
    return Case(path, volume)


def read_case(name: str, source: Path, crop: Sequence[int] | None) -> Case:
    """Read a volume, and cut it."""
    volume, geometry = read_volume(source)
    if crop is not None:
        a, b, c, d, e, f = crop
        volume = volume[:, a:b, c:d, e:f].contiguous()
    return case_of(name, volume, affine_of(geometry))


def table(task: str, case: Case, rows: Sequence[Row], first: str, *, title: str = "") -> tuple[str, dict[str, Done]]:
    """Reconstruct a case by every row; return the table and the results by label, and print rows as they come."""
    lines = [
        f"### {title}{TASKS[task]}",
        "",
        f"| {first} | network calls per slice | PSNR (dB) | SSIM axial | coronal | sagittal | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(["", *lines]), flush=True)
    measurement = parsed(task, "axial", False, case.path, {}).get_parsed_content("dataset")[0]["image"]
    results = {}
    for label, plane, both, overrides in rows:
        inferer = parsed(task, plane, both, case.path, overrides).get_parsed_content("inferer")
        done = inferer.reconstruct(measurement, case="case")
        truth = case.volume[..., : done.volume.shape[-1]]  # whole thick slices only
        metrics, calls = volume_metrics(done.volume, truth), done.report.denoiser_calls
        lines.append(line(label, metrics, calls, done.report.seconds))
        print(lines[-1], flush=True)
        results[label] = Done(done.volume, truth, metrics, calls)
    return "\n".join(lines) + "\n", results


def method_rows(task: str) -> list[Row]:
    """Return the classical start, each plane alone, z-TV, and both planes."""
    start = {"sampler": "cubic"} if task == "zsr" else {"start": True}
    return [
        Row("cubic" if task == "zsr" else "ADMM-TV start", "axial", False, start),
        Row("axial alone", "axial", False, {}),
        Row("coronal alone", "coronal", False, {}),
        Row("axial + z-TV", "axial", False, {"consistency": Z_TV}),
        Row("default", "axial", True, {}),
    ]


def k_sweep(case: Case) -> list[str]:
    """Measure the turns."""
    never = {
        "zsr": Row("never", "coronal", False, {"prior": turns(2, "coronal", "sagittal")}),
        "mri": Row("never", "axial", False, {}),
    }
    texts = []
    for task, last in never.items():
        rows = [Row(label, "axial", True, {"perpendicular#K": k}) for label, k in TURNS.items()]
        texts.append(table(task, case, [*rows, last], "K")[0])
    return texts


def planes(case: Case) -> list[str]:
    """Measure the number of planes."""
    rows = [
        Row("axial", "axial", False, {}),
        Row("coronal", "coronal", False, {}),
        Row("axial and coronal in turn", "axial", True, {"prior": turns(2, "axial", share=False)}),
        Row("all three in turn", "axial", True, {"prior": turns(2, "axial", "coronal", "sagittal")}),
        Row("mean of all three at each step", "axial", True, {"prior": turns("average", "axial")}),
    ]
    return [table("mri", case, rows, "planes")[0]]


def z_tv(case: Case) -> list[str]:
    """Measure the weight of z-TV."""
    penalties: dict[str, list[dict[str, Any]]] = {"none": []}
    for threshold in (0.0, *THRESHOLDS):
        penalties[f"{threshold:g}"] = [{"name": "z_tv", "threshold": threshold}]
    rows = [
        Row(label, "axial", False, {"consistency": {"name": "admm", "regularizers": penalty}})
        for label, penalty in penalties.items()
    ]
    return [table(task, case, rows, "threshold")[0] for task in ("mri", "ct")]


def calls(case: Case, picture: Callable[[str], Path]) -> list[str]:
    """Measure and draw quality against calls."""
    texts, curves = [], {}
    for task in ("zsr", "mri", "ct"):
        labels = {(m, n): f"{n} steps, momentum {m:g}" for m in MOMENTA for n in STEPS}
        rows = [
            Row(label, "axial", True, {"sampler#steps": n, "sampler#momentum": m}) for (m, n), label in labels.items()
        ]
        text, done = table(task, case, rows, "sampler")
        texts.append(text)
        curves[TASKS[task]] = {f"momentum {m:g}": [done[labels[m, n]] for n in STEPS] for m in MOMENTA}
    draw_calls(curves, picture("calls"))
    return texts


def draw_calls(curves: Mapping[str, Mapping[str, Sequence[Done]]], path: Path) -> None:
    """Draw PSNR over network calls per slice: a panel a task, a line a momentum."""
    width, height, left, gap, top, bottom = 3.0, 2.6, 0.7, 0.75, 0.5, 0.6
    canvas = DarkCanvas(left + len(curves) * (width + gap) - gap + 0.25, top + height + bottom)
    for i, (task, lines) in enumerate(curves.items()):
        x = left + i * (width + gap)
        canvas.text(x + width / 2, top / 2, task, size=12, weight="bold")
        axes = canvas.axes(x, top, width, height)
        axes.set_facecolor(BACKGROUND)
        for color, (label, results) in zip(("#f9c74f", "#4cc9f0"), lines.items(), strict=True):
            psnr = [done.metrics["psnr"] for done in results]
            axes.plot([done.calls for done in results], psnr, color=color, marker="o", markersize=3.5, label=label)
        axes.set_xlabel("network calls per slice", color=TEXT, fontsize=9)
        if i == 0:
            axes.set_ylabel("PSNR (dB)", color=TEXT, fontsize=9)
        axes.set_xlim(left=0)
        axes.tick_params(colors=FAINT, labelsize=8, length=2)
        axes.grid(color=FAINT, alpha=0.2, linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_edgecolor(FAINT)
        axes.legend(loc="lower right", fontsize=8, facecolor=BACKGROUND, edgecolor=FAINT, labelcolor=TEXT)
    canvas.save(path)


def phantoms(picture: Callable[[str], Path]) -> list[str]:
    """Measure and draw the phantoms."""
    texts = []
    for name, make in PHANTOMS.items():
        case = case_of(name, make(), np.eye(4))
        for task, suffix in (("zsr", ""), ("mri", "_mri")):
            text, results = table(task, case, method_rows(task), "method", title=f"{name}, ")
            texts.append(text)
            truth = next(iter(results.values())).truth
            montage(
                {label: done.volume for label, done in results.items()},
                truth,
                picture(name + suffix),
                title=f"{name}, {TASKS[task]}",
                window=(0.0, 1.0),
                indices=busiest(truth),
                metrics={label: done.metrics for label, done in results.items()},
            )
    return texts


def busiest(volume: Tensor) -> dict[str, int]:
    """Return the slice of every plane with the most bright voxels, not counting planes' first and last tenth."""
    out = {}
    for plane in EDGES:
        bright = (volume[0] > 0.6).movedim(PLANE_AXIS[plane], 0).flatten(1).sum(dim=1)
        margin = len(bright) // 10
        out[plane] = margin + int(bright[margin : len(bright) - margin].argmax())
    return out


def contrast(case: Case) -> list[str]:
    """Measure another contrast."""
    return [table(task, case, method_rows(task), "method")[0] for task in ("zsr", "mri")]


def run(study: str, args: argparse.Namespace) -> str:
    """Return the text of a study."""
    heading, varied = ABOUT[study]
    print(f"\n## {heading}", flush=True)
    picture = partial(picture_path, args.output)
    if study == "contrast":
        varied = f"{args.contrast.name}. {varied}"
        tables = contrast(read_case("contrast", args.contrast, args.crop))
    elif study == "phantoms":
        tables = phantoms(picture)
    elif study == "calls":
        tables = calls(read_case("volume", args.source, args.crop), picture)
    else:
        tables = {"k_sweep": k_sweep, "planes": planes, "z_tv": z_tv}[study](
            read_case("volume", args.source, args.crop)
        )
    return "\n".join([f"## {heading}", "", varied, "", *tables])


def pictures_of(study: str) -> list[str]:
    """Return the names of a study's pictures."""
    drawn = {"calls": ["calls"], "phantoms": [name + suffix for name in PHANTOMS for suffix in ("", "_mri")]}
    return drawn.get(study, [])


def picture_path(output: Path, name: str) -> Path:
    """Return where a picture is written: beside the output."""
    return output.with_name(f"{output.stem}_{name}.png")


def header_of(args: argparse.Namespace) -> str:
    """Return what the numbers are of."""
    voxels = f", voxels {args.crop}" if args.crop else ""
    return f"{args.source.name}{voxels}, {torch.get_num_threads()} threads"


def key_of(study: str, args: argparse.Namespace) -> str:
    """Return how a kept text of a study starts if it is of what was asked for."""
    # Without another contrast given, one that was measured before stays.
    name = "" if study != "contrast" else f"; {args.contrast.name} -->" if args.contrast else ";"
    return f"<!-- {header_of(args)}{name or ' -->'}"


def kept(study: str, args: argparse.Namespace) -> str | None:
    """Return the text of a finished study if it is of what was asked for, and its pictures are there."""
    path = FOLDER / f"{study}.md"
    text = path.read_text() if path.is_file() else ""
    drawn = all(picture_path(args.output, name).is_file() for name in pictures_of(study))
    return text.partition("\n")[2] if drawn and text.startswith(key_of(study, args)) else None


def joined(args: argparse.Namespace) -> str:
    """Return the studies that are finished, one after the other."""
    parts = ["# Ablation of 2D priors\n", f"{header_of(args)} (`scripts/studies/priors.py`)\n"]
    for study in ABOUT:
        text = kept(study, args)
        if text is not None:
            pictures = [f"![{name}]({picture_path(args.output, name).name})\n" for name in pictures_of(study)]
            parts += [text, *pictures]
    return "\n".join(parts)


def main() -> None:
    """Run the studies that are missing, and join all there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--crop", type=int, nargs=6, default=None, help="first and end of x, y, z")
    parser.add_argument("--contrast", type=Path, default=None, help="another contrast on the same grid")
    parser.add_argument("--studies", nargs="+", choices=list(ABOUT), default=None, help="all that are possible")
    parser.add_argument("--again", action="store_true", help="repeat studies that are finished")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "studies" / "priors.md")
    args = parser.parse_args()
    wanted = args.studies or [study for study in ABOUT if study != "contrast" or args.contrast]
    if "contrast" in wanted and args.contrast is None:
        parser.error("the study contrast needs --contrast")
    FOLDER.mkdir(parents=True, exist_ok=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for study in wanted:
        if kept(study, args) is not None and not args.again:
            print(f"{study}: finished before", flush=True)
        else:
            text = f"{key_of(study, args)}\n{run(study, args)}"
            atomic_write(FOLDER / f"{study}.md", partial(Path.write_text, data=text))
        atomic_write(args.output, partial(Path.write_text, data=joined(args)))


if __name__ == "__main__":
    main()
