# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Complex volumes with networks trained on magnitudes: where the phase comes from, what becomes of the imaginary part.

    python scripts/studies/complex_volumes.py [--steps 8] [--output docs/results/complex_volumes.md]

A part of the example brain is given a smooth phase of several radians with a bump, and measured by 4 coils (6 times
faster, with noise) and by one (4 times faster, without). The axial and the coronal network take turns.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.bundle.score_network import ScoreNetwork, load_score_network
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.complex_plane_denoiser import ComplexPlaneDenoiser
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.protocols import PlaneDenoiser, Problem, VolumeGeometry

ROOT = Path(__file__).resolve().parents[2]
SPACING = (1.0, 1.0, 1.0)
START = {"name": "admm_tv", "iterations": 15}
PNP_HQS = {"name": "pnp_hqs", "start": START, "sigma_start": 0.1}
FROM_NOISE = {"name": "ddim", "start": "noise", "sigma_start": 2.0}


class Kept(ComplexPlaneDenoiser):
    """The imaginary part stays as it is."""

    def _shrink(self, imaginary: Tensor, sigma: float) -> Tensor:
        return imaginary


class Dropped(ComplexPlaneDenoiser):
    """The imaginary part is noise."""

    def _shrink(self, imaginary: Tensor, sigma: float) -> Tensor:
        return torch.zeros_like(imaginary)


class OneVariance(ComplexPlaneDenoiser):
    """A Wiener filter with one variance for the volume."""

    def _shrink(self, imaginary: Tensor, sigma: float) -> Tensor:
        power = float(imaginary.square().mean())
        return imaginary * max(power - sigma**2, 0.0) / power


class ByNetwork(ComplexPlaneDenoiser):
    """The network denoises the imaginary part too."""

    def _shrink(self, imaginary: Tensor, sigma: float) -> Tensor:
        return self.inner(imaginary.contiguous(), sigma)


class PhaseOfStart(ComplexPlaneDenoiser):
    """The phase is that of the operator's classical estimate, which ``main`` sets."""

    initial: Tensor

    def _phase(self, x: Tensor) -> Tensor:
        return super()._phase(self.initial)


Make = Callable[[PlaneDenoiser], PlaneDenoiser]


def phase(width: float = 2.0, cls: type[ComplexPlaneDenoiser] = ComplexPlaneDenoiser) -> Make:
    """Return the maker of denoisers of the mode ``phase``."""
    return lambda inner: cls(inner, "phase", SPACING, width=width)


ROWS: list[tuple[str, Make]] = [
    ("channels", lambda inner: ComplexPlaneDenoiser(inner, "channels", SPACING)),
    ("phase; imaginary part kept", phase(cls=Kept)),
    ("phase; imaginary part dropped", phase(cls=Dropped)),
    ("phase; one Wiener factor", phase(cls=OneVariance)),
    ("phase; imaginary part through the network", phase(cls=ByNetwork)),
    ("phase of the zero-filled image; local Wiener filter", phase(cls=PhaseOfStart)),
    ("**phase; local Wiener filter**, 2 mm", phase()),
    ("the same, 1 mm", phase(1.0)),
    ("the same, 4 mm", phase(4.0)),
    ("the same, 8 mm", phase(8.0)),
]


def brain() -> Tensor:
    """Return 80 x 80 x 40 voxels of a brain, from 0 to 1, with a smooth phase."""
    volume, _ = read_volume(ROOT / "examples" / "colin27_t1.nii.gz")
    volume = volume[:, 50:130, 68:148, 80:120]
    X, Y, Z = axes()
    phi = 1.5 * X + torch.sin(2.5 * Y + 0.5) * torch.cos(2 * Z) + 2.0 * X * Y + 0.7
    phi = phi + 2.0 * torch.exp(-((X - 0.3) ** 2 + (Y + 0.6) ** 2 + (Z + 0.5) ** 2) / 0.08)
    return torch.polar(volume / volume.max(), phi[None])


def axes() -> tuple[Tensor, ...]:
    """Return the coordinates of the voxels, -1 to 1."""
    return torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (80, 80, 40)), indexing="ij")


def coil_maps() -> Tensor:
    """Return the sensitivities of 4 coils around the head; their squares add up to 1."""
    X, Y, Z = axes()
    maps = []
    for k in range(4):
        c, s = math.cos(math.pi * k / 2), math.sin(math.pi * k / 2)
        distance = (X - 1.3 * c) ** 2 + (Y - 1.3 * s) ** 2 + 0.3 * Z**2
        maps.append(torch.polar(torch.exp(-distance / 2.5), 0.8 * (X * c + Y * s)))
    stacked = torch.stack(maps)
    return stacked / stacked.abs().square().sum(0).sqrt()


def measure(x: Tensor, acceleration: float, maps: Tensor | None, noise: float) -> tuple[Problem, float]:
    """Return the problem in network units, and the unit."""
    geometry = VolumeGeometry((80, 80, 40), SPACING)
    options = {"acceleration": acceleration, "coil_maps": maps, "complex_volume": True}
    operator = registry.create("operators", "cartesian_mri", geometry=geometry, **options)
    y = operator(x)
    std = noise * float(y[y != 0].abs().square().mean().sqrt()) / 2**0.5
    y = y + std * (y != 0) * keyed_normal(tuple(y.shape), torch.complex64, "study")
    scale = IntensityMap.percentile(operator.initial(y)).scale
    return Problem(operator, y / scale, std / scale), scale


def decibels(error: Tensor, components: int) -> float:
    """Return the PSNR for values up to 1, with the error of each real component."""
    return -10 * math.log10(float(error.abs().square().mean()) / components)


def main() -> None:
    """Reconstruct and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    scores = [load_score_network(ROOT / "bundles" / f"brain_mr_t1_{plane}") for plane in ("axial", "coronal")]
    truth = brain()
    noise = registry.create("noises", "independent", seed=0, case="study")
    lines = [
        "# Complex volumes",
        "",
        f"80 x 80 x 40 voxels of the example brain with a smooth phase, {args.steps} steps.",
        "PSNR of the magnitude / of the complex volume (each real component), dB; seconds.",
    ]
    for title, acceleration, maps, level, spec, rows in (
        ("4 coils, 6 times faster, 2 % noise; pnp_hqs", 6.0, coil_maps(), 0.02, PNP_HQS, ROWS),
        ("1 coil, 4 times faster, no noise; pnp_hqs", 4.0, None, 0.0, PNP_HQS, ROWS),
        (
            "4 coils, 6 times faster, 2 % noise; ddim from noise",
            6.0,
            coil_maps(),
            0.02,
            FROM_NOISE,
            ROWS[:1] + ROWS[5:],
        ),
    ):
        problem, scale = measure(truth, acceleration, maps, level)
        PhaseOfStart.initial = problem.operator.initial(problem.measurement)
        lines += ["", f"| {title} | magnitude | complex | seconds |", "|---|---|---|---|"]
        print("\n".join(lines[-2:]), flush=True)
        classical: list[tuple[str, Make | None]] = [("admm_tv", None)] if spec is PNP_HQS else []
        for label, make in [*classical, *rows]:
            started, prior = time.perf_counter(), None
            if make is not None:
                prior = registry.create("priors", "perpendicular", K=2)
                prior.bind([make(plane_denoiser(score)) for score in scores], noise)
            sampler = registry.build("samplers", {**spec, "steps": args.steps} if make else START, where="sampler")
            step = registry.create("consistency", "conjugate_gradient")
            x = ReconstructionEngine(problem, prior, step, sampler, noise).reconstruct(seed=0, case="study").x * scale
            magnitude, both = decibels(x.abs() - truth.abs(), 1), decibels(x - truth, 2)
            lines.append(f"| {label} | {magnitude:.1f} | {both:.1f} | {time.perf_counter() - started:.0f} |")
            print(lines[-1], flush=True)
    if args.output is not None:
        text = "\n".join(lines) + "\n"
        atomic_write(args.output, lambda path: path.write_text(text))


def plane_denoiser(score: ScoreNetwork) -> PlaneDenoiser:
    """Return the denoiser of a network's slices."""
    denoiser = registry.build("denoisers", score.denoiser, where=f"bundle {score.name}", network=score.network)
    return BatchedPlaneDenoiser(denoiser, score.plane, window=score.window)


if __name__ == "__main__":
    main()
