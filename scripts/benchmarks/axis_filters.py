# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Matrices along one axis of a volume: the whole matrix, its band, and for thick slices ``A^T (A x)``.

    python scripts/benchmarks/axis_filters.py [--across 96]

Times are the best of five, in ms; the last column is the largest difference from the whole matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from monai_diffrecon.numerics.axis_filter import along_axis, gaussian_matrix, reach_of
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import VolumeGeometry


def best(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the shortest of five times (ms) and the result."""
    out, times = call(), []
    for _ in range(5):
        started = time.perf_counter()
        out = call()
        times.append(1e3 * (time.perf_counter() - started))
    return min(times), out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--across", type=int, default=96, help="voxels along the two other axes")
    across = parser.parse_args().across
    print("| matrix | size | axis | whole | band | two factors | difference |\n|---|---|---|---|---|---|---|")
    for size in (128, 192, 256, 512):
        for axis in (1, 2, 3):
            shape = [across] * 3
            shape[axis - 1] = size
            x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
            plane = ("sagittal", "coronal", "axial")[axis - 1]
            slices = SliceThickness(VolumeGeometry((shape[0], shape[1], shape[2])), thickness=5.0, plane=plane)
            for name, matrix in (("filter", gaussian_matrix(size, 0.7)), ("gram", slices.gram)):
                reach = reach_of(matrix)
                whole, want = best(lambda m=matrix, x=x, a=axis: along_axis(m, x, a))
                band, got = best(lambda m=matrix, x=x, a=axis, r=reach: along_axis(m, x, a, r))
                two = f"{best(lambda s=slices, x=x: s.adjoint(s(x)))[0]:.1f}" if name == "gram" else ""
                difference = float((got - want).abs().max())
                print(f"| {name} | {size} | {axis} | {whole:.1f} | {band:.1f} | {two} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
