# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon view``: pages with the volumes of cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_number

if TYPE_CHECKING:
    from monai_diffrecon.viewer.layers import Kind


def view(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Write a page for each case that shows its volumes in a browser, without a network."""
    parser.add_argument("output", metavar="OUTPUT", help="output folder, or the reconstruction of one case")
    parser.add_argument("--case", metavar="NAME", help="only this case of the folder")
    parser.add_argument("--image", metavar="SCAN", help="the measured image, to be shown too")
    parser.add_argument("--reference", metavar="SCAN", help="the ground truth, to be shown too, with the error")
    parser.add_argument(
        "--layer", action="append", default=[], metavar="TITLE=SCAN", help="another reconstruction, to be shown too"
    )
    parser.add_argument("--unit", help="of the intensities, such as HU (default: from the record or the values)")
    parser.add_argument("--megabytes", type=float, default=30.0, metavar="N", help="largest size of a page (30)")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.viewer.layers import case_name, gather, reconstructions_in
        from monai_diffrecon.viewer.page import write_page

        limit = int(1e6 * check_number(arguments.megabytes, "--megabytes", low=1.0, high=500.0))
        found = reconstructions_in(Path(arguments.output))
        if arguments.case is not None:
            names = [str(case_name(path)) for path in found]
            found = [path for path, name in zip(found, names, strict=True) if name == arguments.case]
            if not found:
                known = ", ".join(names[:5])
                raise InputError("no such case there", where="--case", expected=known, got=arguments.case)
        scans = named_scans(arguments)
        if scans and len(found) > 1:
            raise ConfigError("several cases", where="OUTPUT", got=len(found), mend="name the one of the scans: --case")
        for path in found:
            page = page_path(path)
            write_page(page, gather(path, scans=scans, unit=arguments.unit), limit=limit)
            sys.stdout.write(f"{page}\n")
        return 0

    return run


def named_scans(arguments: argparse.Namespace) -> dict[str, tuple[Kind, str]]:
    """Return title -> kind and scan, of the arguments.

    Raises:
        ConfigError: ``--layer`` without a title or a scan.
    """
    scans: dict[str, tuple[Kind, str]] = {}
    if arguments.image is not None:
        scans["measured input"] = ("input", arguments.image)
    if arguments.reference is not None:
        scans["truth"] = ("truth", arguments.reference)
    for pair in arguments.layer:
        title, equals, scan = pair.partition("=")
        if not (title.strip() and equals and scan) or title in scans:
            raise ConfigError("not a layer", where="--layer", expected="TITLE=SCAN, each TITLE once", got=pair)
        scans[title] = ("reconstruction", scan)
    return scans


def page_path(output: Path) -> Path:
    """Return the page of a reconstruction: ``<case>_view.html`` beside ``<case>_recon.nii.gz``."""
    name = output.name
    for end in (".gz", ".nii", "_recon"):
        name = name[: -len(end)] if name.lower().endswith(end) else name
    return output.with_name(f"{name}_view.html")
