# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The command ``diffrecon``. Each subcommand imports what it needs when it runs, so that the others stay quick."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from monai_diffrecon import __version__
from monai_diffrecon.errors import DiffReconError, PluginError

if TYPE_CHECKING:
    from monai_diffrecon.registry import PluginInfo

#: What a subcommand does with its parsed arguments; returns the exit code.
Run = Callable[[argparse.Namespace], int]


def plugins(parser: argparse.ArgumentParser) -> Run:
    """List the installed plugins."""
    from monai_diffrecon.registry import KINDS, available

    parser.add_argument("--kind", choices=sorted(KINDS), help="only plugins of this kind")
    parser.add_argument("--check", action="store_true", help="import each plugin and report the broken ones")
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(arguments: argparse.Namespace) -> int:
        infos = available(arguments.kind, check=arguments.check)
        as_json = arguments.json
        lines = [json.dumps([asdict(info) for info in infos], indent=2)] if as_json else plugin_table(infos)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        broken = [info for info in infos if info.error]
        return PluginError.exit_code if arguments.check and broken else 0

    return run


def plugin_table(infos: Sequence[PluginInfo]) -> list[str]:
    """Return the lines of a table of plugins; a name that two distributions provide is shown qualified."""
    if not infos:
        return ["No plugins found: install monai-diffrecon with pip, so that its entry points are registered."]
    providers = Counter((info.kind, info.name) for info in infos)
    rows = [("KIND", "NAME", "DISTRIBUTION", "SUMMARY")]
    for info in infos:
        name = info.name if providers[info.kind, info.name] == 1 else f"{info.distribution}:{info.name}"
        text = f"BROKEN: {info.error}" if info.error else info.summary
        rows.append((info.kind, name, f"{info.distribution} {info.version}".strip(), text))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]


#: Name of the subcommand -> function that adds its arguments and returns what runs it; its docstring is the help.
COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {"plugins": plugins}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="diffrecon", description="Reconstruct 3D CT and MR volumes with pre-trained 2D diffusion models."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip().splitlines()[0]
        subparser = subparsers.add_parser(name, help=text, description=text)
        subparser.set_defaults(run=command(subparser))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    An error that the package raises on purpose becomes one line on stderr and its exit code; any other
    exception is a defect and keeps its traceback.

    Args:
        argv: arguments; those of the process unless given.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except DiffReconError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
