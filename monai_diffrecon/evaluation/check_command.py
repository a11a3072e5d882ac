# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon check``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.trust.check_command import check as check_bundle


def check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Show what a bundle would import and execute, run none of it; with a scan, how much memory it would take."""
    inspect = check_bundle(parser)
    parser.add_argument("--image", metavar="SCAN", help="estimate the memory that its reconstruction takes")
    parser.add_argument("--task", metavar="NAME", help="overlay in configs/tasks, for the estimate")
    parser.add_argument("--preset", metavar="NAME", help="overlay in configs/methods, for the estimate")
    parser.add_argument(
        "--auxiliary_bundle", action="append", default=[], metavar="FOLDER", help="bundle of another plane; repeatable"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="config id and value (JSON, or a word)"
    )

    def run(arguments: argparse.Namespace) -> int:
        if arguments.image is not None and (arguments.json or Path(arguments.bundle).suffix.lower() == ".zip"):
            raise ConfigError(
                "an estimate of memory is of a bundle's folder, in words", where="--image", mend="leave --json out"
            )
        code = inspect(arguments)
        if arguments.image is not None and code == 0:
            sys.stdout.write("\n" + "".join(f"{line}\n" for line in memory_lines(arguments)))
        return code

    return run


def memory_lines(arguments: argparse.Namespace) -> list[str]:
    """Return the estimate for a bundle that was found to be trusted, and a warning where memory will not suffice.

    Raises:
        InputError: the scan cannot be read.
        ConfigError: no such overlay or option.
        IntegrityError: an auxiliary bundle that is not trusted.
    """
    from monai_diffrecon.engine.memory_estimate import estimate_memory
    from monai_diffrecon.evaluation.cohort_method import PreparedMethod
    from monai_diffrecon.evaluation.cohort_spec import CohortCase, CohortMethod, CohortSpec

    method = CohortMethod(
        "check",
        Path(arguments.bundle),
        task=arguments.task,
        preset=arguments.preset,
        auxiliary_bundle=arguments.auxiliary_bundle or None,
        overrides=_overrides(arguments.set),
    )
    case = CohortCase("case", Path(arguments.image))
    prepared = PreparedMethod(method, CohortSpec("check", (case,), (method,), "check"))
    estimate = estimate_memory(prepared.inferer, prepared.measure(case)["image"])
    return [*estimate.lines(), *estimate.check()]


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
