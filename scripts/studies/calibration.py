# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Calibration of the posterior's samples: the sampler's error, the networks', and what intervals make of it.

    python scripts/studies/calibration.py BRAIN_MR CT --work FOLDER [--tasks ...] [--output docs/studies/calibration.md]

BRAIN_MR and CT are folders of ``scripts/prepare_training_data.py``; subjects are those of their section
``validation``. Each task is sampled with the preset ``posterior`` as it was and as it is, once with the networks on
the middle of each subject, and once with an exact denoiser on truths drawn from a Gaussian field with the spectrum of
the first subject. The truth is then a draw of the prior itself, so what is missing from 90 % is the sampler's.
Intervals are judged on one subject at a time, and calibrated with the others. What was computed is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.comparison.calibration import LEVELS, Coverage, interval_coverage
from monai_diffrecon.comparison.calibration_picture import draw_calibration
from monai_diffrecon.comparison.volume_metrics import psnr
from monai_diffrecon.engine.calibration.residuals import floored
from monai_diffrecon.engine.posterior.running_moments import RunningMoments
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.recipe import build_consistency, build_noise, build_sampler
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.numerics.resampling import apply_along, resampling_matrix
from monai_diffrecon.numerics.statistics.conformal import conformal_quantile, from_powers, rounded_up
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import PlaneDenoiser

ROOT = Path(__file__).resolve().parents[2]
LEVEL = 0.9
#: The preset's sampler before it was mended.
BEFORE: dict[str, Any] = {
    "sampler#sigma_end": 0.01,
    "sampler#sigma_start": "$0.5 if @operator['name'] == 'slice_thickness' else 0.2",
}
#: Level of conformal intervals that a few subjects can give with a finite factor that is not the largest residual.
FEW = 0.5
#: The task whose fields are calibrated at the nominal level, and how many.
COHORT, DRAWS = "z_sr", 20
HEAD = """# Calibration of posterior samples

`scripts/studies/calibration.py`: the middle {size} voxels of validation subjects, {samples} samples of {calls} network
calls per slice, 1 % noise in MRI and 0.3 % in CT. `before` and `now` are the preset `posterior` with noise levels from
0.2 (thick slices: 0.5) to 0.01, and from 1 (MRI: 0.5) to the smallest level of the network.

**Field**: truth drawn from a Gaussian field with the spectrum of the first subject, sampled with the exact denoiser of
that field. What is missing from 90 % is the sampler's. **Networks**: the foreground of the subjects, with the bundle's
network. Coverage of nominal 90 % Student's intervals in %: mean (lowest to highest subject). `spread / error`: 1 for
calibrated samples. **Left out**: intervals of each subject with the factor of the other subjects' residuals.
`inflation` is their 90 % quantile without the finite-sample correction, `conformal` the one with it. Two other subjects
allow conformal intervals up to 67 %, at which the factor is the largest residual of all; 90 % would need nine.
"""
TABLE = [
    "| task | subjects | field before: coverage | spread / error | field now: coverage | spread / error "
    "| networks before | PSNR of the mean (dB) | networks now | PSNR of the mean (dB) "
    "| left out: inflation, 90 % | conformal, 50 % |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]
VARIANTS: dict[str, dict[str, Any]] = {"before": BEFORE, "now": {}}


@dataclass(frozen=True)
class Task:
    """A task and its subjects.

    Attributes:
        title: for readers.
        bundle: its bundle.
        overlay: name in ``configs/tasks``.
        noise: of the measurement, relative.
        spacing: voxel size, mm.
        subjects: subject -> its volume below the folder of the modality.
        overrides: of the overlay.
    """

    title: str
    bundle: str
    overlay: str
    noise: float
    spacing: float
    subjects: dict[str, str]
    overrides: dict[str, Any] = field(default_factory=dict)


HEADS = {"1": "ljubx19_T1", "2": "fnndsc_eun_T1", "3": "fsformats_T1_brain"}
BODIES = {"1": "totalseg_aorta_thorax", "2": "4dlung_113HM10395_chest", "3": "nsclcrg_R01001_upper"}
TASKS = {
    "mri": Task("MRI 8x", "brain_mr", "accelerated_mri", 0.01, 1.0, HEADS),
    "z_sr": Task("MR 5 mm to 1 mm", "brain_mr", "z_super_resolution", 0.01, 1.0, HEADS),
    "ct_32": Task("CT, 32 views", "body_ct", "sparse_view_ct", 0.003, 1.5, BODIES),
    "ct_8": Task("CT, 8 views", "body_ct", "sparse_view_ct", 0.003, 1.5, BODIES, {"operator#views": 8}),
    "ct_90": Task("CT, 90 degrees", "body_ct", "limited_angle_ct", 0.003, 1.5, BODIES),
}


class Field(PlaneDenoiser):
    """The exact denoiser of a stationary Gaussian field: Wiener's filter, on the whole volume.

    Attributes:
        mean: mean of every voxel.
        spectrum: variance of each Fourier coefficient, orthonormal, (X, Y, Z).
        plane: plane that it claims to denoise.
    """

    plane, sigma_min, sigma_max = "axial", 0.002, 2.0

    def __init__(self, mean: float, spectrum: Tensor) -> None:
        self.mean, self.spectrum = mean, spectrum

    @classmethod
    def like(cls, x: Tensor) -> Field:
        """Return the field with mean and spectrum of a volume (1, X, Y, Z), averaged over shells of frequency."""
        centered = x[0] - x.mean()
        window = [
            torch.hann_window(n, periodic=False).reshape([-1 if i == d else 1 for i in range(3)])
            for d, n in enumerate(centered.shape)
        ]
        taper = window[0] * window[1] * window[2]
        power = torch.fft.fftn(centered * taper, norm="ortho").abs().square() / taper.square().mean()
        axes = torch.meshgrid(*(torch.fft.fftfreq(n) for n in power.shape), indexing="ij")
        shells = (sum(a.square() for a in axes).sqrt() * 2 * max(power.shape)).round().long().reshape(-1)
        sums, counts = (
            torch.zeros(int(shells.max()) + 1).index_add_(0, shells, v.reshape(-1).float())
            for v in (power, torch.ones_like(power))
        )
        return cls(float(x.mean()), (sums / counts.clamp_min(1))[shells].reshape(power.shape))

    def draw(self, seed: int) -> Tensor:
        """Return a draw (1, X, Y, Z)."""
        white = torch.randn(self.spectrum.shape, generator=torch.Generator().manual_seed(seed))
        return self.mean + torch.fft.ifftn(torch.fft.fftn(white) * self.spectrum.sqrt()).real[None]

    def scaled(self, scale: float) -> Field:
        """Return the field in units of ``scale``."""
        return Field(self.mean / scale, self.spectrum / scale**2)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z)."""
        gain = self.spectrum / (self.spectrum + sigma**2)
        return self.mean + torch.fft.ifftn(torch.fft.fftn(x - self.mean, dim=(1, 2, 3)) * gain, dim=(1, 2, 3)).real


def truth_of(task: Task, name: str, folder: Path, size: Sequence[int]) -> Tensor:
    """Return the middle (1, X, Y, Z) of a volume in network units."""
    rows = json.loads((folder / "datalist.json").read_text())["validation"]
    spacing = next(row["spacing"] for row in rows if row["file"] == f"{name}.npy")
    x = torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.float32))[None]
    # With a margin, for what the resampling reaches.
    x = middle(x, [round(n * task.spacing / s) + 12 * (s != task.spacing) for n, s in zip(size, spacing, strict=True)])
    for axis, s in enumerate(spacing, start=1):
        x = apply_along(resampling_matrix(x.shape[axis], s, task.spacing), x, axis) if s != task.spacing else x
    return middle(x, size).clamp(0.0, 2.0).contiguous()


def middle(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return at most ``size`` voxels in the middle."""
    starts = [max(n - m, 0) // 2 for n, m in zip(x.shape[1:], size, strict=True)]
    return x[(slice(None), *(slice(a, a + m) for a, m in zip(starts, size, strict=True)))]


def posed_case(task: Task, truth: Tensor, overrides: Mapping[str, Any]) -> tuple[Any, PosedCase, Tensor]:
    """Return inferer, posed case, and the truth in physical units."""
    root = ROOT / "bundles" / task.bundle
    given = {"device": "cpu", **task.overrides, **overrides}
    config: ConfigParser = merged_config(root, task=task.overlay, method="posterior", overrides=given, where=task.title)
    inferer = content_of(config, "inferer")
    inferer.progress = False
    intensity = dict(inferer.score.intensity)
    window = intensity.pop("map") == "window"
    x = IntensityMap.window(**intensity).to_physical(truth) if window else truth
    geometry = geometry_of(x.shape[1:], np.diag([*[task.spacing] * 3, 1.0]))
    how = Simulation(content_of(config, "operator"), noise=task.noise)
    measured, operator = simulate(x, geometry, how, unit="HU" if window else None)
    tensor = to_tensor(replace(measured, simulated=True), image=operator.measured_geometry())
    return inferer, inferer.pose(tensor, case="study"), x


def of_networks(task: Task, truth: Tensor, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return coverages, residuals and PSNR of the networks' samples of a subject."""
    inferer, posed, x = posed_case(task, truth, overrides)
    done = inferer.reconstruct(posed)
    volume, std = (v.as_subclass(Tensor) for v in (done.volume, done.spread.std))
    inside = truth > (0.25 if task.bundle == "body_ct" else 0.05)
    return row_of(volume, std, x, inside, done.spread.count) | {"psnr": psnr(volume, x)}


def of_field(task: Task, seed: int, like: Tensor, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return coverages and residuals of samples with the exact denoiser, of a truth that is a draw of its prior."""
    prior = Field.like(like)
    truth = prior.draw(seed)
    inferer, posed, x = posed_case(task, truth, overrides)
    acted = posed.posed.intensity
    exact = prior.scaled(1.0 if task.bundle == "body_ct" else acted.scale)
    moments = RunningMoments()
    for index in range(inferer.num_samples):
        specs, case = inferer.specs, f"study#{index}"
        noise, slices = build_noise(specs["noise"], key_seed(seed, case), case), SlicesPrior()
        slices.bind([exact], noise)
        parts = build_consistency(specs["consistency"]), build_sampler(specs["sampler"])
        engine = ReconstructionEngine(posed.posed.problem, slices, *parts, noise)
        moments.add(acted.to_physical(engine.reconstruct(seed=seed, case=case).x))
    assert moments.mean is not None
    return row_of(moments.mean, moments.std(), x, torch.ones_like(x, dtype=torch.bool), inferer.num_samples)


def row_of(mean: Tensor, std: Tensor, x: Tensor, inside: Tensor, count: int) -> dict[str, Any]:
    """Return coverages, and ratio of spread to error: 1 for calibrated samples."""
    coverage = interval_coverage(mean, std, x, mask=inside, num_samples=count)
    error = float((mean - x)[inside].square().mean().sqrt())
    spread = float(std[inside].square().mean().sqrt()) * (1 + 1 / count) ** 0.5
    scores = ((mean - x).double().abs() / floored(std).double())[inside]
    powers, counts = rounded_up(scores.numpy())
    return {
        "coverage": [coverage.nominal, coverage.observed, coverage.voxels],
        "ratio": spread / error,
        "scores": [powers, counts],
    }


def computed(kept: Path, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a result from a file of results, computed and kept if it is not there."""
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if name not in found:
        start = time.monotonic()
        found[name] = compute() | {"seconds": time.monotonic() - start}
        atomic_write(kept, lambda path: path.write_text(json.dumps(found)))
        at = found[name]["coverage"][1][LEVELS.index(LEVEL)]
        print(f"{kept.stem} {name}: {100 * at:.0f} %, {found[name]['seconds']:.0f} s", flush=True)
    return found[name]


def left_out(rows: Sequence[dict[str, Any]], level: float, *, corrected: bool) -> list[float]:
    """Return the coverage of each subject by intervals that were calibrated with the others."""
    subjects = [(from_powers(powers), np.asarray(counts)) for powers, counts in (row["scores"] for row in rows)]
    held = []
    for index, (scores, counts) in enumerate(subjects):
        factor = conformal_quantile(subjects[:index] + subjects[index + 1 :], level, corrected=corrected)
        held.append(float(counts[scores <= factor].sum() / counts.sum()))
    return held


def percent(values: Sequence[float]) -> str:
    """Return mean and range of fractions in percent."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * sum(values) / len(values):.0f} ({low:.0f} to {high:.0f})"


def line(task: Task, field: Mapping[str, Any], nets: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Return a task as a row of Markdown."""
    at = LEVELS.index(LEVEL)
    cells = [f"{100 * field[v]['coverage'][1][at]:.0f} | {field[v]['ratio']:.2f}" for v in VARIANTS]
    for rows in nets.values():
        cells.append(percent([row["coverage"][1][at] for row in rows]))
        cells.append(f"{sum(row['psnr'] for row in rows) / len(rows):.2f}")
    n = len(nets["now"])
    cells.append(percent(left_out(nets["now"], LEVEL, corrected=False)))
    cells.append(percent(left_out(nets["now"], FEW, corrected=True)))
    return f"| {task.title} | {n} | " + " | ".join(cells) + " |"


def about_cohort(task: Task, draws: Sequence[dict[str, Any]]) -> str:
    """Return a sentence about conformal intervals of many fields."""
    raw = percent([row["coverage"][1][LEVELS.index(LEVEL)] for row in draws])
    held = percent(left_out(draws, LEVEL, corrected=True))
    return (
        f"{len(draws)} fields ({task.title}, sampled as before): Student's 90 % intervals hold {raw} % of the voxels; "
        f"conformal 90 % intervals of each, calibrated with the {len(draws) - 1} others, {held} %."
    )


def main() -> None:
    """Sample, calibrate, draw, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brain_mr", type=Path)
    parser.add_argument("ct", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--size", type=int, nargs=3, default=(64, 64, 25), help="voxels of each subject")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--calls", type=int, default=20, help="network calls per slice and sample")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    options = {"num_samples": args.samples, "calls": args.calls}
    note, lines, curves = "", [], {}
    for key in args.tasks:
        task, kept = TASKS[key], args.work / f"{key}.json"
        folder = args.brain_mr if task.bundle == "brain_mr" else args.ct
        truths = {s: truth_of(task, name, folder, args.size) for s, name in task.subjects.items()}
        like = next(iter(truths.values()))
        field = {
            v: computed(kept, f"field {v}", partial(of_field, task, 0, like, {**options, **overrides}))
            for v, overrides in VARIANTS.items()
        }
        nets = {
            v: [
                computed(kept, f"{s} {v}", partial(of_networks, task, truth, {**options, **overrides}))
                for s, truth in truths.items()
            ]
            for v, overrides in VARIANTS.items()
        }
        lines.append(line(task, field, nets))
        print(lines[-1], flush=True)
        if key == COHORT:
            draws = [
                computed(kept, f"draw {seed} before", partial(of_field, task, seed, like, {**options, **BEFORE}))
                for seed in range(DRAWS)
            ]
            note = about_cohort(task, draws)
        curves |= {f"{task.title}, {v}": mean_curve(nets[v]) for v in VARIANTS}
    size = " x ".join(map(str, args.size))
    page = [HEAD.format(size=size, samples=args.samples, calls=args.calls), *TABLE, *lines, "", note, ""]
    if args.output is not None:
        for variant in VARIANTS:
            picture = args.output.with_name(f"{args.output.stem}_{variant}.png")
            shown = {k.removesuffix(f", {variant}"): c for k, c in curves.items() if k.endswith(f", {variant}")}
            draw_calibration(shown, picture, title=f"networks, {variant}")
            page.append(f"![calibration]({picture.name})")
        atomic_write(args.output, lambda path: path.write_text("\n".join(page) + "\n", encoding="utf-8"))


def mean_curve(rows: Sequence[dict[str, Any]]) -> Coverage:
    """Return the mean of the coverages of subjects."""
    nominal = tuple(rows[0]["coverage"][0])
    observed = np.mean([row["coverage"][1] for row in rows], axis=0)
    return Coverage(nominal, tuple(observed.tolist()), sum(row["coverage"][2] for row in rows))


if __name__ == "__main__":
    main()
