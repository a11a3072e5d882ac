# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the CT projectors against astra-toolbox on the CPU, and whether both compute the same.

    pip install astra-toolbox      # for this comparison only; nothing else needs it
    python scripts/benchmarks/projectors.py [--repeats 7] [--threads 2] [--output docs/results/projectors.md]

Both work in one process and take turns, so that a machine that slows down meanwhile does not favour either. The
volume and the sinogram are in each library's own layout beforehand.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_diffrecon.operators.fan_ct import FanCT
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import VolumeGeometry

SOURCE, DETECTOR = 570.0, 1040.0


class Astra:
    """The same scan by astra-toolbox, slice by slice, as its 2D projectors work.

    astra's rows run along -y and its columns along x. Its CPU has Joseph's interpolation for parallel beams
    (``linear``) and lengths of intersection for fans (``line_fanflat``).
    """

    def __init__(self, astra: Any, operator: ParallelCT | FanCT) -> None:
        nx, ny, _ = operator.geometry.shape
        bins = operator.measurement_shape[1]
        angles = np.deg2rad(operator.degrees)
        volume = astra.create_vol_geom(ny, nx)
        if isinstance(operator, ParallelCT):
            scan, kind = astra.create_proj_geom("parallel", operator.detector_spacing, bins, angles), "linear"
        else:
            width = operator.fan.detector_spacing
            scan = astra.create_proj_geom("fanflat", width, bins, angles, SOURCE, DETECTOR - SOURCE)
            kind = "line_fanflat"
        self.projector = astra.OpTomo(astra.create_projector(kind, scan, volume))

    def forward(self, slices: list[np.ndarray]) -> list[np.ndarray]:
        """Return the sinograms (views, bins) of slices in astra's layout."""
        return [self.projector.FP(image) for image in slices]

    def adjoint(self, sinograms: list[np.ndarray]) -> list[np.ndarray]:
        """Return the back-projections, in astra's layout, of sinograms (views, bins)."""
        return [self.projector.BP(sinogram) for sinogram in sinograms]


def in_turn(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each call; they take turns, and the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def compare(astra: Any, operator: ParallelCT | FanCT, repeats: int) -> tuple[dict[str, float], float, float]:
    """Return the milliseconds of both, and how far forward and adjoint are apart (relative, in the 2-norm)."""
    # Smooth discs: where interpolations differ (fan beams) white noise would show little else.
    nx, ny, nz = operator.geometry.shape
    x, y = np.meshgrid(np.arange(nx) - nx / 2.6, np.arange(ny) - ny / 1.8, indexing="ij")
    discs = [np.exp(-(((x**2 + y**2) / (20.0 + 2.0 * z) ** 2) ** 2)) for z in range(nz)]
    volume = torch.from_numpy(np.stack(discs, axis=-1)).float()[None]
    sinogram = operator(volume)
    other = Astra(astra, operator)
    slices = [np.ascontiguousarray(volume[0, :, :, z].numpy().T[::-1]) for z in range(nz)]
    sinograms = [np.ascontiguousarray(sinogram[..., z].numpy()) for z in range(nz)]
    calls = {
        "forward": lambda: operator(volume),
        "astra forward": lambda: other.forward(slices),
        "adjoint": lambda: operator.adjoint(sinogram),
        "astra adjoint": lambda: other.adjoint(sinograms),
    }
    milliseconds = in_turn(calls, repeats)
    forward = np.stack(other.forward(slices), axis=-1)
    adjoint = np.stack([image[::-1].T for image in other.adjoint(sinograms)], axis=-1)
    return (
        milliseconds,
        relative(forward, sinogram.numpy()),
        relative(adjoint, operator.adjoint(sinogram)[0].numpy()),
    )


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance of two arrays relative to the second."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def scans(geometry: VolumeGeometry, views: list[int]) -> list[tuple[str, Callable[[], ParallelCT | FanCT]]]:
    """Return names and makers of the operators."""
    return [
        (f"{kind}, {count} views", lambda count=count, maker=maker: maker(geometry, count))
        for kind, maker in (
            ("parallel", lambda g, n: ParallelCT(g, views=n)),
            ("fan", lambda g, n: FanCT(g, SOURCE, DETECTOR, views=n)),
        )
        for count in views
    ]


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; astra's CPU projectors take one")
    parser.add_argument("--views", type=int, nargs="+", default=[8, 60, 180])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--output", type=Path, default=None, help="write the table there too")
    args = parser.parse_args()
    try:
        import astra
    except ImportError as error:
        sys.exit(f"astra-toolbox cannot be imported ({error}); for this comparison: pip install astra-toolbox")
    torch.set_num_threads(args.threads)
    os.environ["DIFFRECON_CACHE_DIR"] = "off"
    geometry = VolumeGeometry((args.size, args.size, args.slices))
    lines = [
        f"{args.size} x {args.size} x {args.slices}, float32, CPU, {args.threads} threads of torch "
        f"{torch.__version__.split('+')[0]}, astra-toolbox {astra.__version__}; medians of {args.repeats}, in ms",
        "",
        "For fan beams, astra's CPU code offers only intersection lengths, while this operator uses Joseph's "
        "interpolation, so their adjoints differ pixel by pixel. The build is per geometry, without the disk cache.",
        "",
        "| scan | forward | astra | ratio | adjoint | astra | ratio | forward differs | adjoint differs | build (s) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name, make in scans(geometry, args.views):
        started = time.perf_counter()
        operator = make()
        built = time.perf_counter() - started
        ms, forward, adjoint = compare(astra, operator, args.repeats)
        # Parallel: the same interpolation, so rounding only. Fan: interpolation against lengths of intersection,
        # which agree in line integrals of something smooth, not in what a single pixel gets back.
        checked, allowed = ((forward, adjoint), 1e-4) if name.startswith("parallel") else ((forward,), 2e-2)
        if max(checked) > allowed:
            sys.exit(f"{name}: the results differ by {max(checked):.2g}, more than {allowed:g}")
        cells = [name]
        for what in ("forward", "adjoint"):
            ours, theirs = ms[what], ms[f"astra {what}"]
            cells += [f"{ours:.1f}", f"{theirs:.0f}", f"{theirs / ours:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{forward:.1e}", f"{adjoint:.1e}", f"{built:.2f}"]) + " |")
        print(lines[-1], flush=True)
    if args.output is not None:
        args.output.write_text("# CT projectors against astra-toolbox\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
