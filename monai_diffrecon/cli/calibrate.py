# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon calibrate``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from monai_diffrecon.errors import ConfigError


def calibrate(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Calibrate the intervals of a method with the cases of an evaluated cohort."""
    parser.add_argument("cohort", metavar="FOLDER", help="output of diffrecon evaluate, with a truth for every case")
    parser.add_argument("--output", required=True, metavar="FILE.json", help="file to write")
    parser.add_argument("--method", metavar="LABEL", help="label of the method (the only one that draws samples)")
    parser.add_argument(
        "--level", type=float, action="append", metavar="P", help="nominal coverage (0.9); the first is the one applied"
    )
    parser.add_argument(
        "--kind", default="conformal", help="conformal (default); inflation: without the finite-sample correction"
    )
    parser.add_argument("--force", action="store_true", help="replace a file")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.evaluation.cohort.calibrate import calibrate

        levels = tuple(arguments.level or [0.9])
        found = calibrate(arguments.cohort, method=arguments.method, levels=levels, kind=arguments.kind)
        if Path(arguments.output).exists() and not arguments.force:
            raise ConfigError("the file exists", where="--output", mend="give --force to replace it")
        found.write(arguments.output)
        for factors in found.levels:
            halves = {
                "psnr": f"PSNR +- {factors.psnr:.2f} dB" if factors.psnr is not None else "",
                "ssim": f"SSIM +- {factors.ssim:.4f}" if factors.ssim is not None else "",
                "region": f"mean of a region +- {factors.region:.3g} deviations" if factors.region is not None else "",
            }
            said = [f"voxels +- {factors.voxels:.3g} standard deviations", *filter(None, halves.values())]
            sys.stdout.write(f"{100 * factors.level:g} %, {len(found.subjects)} subjects: {', '.join(said)}\n")
        return 0

    return run
