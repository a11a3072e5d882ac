# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Few views of a cone beam: FDK, SIRT, 3D ADMM-TV at its best weight, and a bundle's diffusion prior if there is one.

    python scripts/studies/cone_beam/study.py CT.nii.gz [--crop 96 96 96] [--views 60] [--half-fan 25]
        [--bundle bundles/AXIAL [--auxiliary bundles/CORONAL]] [--output FILE.md] [--picture FILE.png] [--work FOLDER]

The volume (HU) is cut about its centre and clipped to the window, the bundle's own when it has one; its scan is
simulated by the operator that all methods reconstruct with. With ``--half-fan`` the detector sees all of the volume on
one side of the axis, and so many mm of itself on the other. ADMM-TV is given every weight of a grid and judged by the
truth: the best row is the rival. PSNR and SSIM are of the window mapped to 0 and 1. Needs plugins/diffrecon-rtk.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Spacing
from torch import nn

from monai_diffrecon import registry
from monai_diffrecon.bundle.metadata import read_metadata
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.protocols import VolumeGeometry

#: lambda / ||A^T A||, units of the window.
WEIGHTS = (0.00003, 0.0001, 0.0003, 0.001, 0.003)
#: Grey values of the picture in HU, from fat to vessels with contrast agent.
SHOWN = (-200.0, 600.0)


class Trend:
    """Handler that prints the PSNR after every so many steps: whether a method has converged."""

    def __init__(self, name: str, every: int, reference: torch.Tensor, window: tuple[float, float]) -> None:
        self.name, self.every, self.reference, self.window = name, every, reference, window

    def attach(self, engine: Any) -> None:
        """Attach to a ``ReconstructionEngine``."""
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Print the PSNR of the window mapped to 0 and 1."""
        state, (low, high) = engine.state.recon, self.window
        if state.step % self.every == 0:
            volume = (IntensityMap.window(low, high).to_physical(state.x) - low) / (high - low)
            error = float((volume - self.reference).square().mean())
            print(f"{self.name}: {-10.0 * math.log10(error):.2f} dB after {state.step} steps", flush=True)


def window_of(args: argparse.Namespace) -> tuple[float, float]:
    """Return the window in HU: what the options say, else the bundle's, else -1000 to 1000."""
    if args.window is not None:
        return args.window[0], args.window[1]
    if args.bundle is not None:
        intensity = read_metadata(args.bundle)["diffrecon"]["intensity"]
        if intensity["map"] == "window":
            return intensity["low"], intensity["high"]
    return -1000.0, 1000.0


def own_noise(truth: torch.Tensor) -> float:
    """Return the noise in HU of the truth itself, which no method can know: that of its smoothest soft tissue."""
    mean, square = (torch.nn.functional.avg_pool3d(v, 3) for v in (truth, truth.square()))
    spread = (square - mean.square()).clamp_min(0.0).sqrt() * math.sqrt(27 / 26)
    return float(spread[(mean > 0.0) & (mean < 400.0)].quantile(0.125))


def classical(operator: dict[str, Any], sampler: Any, window: tuple[float, float]) -> DiffReconInferer:
    """Return an inferer whose sampler calls no network; the network only has units."""
    intensity = {"map": "window", "low": window[0], "high": window[1]}
    score = ScoreNetwork("none", "0", nn.Identity(), "axial", (1.0, 1.0), {"name": "direct"}, intensity, "")
    return DiffReconInferer(score, operator, sampler=sampler)


def half_fan(operator: dict[str, Any], geometry: VolumeGeometry, beyond: float) -> dict[str, Any]:
    """Return the options of the detector that is left of a centred one that sees the whole volume."""
    whole = registry.build("operators", operator, geometry=geometry).detector
    (du, dv), (_, end) = whole.spacing, whole.edges(0)
    count = math.ceil((end + beyond) / du) + 1
    return {
        "detectors": [count, whole.pixels[1]],
        "detector_spacing": [du, dv],
        "detector_offset": [end - (count - 1) / 2 * du, 0.0],
    }


def diffusion(args: argparse.Namespace, operator: dict[str, Any], auxiliary: Path | None) -> DiffReconInferer:
    """Return the bundle's inferer of its task, with this operator."""
    config = ConfigParser()
    config.read_config([str(args.bundle / "configs" / name) for name in ("inference.json", f"tasks/{args.task}.json")])
    config.update({"bundle_root": str(args.bundle), "operator": operator})
    if auxiliary is not None:
        config.update({"auxiliary_bundle": str(auxiliary.resolve())})
    config.update({f"sampler#{name}": value for name, value in args.sampler.items()})
    config.update({f"consistency#{name}": value for name, value in args.consistency.items()})
    return config.get_parsed_content("inferer")


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="CT volume in HU")
    parser.add_argument("--crop", type=int, nargs=3, default=(96, 96, 96), metavar=("X", "Y", "Z"))
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--arc", type=float, default=360.0, help="degrees")
    parser.add_argument("--half-fan", type=float, default=None, help="mm of the detector beyond the axis")
    parser.add_argument("--source-distance", type=float, default=600.0, help="mm, to the isocentre")
    parser.add_argument("--detector-distance", type=float, default=1000.0, help="mm, from the source")
    parser.add_argument(
        "--noise", type=float, default=0.005, help="relative to the root mean square of the projections"
    )
    parser.add_argument("--window", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"))
    parser.add_argument(
        "--unit", choices=("HU", "1/mm", "arbitrary"), default="HU", help="of the volume and the window"
    )
    parser.add_argument("--spacing", type=float, default=None, help="voxel size in mm that the volume is resampled to")
    parser.add_argument("--iterations", type=int, default=30, help="of ADMM-TV; SIRT has as many")
    parser.add_argument("--weights", type=float, nargs="*", default=WEIGHTS, help="of ADMM-TV")
    parser.add_argument("--rho", type=float, default=0.1, help="of ADMM-TV; its speed, not its solution")
    parser.add_argument("--cg-iterations", type=int, default=5, help="of ADMM-TV, in each of its iterations")
    parser.add_argument("--every", type=int, default=None, help="print the PSNR after every so many steps")
    parser.add_argument("--no-sirt", action="store_true", help="leave out SIRT")
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--auxiliary", type=Path, default=None, help="bundle of another plane")
    parser.add_argument("--task", default="sparse_view_ct", help="overlay of the bundle")
    parser.add_argument("--sampler", type=json.loads, default={}, help="options of the bundle's sampler, JSON")
    parser.add_argument("--consistency", type=json.loads, default={}, help="options of its consistency step, JSON")
    parser.add_argument("--work", type=Path, default=None, help="folder from which a killed study goes on")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None, help="PNG of the volumes and their errors")
    args = parser.parse_args()
    if args.auxiliary is not None and args.bundle is None:
        parser.error("--auxiliary needs --bundle")

    volume, read = read_volume(args.source)
    low, high = window_of(args)
    affine = affine_of(read)
    if args.spacing is not None:
        fine = Spacing(pixdim=(args.spacing,) * 3, mode=3)(MetaTensor(volume, affine=torch.as_tensor(affine)))
        volume, affine = fine.as_subclass(torch.Tensor), fine.affine.numpy()
    corner = [max(0, (n - c) // 2) for n, c in zip(volume.shape[1:], args.crop, strict=True)]
    box = tuple(slice(a, a + c) for a, c in zip(corner, args.crop, strict=True))
    truth = volume[(slice(None), *box)].float().clamp(low, high).contiguous()
    geometry = geometry_of(truth.shape[1:], affine)  # only its spacing matters here
    operator = {
        "name": "cone_beam_ct",
        "views": args.views,
        "arc": args.arc,
        "source_distance": args.source_distance,
        "detector_distance": args.detector_distance,
    }
    if args.half_fan is not None:
        operator |= half_fan(operator, geometry, args.half_fan)
    measurement, made = simulate(truth, geometry, Simulation(operator, noise=args.noise), unit=args.unit)
    y = to_tensor(measurement)

    methods: list[tuple[str, DiffReconInferer]] = [("FDK", classical(operator, "initial", (low, high)))]
    if not args.no_sirt:
        sirt = {"name": "sirt", "iterations": args.iterations}
        methods.append((f"SIRT, {args.iterations} iterations", classical(operator, sirt, (low, high))))
    for weight in args.weights:
        tv = {
            "name": "admm_tv",
            "rho": args.rho,
            "threshold": weight / args.rho,
            "iterations": args.iterations,
            "cg_iterations": args.cg_iterations,
        }
        label = f"3D ADMM-TV, weight {weight:g}, rho {args.rho:g}, {args.iterations} x {args.cg_iterations} iterations"
        methods.append((label, classical(operator, tv, (low, high))))
    if args.bundle is not None:
        methods.append((f"{args.bundle.name} alone", diffusion(args, operator, None)))
    if args.auxiliary is not None:
        both = f"{args.bundle.name} and {args.auxiliary.name}"
        methods.append((both, diffusion(args, operator, args.auxiliary)))

    size, pixels = " x ".join(map(str, truth.shape[1:])), " x ".join(map(str, made.measurement_shape[1:]))
    spacing = " x ".join(f"{d:.3g}" for d in geometry.spacing)
    side = "" if args.half_fan is None else f" (half fan, {args.half_fan:g} mm beyond the axis)"
    own = f", its own noise {own_noise(truth):.0f} HU" if args.unit == "HU" else ""
    lines = [
        f"{args.source.name}, {size} voxels of {spacing} mm, {low:g} to {high:g} {args.unit}{own}; {args.views} "
        f"views over {args.arc:g} degrees, {pixels} pixels{side}, noise {args.noise:g}, {torch.get_num_threads()} "
        "threads",
        "",
        "| method | passes | PSNR (dB) | SSIM axial | coronal | sagittal | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    reference = (truth - low) / (high - low)
    volumes, metrics = {}, {}
    for name, inferer in methods:
        handlers = () if args.every is None else (Trend(name, args.every, reference, (low, high)),)
        checkpoint = (
            None if args.work is None else RunCheckpoint(args.work / f"{re.sub(r'[^0-9A-Za-z]+', '_', name)}.ckpt")
        )
        done = inferer.reconstruct(y, case="case", handlers=handlers, checkpoint=checkpoint)
        m = volume_metrics((done.volume - low) / (high - low), reference, data_range=1.0)
        if args.picture is not None:
            title = name.split(",")[0]
            volumes[title], metrics[title] = done.volume, m
        ssim = " | ".join(f"{m[f'ssim_{p}']:.4f}" for p in ("axial", "coronal", "sagittal"))
        lines.append(
            f"| {name} | {done.report.denoiser_calls} | {m['psnr']:.2f} | {ssim} | {done.report.seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    if args.picture is not None:
        montage(volumes, truth, args.picture, spacing=geometry.spacing, window=SHOWN, metrics=metrics)
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
