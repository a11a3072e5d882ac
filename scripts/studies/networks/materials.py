# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Few views of materials, and what the prior of something else does: bone and a composite, and a chest.

    python scripts/studies/networks/materials.py MATERIALS CT --work FOLDER [--cases ...] [--output FILE.md]

MATERIALS and CT are folders of ``scripts/prepare_training_data.py``. 3D ADMM-TV is tuned on the region or subject that
the network was trained on, and so is nothing that is measured on. What was computed is not computed again; pictures are
written beside the output.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch import Tensor

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import PLANE_AXIS

ROOT = Path(__file__).resolve().parents[3]
Spec = dict[str, Any]
SIZE, TUNED_ON = (96, 96, 32), (96, 96, 8)
#: Views, and standard deviation of the noise relative to the root mean square of the measurement.
SCANS = ((20, 0.0), (60, 0.0), (60, 0.01))
SIGMA_END = (0.002, 0.01, 0.03)
LEAST = -10.0  # exponent of the root of 10: weights below are none
TUNED = "3D ADMM-TV, tuned"
HEAD = """# Beyond medicine: priors of materials, and wrong ones

`scripts/studies/networks/materials.py`:
parallel beams over 180 degrees, 96 x 96 x 32 voxels in the middle of regions (bone,
composite) or of a subject (chest) that no network was trained on. Noise is relative to the root mean square of the
measurement. Voxels of materials count as 1 mm. 3D ADMM-TV has the weight, constraint and number of iterations that are
best on 96 x 96 x 8 voxels of the training region (chest: of a training subject). Both networks have the last noise
level (`sigma_end`) that is best there with the network of the kind; their other settings are those of the task. PSNR is
for a data range of 1 in network units: for materials the 99.5th percentile, for the chest 2000 HU. SSIM is the mean of
three planes. `body_ct` sees a material as if this percentile were 1000 HU and 0 were air.
"""
FINDINGS = """## What a wrong prior does

- `materials_ct` is better than tuned total variation in every row: by about 1 dB for the composite, by 0.1 to 0.4 dB
  for bone. The regions are those of specimens that it knows; other specimens were not available.
- From few views `body_ct` makes up what is missing with edges and swirls of its own: the tow of the composite gets a
  grain like a fingerprint, and dark strokes beside it, which the truth has not. Its PSNR is still above that of total
  variation, so that figure alone does not show it; the picture does. `materials_ct` leaves a faint grain as well.
- With 60 views and no noise the measurement nearly determines the voxels. The best total variation is then almost none
  (its weight is the lowest that was tried), and `body_ct` only takes away, 0.5 and 0.7 dB: noise of the scan, which is
  part of the truth here, among the rest. With noise in the measurement both networks gain.
- The other way round, `materials_ct` on a chest is better than total variation, but the aortic valve, the border of
  the vertebra and small lung vessels are fainter than with `body_ct`, or lost: 1.1 dB instead of 2.6 from 20 views. It
  added no structure of a material that we saw. Since its training began with the weights of `body_ct`, some of the
  chest may be left in it. The weights of `body_ct` were chosen by reconstructions of this chest, among others.
"""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        title: for readers.
        measured: volume of the section ``validation``.
        tuned: volume of the section ``training`` that ADMM-TV is tuned on.
        materials: a material, otherwise a body.
    """

    title: str
    measured: str
    tuned: str
    materials: bool = True


CASES = {
    "bone": Case("Trabecular bone", "ciclope_trabecular_bone_validation", "ciclope_trabecular_bone_training"),
    "weave": Case("Woven composite", "puma_weave_validation", "puma_weave_training"),
    "chest": Case("Chest", "totalseg_aorta_thorax", "rider_0117_chest", materials=False),
}


class Done(NamedTuple):
    """A reconstruction in network units, and the network calls a slice."""

    volume: Tensor
    calls: int


def truth_of(
    folder: Path, section: str, name: str, size: tuple[int, int, int] = SIZE, *, thick_last: bool = False
) -> tuple[Tensor, tuple[float, float, float]]:
    """Return the middle (1, X, Y, Z) of a prepared volume in network units, and its voxel size.

    Args:
        folder: the prepared volumes.
        section: of the data list.
        name: of the volume.
        size: voxels.
        thick_last: turn the volume so that its largest voxels are along Z.
    """
    rows = json.loads((folder / "datalist.json").read_text())[section]
    spacing = next(r["spacing"] for r in rows if r["file"] == f"{name}.npy")
    x = np.load(folder / f"{name}.npy").astype(np.float32)
    if thick_last and spacing[2] < spacing[0]:
        x, spacing = np.moveaxis(x, 0, 2), [*spacing[1:], spacing[0]]
    starts = [(n - m) // 2 for n, m in zip(x.shape, size, strict=True)]
    part = torch.from_numpy(x[tuple(slice(s, s + m) for s, m in zip(starts, size, strict=True))])
    a, b, c = spacing
    return part[None].clamp(0.0, 2.0).contiguous(), (a, b, c)


def reconstruct(
    bundle: str,
    task: str,
    truth: Tensor,
    spacing: tuple[float, float, float],
    overrides: Mapping[str, Any],
    noise: float = 0.0,
) -> Done:
    """Measure a volume in network units and reconstruct it by a bundle, or by a sampler without network."""
    root = ROOT / "bundles" / bundle
    config = merged_config(root, task=task, overrides={**overrides, "device": "cpu"}, where=bundle).get()
    score = load_score_network(root)
    inferer = content_of(ConfigParser({**config, "score": score, "auxiliaries": ()}), "inferer")
    inferer.progress = False
    kind = dict(score.intensity)
    window = IntensityMap.window(**kind) if kind.pop("map") == "window" else IntensityMap(scale=1.0)
    unit = "arbitrary" if window.offset == 0.0 else "HU"
    geometry = geometry_of(truth.shape[1:], np.diag([*spacing, 1.0]))
    how = Simulation(config["operator"], noise=noise)
    measured, operator = simulate(window.to_physical(truth), geometry, how, unit=unit)
    tensor = to_tensor(replace(measured, simulated=True), image=operator.measured_geometry())
    done = inferer.reconstruct(tensor, case="case")
    return Done(window.to_network(done.volume.as_subclass(Tensor)), done.report.denoiser_calls)


def scores(volume: Tensor, truth: Tensor) -> dict[str, float]:
    """Return PSNR (dB) and the mean SSIM of the planes that are large enough for it, for a data range of 1."""
    found = volume_metrics(volume, truth, 1.0)
    return {"psnr": found["psnr"], "ssim": float(np.nanmean([found[f"ssim_{p}"] for p in PLANE_AXIS]))}


def tv(weight: float, iterations: int, nonnegative: bool, rho: float = 0.1) -> Spec:
    """Return the overrides for 3D ADMM-TV."""
    options = {"rho": rho, "threshold": weight / rho, "iterations": iterations, "nonnegative": nonnegative}
    return {"sampler": {"name": "admm_tv", **options}, "consistency": {"name": "none"}}


def tuned(psnr: Callable[[float, int, bool], float]) -> Spec:
    """Return the best 3D ADMM-TV: weight as in ``scripts/validate_bundles.py``, then constraint, then iterations."""
    best = -7.0  # exponent of the root of 10
    for step in (1.0, 0.5):
        while True:
            nearby = {e: psnr(10 ** (e / 2), 150, True) for e in (best - step, best, best + step) if e >= LEAST}
            if max(nearby, key=nearby.__getitem__) == best:
                break
            best = max(nearby, key=nearby.__getitem__)
    weight = 10 ** (best / 2)
    constrained = max((True, False), key=lambda c: psnr(weight, 150, c))
    return tv(weight, max((60, 150, 400), key=lambda n: psnr(weight, n, constrained)), constrained)


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds, or compute and write it."""
    if not path.exists():
        text = json.dumps(compute(), indent=1)
        atomic_write(path, lambda target: target.write_text(text))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def noise_floor(truth: Tensor) -> float:
    """Return the PSNR (dB) of the truth without its own white noise, estimated from diagonal differences."""
    a, b, c, d = (truth[0, i::2, j::2] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    sigma = float((a - b - c + d).abs().median()) / 2 / 0.6745
    return -20 * float(np.log10(sigma))


def study(key: str, folders: Mapping[bool, Path], work: Path) -> tuple[list[str], Path]:
    """Return the rows of a case, and its picture of the first scan."""
    case = CASES[key]
    folder = folders[case.materials]
    truth, spacing = truth_of(folder, "validation", case.measured)
    training, training_spacing = truth_of(folder, "training", case.tuned, TUNED_ON)
    own = "materials_ct" if case.materials else "body_ct"
    lines, picture = [], work / f"materials_{key}.png"
    for views, noise in SCANS if case.materials else SCANS[:2]:
        scan = f"{key}_{views}" + (f"_noise_{noise:g}" if noise else "")
        views_of = {"operator#views": views}

        def trained(name: str, how: Spec, views_of: Spec = views_of, noise: float = noise, scan: str = scan) -> float:
            def compute() -> dict[str, float]:
                done = reconstruct(own, "sparse_view_ct", training, training_spacing, {**views_of, **how}, noise)
                return {"psnr": volume_metrics(done.volume, training, 1.0)["psnr"]}

            return float(kept(work / f"{scan}_{name}.json", compute)["psnr"])

        rival = tuned(lambda w, n, c, trained=trained: trained(f"tv_{w:.3g}_{n}_{c}", tv(w, n, c)))
        last = max(SIGMA_END, key=lambda s: trained(f"sigma_end_{s:g}", {"sampler#sigma_end": s}))
        network: Spec = {"sampler#sigma_end": last}
        chosen = rival["sampler"]
        methods: dict[str, tuple[str, Spec, str]] = {
            "Filtered back-projection": (
                own,
                {"sampler": {"name": "initial", "kind": "fbp"}, "consistency": {"name": "none"}},
                "",
            ),
            TUNED: (own, rival, f"weight {chosen['threshold'] * chosen['rho']:.2g}, {chosen['iterations']} iterations"),
            **{name: (name, network, f"`sigma_end` {last:g}") for name in ("body_ct", "materials_ct")},
        }
        volumes, found = {}, {}
        for label, (bundle, how, settings) in methods.items():
            path = work / f"{scan}_{label.split(',')[0].replace(' ', '_')}.npz"
            if not path.exists():
                done = reconstruct(bundle, "sparse_view_ct", truth, spacing, {**views_of, **how}, noise)
                with path.open("wb") as file:
                    np.savez(file, volume=done.volume.numpy(), calls=done.calls)
            data = np.load(path)
            volumes[label], calls = torch.from_numpy(data["volume"]), int(data["calls"])
            found[label] = volume_metrics(volumes[label], truth, 1.0)
            row = scores(volumes[label], truth)
            gain = f"{row['psnr'] - found[TUNED]['psnr']:+.2f}" if calls else ""
            lines.append(
                f"| {views} | {100 * noise:g} % | {label} | {calls} | {row['psnr']:.2f} | {gain} | {row['ssim']:.4f} "
                f"| {settings} |"
            )
            print(key, lines[-1], flush=True)
        if not picture.exists():
            montage(volumes, truth, picture, title=f"{case.title}, {views} views", window=(0.0, 1.0), metrics=found)
            with Image.open(picture) as drawn:  # a palette keeps what there is to see
                drawn.convert("RGB").quantize(256).save(picture, optimize=True)
    head = [
        f"## {case.title}",
        "",
        f"`{case.measured}`, tuned on `{case.tuned}`. The truth without its own white noise would have",
        f"a PSNR of {noise_floor(truth):.1f} dB.",
        "",
        "| views | noise | method | calls a slice | PSNR (dB) | gain over ADMM-TV | SSIM | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return [*head, *lines, "", f"![{case.title}]({picture.name})", ""], picture


def main() -> None:
    """Tune, reconstruct, draw and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("materials", type=Path)
    parser.add_argument("ct", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [HEAD]
    for key in args.cases:
        text, picture = study(key, {True: args.materials, False: args.ct}, args.work)
        lines += text
        if args.output is not None:
            shutil.copyfile(picture, args.output.parent / picture.name)
    lines.append(FINDINGS)
    print("\n".join(lines))
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text("\n".join(lines), encoding="utf-8"))


if __name__ == "__main__":
    main()
