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

from monai_diffrecon.errors import ConfigError

if TYPE_CHECKING:
    from monai_diffrecon.bundle.inspection.bundle_report import BundleReport


def check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Show what a bundle would import and execute, and whether that is trusted, without running any of it."""
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
