# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon cases``: find the scan of a case with the key of the case names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from monai_diffrecon.errors import InputError


def cases(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Print the scan of each case. The output may identify patients: keep it confidential."""
    parser.add_argument("scans", nargs="+", metavar="PATH", help="scans, or folders of scans")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="output_dir of the run, which holds the key")
    parser.add_argument("--case", metavar="NAME", help="only this case")
    parser.add_argument("--reader", default="auto", help="name of a reader; auto (the default) tries each")

    def run(arguments: argparse.Namespace) -> int:
        found = scans_of_cases(arguments.scans, arguments.output, arguments.reader)
        if arguments.case is not None and arguments.case not in found:
            raise InputError(
                "no scan with this case name",
                where="--case",
                got=f"{len(found)} other scans",
                mend="give the folder of the run's scans, and its --output",
            )
        wanted = found if arguments.case is None else {arguments.case: found[arguments.case]}
        sys.stdout.write("".join(f"{name}  {path}\n" for name, path in wanted.items()))
        return 0

    return run


def scans_of_cases(scans: Sequence[str | Path], output_dir: str | Path, reader: str = "auto") -> dict[str, Path]:
    """Return name of the case -> scan; nothing is written.

    Args:
        scans: scans, or folders of them.
        output_dir: of the run: it keeps the key, unless ``DIFFRECON_CASE_KEY`` is set.
        reader: ``auto``, or the reader of all scans.

    Raises:
        InputError: no key, or no scan.
    """
    from monai_diffrecon.engine.cases.list_cases import known_key, list_cases

    if known_key(output_dir) is None:
        raise InputError(
            "no key of case names",
            where="--output",
            expected="the output_dir of a run, or its DIFFRECON_CASE_KEY in the environment",
        )
    found: dict[str, Path] = {}
    for scan in map(Path, scans):
        option = "dataset_dir" if scan.expanduser().is_dir() else "image"
        for case in list_cases(**{option: str(scan)}, output_dir=str(output_dir), reader=reader):
            found[case["case"]] = Path(case["image"])
    return found
