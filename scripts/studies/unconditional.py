# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Unconditional heads beside real ones: pictures, and tests that tell them apart.

    python scripts/studies/unconditional.py OUT/datalist.json --work DIR [--samples 4] [--rows ...] [--output FILE.md]

How much neighbouring voxels differ along an axis, relative to the volume's mean, says whether the slices across that
axis agree: slices that know nothing of each other differ more than a real head's. It is measured within the head, where
the volume is above a tenth of its maximum, along X, Y and Z.

Two-sample test: of nine slices (three a plane) the size of the head, quantiles of its intensity and the power in rings
of spatial frequency; energy distance of the heads drawn to the real ones (Szekely and Rizzo 2013, doi
10.1016/j.jspi.2013.03.018) in units of the real ones' spread, and how often a random division of all heads is as far
apart. The distance to the nearest real head, by that among real heads, tells copies from strangers: 1 is as far as
real heads are. Last, what means over neighbouring slices gain in denoising.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Spacing
from scipy.spatial.distance import cdist
from scipy.stats import permutation_test
from torch import Tensor

from monai_diffrecon.engine.transforms.unconditional_cases import UnconditionalCases
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.planes import slice_positions, to_slices
from monai_diffrecon.priors.perpendicular_neighbours import mean_of_neighbours

ROOT = Path(__file__).resolve().parents[2]
SIZE, SPACING = 96, 2.0
#: Of the table of means over neighbours: noise levels, standard deviations in slices.
LEVELS, WIDTHS = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1), (0.0, 0.5, 0.8, 1.2, 2.0, 3.0, 4.0)
RINGS, QUANTILES, DEPTHS = 8, (0.1, 0.3, 0.5, 0.7, 0.9), (0.4, 0.5, 0.62)
#: Label -> bundle, overrides.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "one plane": ("head_mr_t1_2mm", {"prior": "slices"}),
    "three planes": ("head_mr_t1_2mm", {}),
    "no mean of neighbours": ("head_mr_t1_2mm", {"perpendicular#width": 0.0}),
    "former pair": ("head_mr_t1_2mm_axial", {}),
}


def parsed(bundle: str, overrides: dict[str, Any]) -> ConfigParser:
    """Return the configuration of a bundle that draws heads."""
    root = ROOT / "bundles" / bundle
    config = ConfigParser()
    config.read_config(str(root / "configs" / "inference.json"))
    config.update({"bundle_root": str(root), **overrides})
    return config


def roughness(x: Tensor) -> list[float]:
    """Return the mean absolute difference of neighbours along X, Y and Z over the mean, within the head."""
    inside = x > 0.1 * x.max()
    out = []
    for axis in (1, 2, 3):
        n = x.shape[axis] - 1
        both = inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)
        out.append(float(x.diff(dim=axis).abs()[both].mean() / x[inside].mean()))
    return out


def real_heads(datalist: Path) -> dict[str, Tensor]:
    """Return the heads of ``prepare_training_data.py heads``, the one for validation first, (1, 96, 96, 96) each."""
    sections = json.loads(datalist.read_text())
    rows = [row for row in (*sections["validation"], *sections["training"]) if "labels" not in row]
    heads = {}
    for row in rows:
        whole = np.load(datalist.parent / row["file"]).astype(np.float32)
        inner = tuple(slice((n - SIZE) // 2, (n + SIZE) // 2) for n in whole.shape)
        heads[Path(row["file"]).stem] = torch.from_numpy(whole[inner])[None]
    return heads


def example() -> Tensor:
    """Return the example of the repository at 2 mm, (1, 96, 96, 96) at most: its upper part."""
    volume, geometry = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    coarse = Spacing(pixdim=(SPACING,) * 3, mode="bilinear")(
        MetaTensor(volume, affine=torch.as_tensor(affine_of(geometry)))
    )
    middle = [max((n - SIZE) // 2, 0) for n in coarse.shape[1:3]]
    x = coarse.as_subclass(Tensor)[:, middle[0] : middle[0] + SIZE, middle[1] : middle[1] + SIZE, -SIZE:]
    return x / x.quantile(0.995)


def features(x: Tensor) -> np.ndarray:
    """Return the features of nine slices of a head (1, X, Y, Z), one after the other."""
    inside = x[0] > 0.1 * x.max()
    head = (x[0] / x[0][inside].mean()).numpy()
    rows = []
    for axis in range(3):
        for depth in DEPTHS:
            image = np.take(head, round(depth * head.shape[axis]), axis=axis)
            within = image[image > 0.1]
            power = np.abs(np.fft.fft2(image)) ** 2
            frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
            edges = np.linspace(0.0, 0.5, RINGS + 1)
            rings = [power[(frequency >= a) & (frequency < b)].mean() for a, b in pairwise(edges)]
            rows += [len(within) / image.size, *np.quantile(within, QUANTILES), *np.log(rings)]
    return np.array(rows)


def two_sample(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float, float]:
    """Return the energy distance of two groups of features (N, F), its p-value, and the relative nearest distance."""
    spread = real.std(axis=0, ddof=1) + 1e-3
    together = np.concatenate([drawn, real]) / spread
    apart = cdist(together, together) / together.shape[1] ** 0.5

    def energy(first: np.ndarray, second: np.ndarray) -> float:
        a, b = first.astype(int), second.astype(int)
        return float(2 * apart[np.ix_(a, b)].mean() - apart[np.ix_(a, a)].mean() - apart[np.ix_(b, b)].mean())

    n = len(drawn)
    found = permutation_test(
        (np.arange(n), np.arange(n, len(together))),
        energy,
        alternative="greater",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    )
    among = apart[n:, n:] + np.where(np.eye(len(real)), np.inf, 0.0)
    return (
        float(found.statistic),
        float(found.pvalue),
        float(apart[:n, n:].min(axis=1).mean() / among.min(axis=1).mean()),
    )


@torch.no_grad()
def gain_of_neighbours(truth: Tensor) -> list[str]:
    """Return the PSNR (dB) of denoised axial slices of a head, by the width of the mean over neighbours, as a table."""
    network = parsed(*ROWS["three planes"]).get_parsed_content("inferer").score.network
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    chosen = list(range(8, SIZE, 6))
    where, clean = slice_positions("axial", truth.shape[1:])[chosen], to_slices(truth, "axial")[chosen]
    lines = [f"| noise level | {' | '.join(f'{w:g} slices' for w in WIDTHS)} |", "|---" * (len(WIDTHS) + 1) + "|"]
    for sigma in LEVELS:
        found = []
        for width in WIDTHS:
            x = truth + sigma * noise
            mean, left = mean_of_neighbours(x, 2, width) if width else (x, 1.0)
            out = network(to_slices(mean, "axial")[chosen], sigma * left, position=where)
            found.append(float(-10 * (out - clean).square().mean().log10()))
        lines.append(f"| {sigma:g} | {' | '.join(f'{v:.2f}' for v in found)} |")
    return lines


def draw(volumes: dict[str, Tensor], path: Path) -> None:
    """Draw an axial, a coronal and a sagittal slice of every volume, a row each."""
    figure = Figure(figsize=(6.2, 2.15 * len(volumes)), layout="constrained", facecolor="black")
    axes = figure.subplots(len(volumes), 3, squeeze=False)
    for row, (label, x) in zip(axes, volumes.items(), strict=True):
        top = float(x.flatten().kthvalue(int(0.998 * x.numel())).values)
        i, j, k = (n // 2 for n in x.shape[1:])
        planes = {"axial": x[0, :, :, k + 8], "coronal": x[0, :, j], "sagittal": x[0, i]}
        for ax, (plane, image) in zip(row, planes.items(), strict=True):
            ax.imshow(image.T.flip(0).numpy(), cmap="gray", vmin=0, vmax=top)
            ax.set_title(f"{label}: {plane}" if plane == "axial" else plane, fontsize=7, color="white")
            ax.set_axis_off()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Sample, measure, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path, help="of scripts/prepare_training_data.py heads")
    parser.add_argument("--samples", type=int, default=4, help="of the default; at most 2 of the others")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--work", type=Path, required=True, help="folder of the heads drawn; those it has are kept")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    heads = real_heads(args.datalist)
    usual = torch.tensor([roughness(x) for x in heads.values()]).mean(dim=0)
    real = np.stack([features(x) for x in heads.values()])
    lines = [
        "# Volumes without a measurement",
        "",
        f"`scripts/studies/unconditional.py --samples {args.samples}`: {SIZE} x {SIZE} x {SIZE} voxels of "
        f"{SPACING:g} mm, {args.samples} heads drawn (at most 2 for comparison) and {len(heads)} real ones.",
        "",
        "| heads | differences along X | along Y | along Z | energy distance | p | nearest real head | seconds |",
        "|---|---|---|---|---|---|---|---|",
        f"| real | {' | '.join(f'{v:.3f}' for v in usual)} | | | 1 | |",
    ]
    print("\n".join(lines), flush=True)
    pictures: dict[str, Tensor] = {}
    for label in args.rows:
        bundle, overrides = ROWS[label]
        inferer = parsed(bundle, overrides).get_parsed_content("inferer")
        drawn, seconds = [], []
        count = args.samples if label == "three planes" else min(args.samples, 2)
        for case in UnconditionalCases([SIZE] * 3, [SPACING] * 3, count=count):
            kept = args.work / f"{label.replace(' ', '_')}_{case['case']}.pt"
            if not kept.exists():
                done = inferer.reconstruct(case["image"], case=case["case"])
                whole = {"volume": done.volume.as_subclass(Tensor).half(), "seconds": done.report.seconds}
                atomic_write(kept, lambda path, whole=whole: torch.save(whole, path))  # type: ignore[misc]
            read = torch.load(kept, weights_only=True)
            drawn.append(read["volume"].float())
            seconds.append(read["seconds"])
            if sum(name.startswith(f"{label}: ") for name in pictures) < (3 if label == "three planes" else 1):
                pictures[f"{label}: {case['case']}"] = drawn[-1]
        rough = torch.tensor([roughness(x) for x in drawn]).mean(dim=0)
        cells = " | ".join(f"{v:.3f} ({v / u:.2f} x real)" for v, u in zip(rough.tolist(), usual.tolist(), strict=True))
        distance, p, nearest = two_sample(np.stack([features(x) for x in drawn]), real)
        lines.append(f"| {label} | {cells} | {distance:.3f} | {p:.3f} | {nearest:.2f} | {fmean(seconds):.0f} |")
        print(lines[-1], flush=True)
    pictures["real, Colin27"] = example()
    draw(pictures, args.work / "unconditional.png")
    lines += [
        "",
        f"Denoising {next(iter(heads))}, which is not in the training data, by PSNR (dB): axial slices that are",
        "means over neighbours (Gaussian, standard deviation).",
        "",
    ]
    lines += gain_of_neighbours(next(iter(heads.values())))
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))
        atomic_write(ROOT / "docs" / "pictures" / "unconditional.png", lambda path: draw(pictures, path))


if __name__ == "__main__":
    main()
