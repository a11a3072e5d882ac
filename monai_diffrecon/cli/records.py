# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The commands ``diffrecon verify`` and ``diffrecon rerun``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError

Run = Callable[[argparse.Namespace], int]


def verify(parser: argparse.ArgumentParser) -> Run:
    """Verify records and the outputs beside them by their hashes."""
    parser.add_argument("records", nargs="*", metavar="RECORD", help="CASE_recon.provenance.json, or its folder")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of records instead")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.tracking.provenance import verify_record
        from monai_diffrecon.tracking.provenance_schema import record_schema

        if arguments.schema:
            sys.stdout.write(json.dumps(record_schema(), indent=2, sort_keys=True) + "\n")
            return 0
        worst = 0
        for path in records_of(arguments.records):
            try:
                record = verify_record(path)
            except DiffReconError as error:
                sys.stderr.write(f"error: {error}\n")
                worst = max(worst, error.exit_code)
            else:
                sys.stdout.write(f"{path.name}: verified, sha256 {record['output']['sha256']}\n")
        return worst

    return run


def rerun(parser: argparse.ArgumentParser) -> Run:
    """Repeat a recorded reconstruction and compare the hashes."""
    parser.add_argument("record", metavar="RECORD", help="CASE_recon.provenance.json")
    parser.add_argument("--image", required=True, metavar="SCAN", help="the scan that it was made from")
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="root of the bundle")
    parser.add_argument(
        "--auxiliary_bundle", action="append", default=[], metavar="FOLDER", help="root of a bundle of another plane"
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder for the new outputs (temporary)")
    parser.add_argument("--device", help="device of the networks (cpu)")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.engine.cases.rerun import rerun

        done = rerun(
            arguments.record,
            arguments.image,
            arguments.bundle,
            arguments.auxiliary_bundle,
            output_dir=arguments.output,
            device=arguments.device,
        )
        for file, same in done.files.items():
            sys.stdout.write(f"{file}: {'reproduced' if same else 'ANOTHER RESULT'}\n")
        if not done.same:
            raise IntegrityError(
                "the outputs differ",
                where=Path(arguments.record).name,
                got=", ".join(done.changed) or "the same versions and instruction set",
                mend="run it on the machine type and with the versions of the record",
            )
        return 0

    return run


def records_of(paths: list[str]) -> list[Path]:
    """Return the records that are named, or lie below a folder that is; not the copies among MLflow's artifacts.

    Raises:
        InputError: none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        below = sorted(path.rglob("*.provenance.json")) if path.is_dir() else [path]
        found += [record for record in below if "mlartifacts" not in record.relative_to(path).parts]
    if not found:
        raise InputError("no record", where="RECORD", expected="*.provenance.json, or a folder with some")
    return found
