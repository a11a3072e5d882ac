# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon new-plugin``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable


def new_plugin(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Write the package of a new plugin, which works and passes the laws of its kind at once."""
    parser.add_argument("kind", metavar="KIND", help="what it is: operator, prior, sampler, reader, ...")
    parser.add_argument("name", metavar="NAME", help="its name: lower-case letters, digits and underscores")
    parser.add_argument("--output", default=".", metavar="DIR", help="where to put the package's folder (here)")
    parser.add_argument("--author", metavar="TEXT", help="author in the package's metadata")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.scaffold.new_plugin import new_plugin

        folder = new_plugin(arguments.kind, arguments.name, arguments.output, author=arguments.author)
        lines = [f"{folder}:", *(f"  {p.relative_to(folder)}" for p in sorted(folder.rglob("*")) if p.is_file())]
        lines.append(f"Next: cd {shlex.quote(str(folder))} && pip install -e . pytest && pytest")
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0

    return run
