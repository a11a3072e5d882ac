# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommands on cohorts: ``evaluate``, ``sweep``, ``image-quality`` and ``calibrate``.

What they need is imported when they run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_diffrecon.cli.run import declarations
from monai_diffrecon.errors import ConfigError

Run = Callable[[argparse.Namespace], int]


def evaluate(parser: argparse.ArgumentParser) -> Run:
    """Compare methods over a cohort of scans, and write tables and a report."""
    parser.add_argument("--config", required=True, metavar="COHORT.json", help="cases, methods and how to compare them")
    _add_options(parser, "evaluation")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.evaluation.cohort.runner import CohortEvaluation

        evaluation = CohortEvaluation(arguments.config, arguments.output, **_options(arguments))
        try:
            evaluation.run()
        finally:
            if evaluation.rows or evaluation.shard is not None:
                reused = sum(row.status == "reused" for row in evaluation.rows)
                what = evaluation.report if evaluation.shard is None else f"shard {evaluation.shard}"
                sys.stdout.write(f"{what}: {len(evaluation.rows)} reconstructions, {reused} reused\n")
        return 0

    return run


def sweep(parser: argparse.ArgumentParser) -> Run:
    """Evaluate a cohort at each value of one setting, and write curves of the metrics."""
    parser.add_argument("--config", required=True, metavar="SWEEP.json", help="the cohort, the setting and its values")
    _add_options(parser, "sweep")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.evaluation.sweep.runner import Sweep

        evaluation = Sweep(arguments.config, arguments.output, **_options(arguments))
        try:
            evaluation.run()
        finally:
            rows = [row for result in evaluation.points.values() for row in result.rows]
            if rows or evaluation.shard is not None:
                reused = sum(row.status == "reused" for row in rows)
                what = evaluation.report if evaluation.shard is None else f"shard {evaluation.shard}"
                points = f"{len(evaluation.points)} points"
                sys.stdout.write(f"{what}: {points}, {len(rows)} reconstructions, {reused} reused\n")
        return 0

    return run


def image_quality(parser: argparse.ArgumentParser) -> Run:
    """Measure phantoms with every method: what each keeps, blurs, and invents."""
    parser.add_argument("--config", required=True, metavar="STUDY.json", help="phantoms, methods and metrics")
    parser.add_argument("--phantoms-only", action="store_true", help="write the phantoms and the cohort, and end")
    _add_options(parser, "image_quality")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.evaluation.image_quality.study.runner import QualityStudy, write_cohort

        if arguments.phantoms_only:
            cases = write_cohort(arguments.config, arguments.output)
            sys.stdout.write(f"{Path(arguments.output) / 'phantoms'}: {len(cases)} phantoms\n")
            return 0
        study = QualityStudy(arguments.config, arguments.output, **_options(arguments))
        try:
            study.run()
        finally:
            rows = study.evaluation.rows
            if rows or study.evaluation.shard is not None:
                reused = sum(row.status == "reused" for row in rows)
                what = study.report if study.evaluation.shard is None else f"shard {study.evaluation.shard}"
                sys.stdout.write(f"{what}: {len(rows)} reconstructions, {reused} reused\n")
        return 0

    return run


def calibrate(parser: argparse.ArgumentParser) -> Run:
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


def _add_options(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options of everything that evaluates cohorts; ``output`` is the default folder."""
    parser.add_argument("--output", default=output, metavar="FOLDER", help=f"folder for everything ({output})")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow's store (sqlite in the folder)")
    parser.add_argument("--experiment", default="monai_diffrecon", metavar="NAME", help="MLflow's experiment")
    parser.add_argument("--no-tracking", action="store_true", help="do without MLflow")
    parser.add_argument("--tracking-required", action="store_true", help="fail if MLflow fails, instead of a warning")
    parser.add_argument(
        "--resume", default="auto", help="auto (default): resume an interrupted run; require; never: recompute all"
    )
    parser.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="steps between checkpoints (default: about 1 %% of the time)"
    )
    parser.add_argument("--executor", default="serial", metavar="NAME", help="what runs the cases (serial)")
    parser.add_argument(
        "--executor-option", action="append", default=[], metavar="KEY=VALUE", help="its options (JSON, or a word)"
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="only the cases of share I from 1 to N; without it once more writes the tables"
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "track": not arguments.no_tracking,
        "tracking_uri": arguments.tracking_uri,
        "experiment": arguments.experiment,
        "tracking_required": arguments.tracking_required,
        "resume": arguments.resume,
        "checkpoint_every": arguments.checkpoint_every,
        "executor": {"name": arguments.executor, **declarations(arguments.executor_option, "--executor-option")},
        "shard": arguments.shard,
    }
