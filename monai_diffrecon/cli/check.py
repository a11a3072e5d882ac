# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon check``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from monai_diffrecon.cli.run import overrides_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option

if TYPE_CHECKING:
    from monai_diffrecon.bundle.inspection.bundle_report import BundleReport


def check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Show what a bundle would import and execute, without running it; with a scan, check the scan like a run."""
    inspect = inspection(parser)
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


def inspection(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Add the arguments of an inspection of a bundle, and return what runs it; nothing of the bundle is run."""
    parser.add_argument("bundle", metavar="BUNDLE", help="root folder of a bundle, or a .zip of one")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="a package whose author you trust; repeatable"
    )
    parser.add_argument("--extract", metavar="FOLDER", help="unpack the checked .zip into this new folder")
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.bundle.inspection.bundle_report import report_on

        with bundle_folder(arguments.bundle, arguments.extract) as root:
            report = report_on(root, arguments.trust)
            lines = json_lines(report) if arguments.json else report.lines()
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return report.exit_code

    return run


def json_lines(report: BundleReport) -> list[str]:
    """Return the report as the lines of a JSON document."""
    return json.dumps(report.as_json(), indent=2).splitlines()


@contextmanager
def bundle_folder(bundle: str, extract: str | None) -> Iterator[Path]:
    """Give the folder of a bundle: it, or where its checked archive was unpacked.

    Args:
        bundle: a folder, or a .zip file.
        extract: new folder to unpack into; without it the unpacked files are removed at the end.

    Raises:
        ConfigError: a folder to unpack into, and nothing to unpack.
        InputError: as for ``extract_checked``.
        IntegrityError: an archive that is damaged, or that does not belong to a bundle.
    """
    from monai_diffrecon.bundle.zip_members import extract_checked

    path = Path(bundle)
    if path.suffix.lower() != ".zip" or path.is_dir():
        if extract is not None:
            raise ConfigError("nothing to unpack", where="--extract", expected="a .zip of a bundle", got=path.name)
        yield path
    elif extract is not None:
        yield extract_checked(path, extract)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield extract_checked(path, Path(folder) / path.stem)


def scan_lines(arguments: argparse.Namespace) -> list[str]:
    """Return the notices and the memory estimate of a reconstruction with a trusted bundle.

    The scan is read, prepared and posed by the same code as in a run.

    Raises:
        DiffReconError: any error that the run would raise before its first step.
        ConfigError: no such overlay or option.
        IntegrityError: an auxiliary bundle that is not trusted.
    """
    from monai_diffrecon.engine.cases.case_recorder import check_reference
    from monai_diffrecon.evaluation.cohort.methods.prepared_method import PreparedMethod
    from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec

    overrides = overrides_of(arguments.set)
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
