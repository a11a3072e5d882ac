# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon methods``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from monai_diffrecon.cli.bundles import table


def methods(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """List the presets of methods, or print the file of one for --config_file."""
    parser.add_argument("name", nargs="?", help="explain this preset")
    parser.add_argument("--path", metavar="NAME", help="print the path of this preset only")
    parser.add_argument("--bundle", metavar="FOLDER", help="include the bundle's own presets, which take precedence")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.presets.overlays import METHOD, overlay_path, presets

        if arguments.path is not None:
            lines = [str(overlay_path(METHOD, arguments.path, arguments.bundle, where="--path"))]
        elif arguments.name is not None:
            path = overlay_path(METHOD, arguments.name, arguments.bundle, where="methods")
            said = next(p for p in presets(arguments.bundle) if p.path == path)
            lines = [
                f"{said.name}: {said.summary}",
                f"  for {', '.join(said.families) or 'every operator'}",
                f"  {path}",
            ]
            lines += ["", *path.read_text(encoding="utf-8").strip().splitlines()]
        else:
            found = presets(arguments.bundle)
            rows = [("NAME", "FAMILIES", "SUMMARY"), *((p.name, " ".join(p.families), p.summary) for p in found)]
            lines = table(rows)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0

    return run
