# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon check``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from monai_diffrecon.cli.check_bundle import check as check_bundle
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option


def check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Show what a bundle would import and execute, without running it; with a scan, check the scan like a run."""
    inspect = check_bundle(parser)
    parser.add_argument("--image", metavar="SCAN", help="check it like a run, and estimate the memory")
    parser.add_argument("--task", metavar="NAME", help="overlay in configs/tasks, with --image")
    parser.add_argument("--preset", metavar="NAME", help="name of a preset (`diffrecon methods`), with --image")
    parser.add_argument(
        "--auxiliary_bundle", action="append", default=[], metavar="FOLDER", help="bundle of another plane; repeatable"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="config id and value (JSON, or a word)"
    )

    def run(arguments: argparse.Namespace) -> int:
        if arguments.image is not None and (arguments.json or Path(arguments.bundle).suffix.lower() == ".zip"):
            raise ConfigError(
                "a scan is checked against a bundle's folder, in words", where="--image", mend="leave --json out"
            )
        code = inspect(arguments)
        if arguments.image is not None and code == 0:
            sys.stdout.write("\n" + "".join(f"{line}\n" for line in scan_lines(arguments)))
        return code

    return run


def scan_lines(arguments: argparse.Namespace) -> list[str]:
    """Return the notices and the memory estimate of a reconstruction with a trusted bundle.

    The scan is read, prepared and posed by the same code as in a run.

    Raises:
        DiffReconError: any error that the run would raise before its first step.
        ConfigError: no such overlay or option.
        IntegrityError: an auxiliary bundle that is not trusted.
    """
    from monai_diffrecon.engine.cases.case_recorder import check_reference
    from monai_diffrecon.evaluation.cohort.method import PreparedMethod
    from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec

    overrides = _overrides(arguments.set)
    shared = {name: overrides.pop(name) for name in list(overrides) if name.startswith("simulate")}
    method = CohortMethod(
        "check",
        Path(arguments.bundle),
        task=arguments.task,
        preset=arguments.preset,
        auxiliary_bundle=arguments.auxiliary_bundle or None,
        overrides=overrides,
    )
    case = CohortCase("check", path_option(arguments.image, "--image"))
    prepared = PreparedMethod(method, CohortSpec("check", (case,), (method,), "check", simulate=shared))
    data = prepared.measure(case)
    posed = prepared.inferer.pose(data["image"])
    measured = prepared.inferer.check(posed)
    geometry = measured.geometry
    if "reference" in data:
        check_reference(data["reference"], geometry, data["image"])
    size, voxel = (" x ".join(f"{n:.4g}" for n in numbers) for numbers in (geometry.shape, geometry.spacing))
    lines = [f"the scan would be reconstructed: {size} voxels of {voxel} mm, unit {measured.unit}"]
    lines += [f"notice: {notice}" for notice in measured.notices]
    return [*lines, *posed.memory.lines(), *posed.memory.check()]


def _overrides(pairs: list[str]) -> dict[str, object]:
    import json

    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals) or name in found:
            raise ConfigError("not an option", where="--set", expected="ID=VALUE, each ID once", got=pair)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
