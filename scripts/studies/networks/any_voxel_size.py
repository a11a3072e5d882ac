# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
r"""Networks of any voxel size against those of one size, in whole reconstructions of validation subjects.

    python scripts/studies/networks/any_voxel_size.py CT BRAIN_MR FINE.nii.gz --work FOLDER \
        [--tasks ...] [--output FILE.md]

CT and BRAIN_MR are folders of ``scripts/prepare_training_data.py``; FINE is an MR volume that no network was trained
on, with pixels that the bundles of one size refuse. A network that replaces those of a bundle denoises all planes. What
was computed is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.bundle.score_network import ScoreNetwork, load_score_network
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.resampling import apply_along, resampling_matrix

ROOT = Path(__file__).resolve().parents[3]
Spec = dict[str, Any]
#: modality -> networks: bundles of axial and of coronal slices, or a file of weights and the bundle of that network.
NETWORKS: dict[str, dict[str, tuple[str, str]]] = {
    "mr": {
        "one size": ("brain_mr_t1_axial", "brain_mr_t1_coronal"),
        "brain_mr": ("scripts/training/brain_mr.pt", "brain_mr_t1_coronal"),
    },
    "ct": {
        "one size": ("body_ct_axial", "body_ct_coronal"),
        "body_ct": ("scripts/training/body_ct.pt", "body_ct_axial"),
        "body_ct_loop": ("bundles/body_ct/models/model.pt", "body_ct_axial"),
    },
}
CUBIC: Spec = {"name": "cubic"}
HEAD = """# Networks of any voxel size

`scripts/studies/networks/any_voxel_size.py`:
whole reconstructions of the middle of validation volumes, with the settings of
the tasks and no noise. The classical rival is cubic interpolation of thick slices, and otherwise 3D ADMM-TV with
the settings that `docs/results/validation.md` found for the task on the first subject (MRI: 400 iterations). Its
PSNR is in dB, of a data range of 1 in network units. For each network: gain over it in dB, mean / worst over the
subjects. `one size` are the networks of `brain_mr_t1_*` (1 mm) and `body_ct_*` (1.5 mm), two a modality; the others
are one network for all planes. CT is resampled to 1.5 mm but in the last row. Where the bundles of one size refuse
the voxels (0.66, 0.72, 0.91 mm; CT of 1.39 x 1.39 x 2 mm), they are run with the check off.

`ljubl04_T1W` (0.91 mm) trained the axial network of one size. `body_ct_loop` was chosen by reconstructions of these
CT subjects. MR scans with voxels below 0.66 mm, and brains with thin slices below 1 mm, were not available to
validate.
"""


def tv(rho: float, weight: float, iterations: int = 1000, nonnegative: bool = False) -> Spec:
    """Return 3D ADMM-TV with the settings that ``validate_bundles.py`` found for a task."""
    options = {"rho": rho, "threshold": weight / rho, "iterations": iterations, "nonnegative": nonnegative}
    return {"name": "admm_tv", **options}


@dataclass(frozen=True)
class Task:
    """A task, its volumes and its rival.

    Attributes:
        title: for readers.
        overlay: name in ``configs/tasks`` of the bundle of axial slices.
        volumes: files below the folder of the modality; ``fine`` is the volume FINE.
        rival: the classical sampler.
        size: most voxels of the part that is measured, in the middle of the volume.
        spacing: voxel size (mm) that the volumes are resampled to; None: that of the scan.
        overrides: of the overlay.
        planes: one plane alone if the slices lie too far apart for the others.
    """

    title: str
    overlay: str
    volumes: tuple[str, ...]
    rival: Spec
    size: tuple[int, int, int] = (80, 96, 40)
    spacing: float | None = None
    overrides: Spec = field(default_factory=dict)
    planes: int = 2


T1 = ("ljubx19_T1", "fnndsc_eun_T1", "fsformats_T1_brain")
BODY = ("totalseg_aorta_thorax", "4dlung_113HM10395_chest", "nsclcrg_R01001_upper")
THIN, VIEWS_8 = (96, 96, 16), {"operator#views": 8}
ALONE = {"prior": {"name": "slices"}}
TASKS = {
    "mr_z_sr": Task("T1, 5 mm to 1 mm", "z_super_resolution", T1, CUBIC),
    "mr_8x": Task("T1, 8 times faster", "accelerated_mri", T1, tv(0.3, 0.0018, 400, True), (96, 112, 16)),
    "mr_8x_t2": Task(
        "T2, 8 times faster",
        "accelerated_mri",
        ("ljubx19_T2", "upenngbm_00002_T2_brain"),
        tv(0.3, 0.0018, 400, True),
        (96, 112, 16),
    ),
    "mr_fine": Task(
        "Prostate T2, 0.66 x 0.66 mm, 4.5 mm to 1.5 mm",
        "z_super_resolution",
        ("fine",),
        CUBIC,
        (96, 96, 42),
        overrides={"operator#thickness": 4.5, "operator#target_spacing": 1.5},
    ),
    "mr_8x_fine": Task(
        "FLAIR 0.72 x 0.72 x 3 mm and T1 0.91 x 0.91 x 3 mm, 8 times faster, axial slices alone",
        "accelerated_mri",
        ("ljubl04_FLAIR", "ljubl04_T1W"),
        tv(0.3, 0.0018, 400, True),
        (160, 176, 8),
        overrides=ALONE,
        planes=1,
    ),
    "ct_32": Task("CT, 32 views", "sparse_view_ct", BODY, tv(0.1, 0.00032), THIN, 1.5),
    "ct_8": Task("CT, 8 views", "sparse_view_ct", BODY, tv(0.1, 0.0018, 1000, True), (96, 96, 32), 1.5, VIEWS_8),
    "ct_90": Task("CT, 90 degrees", "limited_angle_ct", BODY, tv(0.1, 0.00056), THIN, 1.5),
    "ct_32_native": Task(
        "CT, 32 views, 1.39 x 1.39 x 2 mm", "sparse_view_ct", (BODY[2],), tv(0.1, 0.00032), (96, 96, 32)
    ),
}


def scores_of(kind: tuple[str, str], spacing: tuple[float, float, float]) -> tuple[ScoreNetwork, ScoreNetwork]:
    """Return the networks of axial and coronal slices, said to be of the volume's voxel size."""
    if kind[0].endswith(".pt"):
        shared = load_score_network(ROOT / "bundles" / kind[1])
        shared.network.load_state_dict(torch.load(ROOT / kind[0], map_location="cpu", weights_only=True))
        axial = coronal = replace(shared, name=kind[0])
    else:
        axial, coronal = (load_score_network(ROOT / "bundles" / name) for name in kind)
    a, b, c = spacing
    axial = replace(axial, plane="axial", spacing=(a, b), name=f"{axial.name} axial")
    return axial, replace(coronal, plane="coronal", spacing=(a, c), name=f"{coronal.name} coronal")


def volume_of(task: Task, name: str, folder: Path, fine: Path) -> tuple[Tensor, tuple[float, float, float]]:
    """Return the middle (1, X, Y, Z) of a volume in network units, and its voxel size."""
    if name == "fine":
        x, geometry = read_volume(fine)
        x, spacing = x / torch.quantile(x[x > 0.02 * x.max()][::7], 0.995), geometry.spacing
    else:
        rows = json.loads((folder / "datalist.json").read_text())["validation"]
        spacing = next(r["spacing"] for r in rows if r["file"] == f"{name}.npy")
        x = torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.float32))[None]
    # With a margin, for what the resampling reaches.
    wanted = [s if task.spacing is None else task.spacing for s in spacing]
    most = [round(m * w / s) + 12 * (w != s) for m, s, w in zip(task.size, spacing, wanted, strict=True)]
    x = middle(x, most)
    for axis, (s, w) in enumerate(zip(spacing, wanted, strict=True), start=1):
        x = apply_along(resampling_matrix(x.shape[axis], s, w), x, axis) if s != w else x
    a, b, c = (float(w) for w in wanted)
    return middle(x, task.size).clamp(0.0, 2.0).contiguous(), (a, b, c)


def middle(x: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    """Return at most ``size`` voxels in the middle."""
    starts = [max(n - m, 0) // 2 for n, m in zip(x.shape[1:], size, strict=True)]
    return x[(slice(None), *(slice(a, a + m) for a, m in zip(starts, size, strict=True)))]


def run(task: Task, modality: str, truth: Tensor, spacing: tuple[float, float, float], method: str) -> dict[str, float]:
    """Return PSNR (dB, of a range of 1 in network units) and seconds of a reconstruction."""
    kinds = NETWORKS[modality]
    root = ROOT / "bundles" / kinds["one size"][0]
    scores = scores_of(kinds.get(method, kinds["one size"]), spacing)
    overrides: Mapping[str, Any] = {**task.overrides, "device": "cpu"}
    if method not in kinds:
        overrides = {**overrides, "sampler": task.rival, "consistency": {"name": "none"}}
    config = merged_config(root, task=task.overlay, overrides=overrides, where=task.title).get()
    parser = ConfigParser({**config, "score": scores[0], "auxiliaries": scores[1 : task.planes]})
    inferer = content_of(parser, "inferer")
    inferer.progress = False
    intensity = dict(scores[0].intensity)
    window = IntensityMap.window(**intensity) if intensity.pop("map") == "window" else None
    x = truth if window is None else window.to_physical(truth)
    geometry = geometry_of(x.shape[1:], np.diag([*spacing, 1.0]))
    measured, operator = simulate(x, geometry, Simulation(config["operator"]), unit=None if window is None else "HU")
    tensor = to_tensor(replace(measured, simulated=True), image=operator.measured_geometry())
    start = time.monotonic()
    done = inferer.reconstruct(tensor, case="case").volume.as_subclass(Tensor)
    seconds = time.monotonic() - start
    done = done if window is None else window.to_network(done)
    return {"psnr": float(-10 * (done - truth).square().mean().log10()), "seconds": seconds}


def table(task: Task, modality: str, found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a task as a row of Markdown: the rival, and mean and worst gain of each network over it."""
    rival = [found[f"{v} rival"]["psnr"] for v in task.volumes]
    cells = [f"{sum(rival) / len(rival):.2f}"]
    for method in NETWORKS[modality]:
        gains = [found[f"{v} {method}"]["psnr"] - r for v, r in zip(task.volumes, rival, strict=True)]
        cells.append(f"{sum(gains) / len(gains):+.2f} / {min(gains):+.2f}")
    size = " x ".join(map(str, task.size))
    return [f"| {task.title} | {len(rival)} | {size} | " + " | ".join(cells) + " |"]


def main() -> None:
    """Reconstruct, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("mr", type=Path)
    parser.add_argument("fine", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[str]] = {"mr": [], "ct": []}
    for key in args.tasks:
        task, modality = TASKS[key], key[:2]
        kept = args.work / f"{key}.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        for volume in task.volumes:
            truth, spacing = volume_of(task, volume, getattr(args, modality), args.fine)
            for method in ("rival", *NETWORKS[modality]):
                name = f"{volume} {method}"
                if name not in found:
                    found[name] = run(task, modality, truth, spacing, method)
                    print(f"{key} {name}: {found[name]['psnr']:.2f} dB, {found[name]['seconds']:.0f} s", flush=True)
                    text = json.dumps(found, indent=1)
                    atomic_write(kept, lambda path, text=text: path.write_text(text))
        tables[modality] += table(task, modality, found)
    lines = [HEAD]
    for modality, rows in tables.items():
        names = list(NETWORKS[modality])
        head = f"| task | subjects | voxels | classical, mean (dB) | {' | '.join(names)} |"
        lines += [head, "|---" * (4 + len(names)) + "|", *rows, ""]
    print("\n".join(lines))
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text("\n".join(lines), encoding="utf-8"))


if __name__ == "__main__":
    main()
