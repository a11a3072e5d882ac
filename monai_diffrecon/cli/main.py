# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The command ``diffrecon``. Each subcommand imports what it needs when it runs, so that the others stay quick."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from monai_diffrecon._version import __version__
from monai_diffrecon.cli.bundles import bundles, methods, table, tasks
from monai_diffrecon.cli.cases import cases
from monai_diffrecon.cli.check import check
from monai_diffrecon.cli.cohorts import calibrate, evaluate, image_quality, sweep
from monai_diffrecon.cli.new_plugin import new_plugin
from monai_diffrecon.cli.reader_study import reader_study
from monai_diffrecon.cli.reconstruct import reconstruct
from monai_diffrecon.cli.records import rerun, verify
from monai_diffrecon.cli.run import declarations
from monai_diffrecon.cli.run import run as run_bundle
from monai_diffrecon.cli.serve import serve
from monai_diffrecon.cli.view import view
from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError

if TYPE_CHECKING:
    from monai_diffrecon.registry import PluginInfo

#: Runs a subcommand with its parsed arguments; returns the exit code.
Run = Callable[[argparse.Namespace], int]


def plugins(parser: argparse.ArgumentParser) -> Run:
    """List the installed plugins, or the options of one."""
    from monai_diffrecon.registry import KINDS, available
    from monai_diffrecon.registry.contract import FOLDERS

    parser.add_argument("name", nargs="?", help="one plugin: NAME, KIND:NAME or DISTRIBUTION:NAME; lists its options")
    parser.add_argument("--kind", choices=sorted([*KINDS, *FOLDERS]), help="only plugins of this kind")
    parser.add_argument("--check", action="store_true", help="import each plugin and report the broken ones")
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def describe(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.cli.plugins import find_plugin, plugin_options, plugin_page

        info = find_plugin(arguments.name, arguments.kind)
        options = plugin_options(info)
        known = {**asdict(info), "options": [asdict(option) for option in options]}
        lines = [json.dumps(known, indent=2)] if arguments.json else plugin_page(info, options)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0

    def run(arguments: argparse.Namespace) -> int:
        if arguments.name is not None:
            return describe(arguments)
        kinds = [*KINDS, *FOLDERS] if arguments.kind is None else [arguments.kind]
        infos = [info for kind in kinds for info in available(kind, check=arguments.check)]
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
    return table(rows)


def import_checkpoint(parser: argparse.ArgumentParser) -> Run:
    """Turn a published checkpoint into a bundle."""
    parser.add_argument("checkpoint", help="file of weights, or folder of the library diffusers")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="root of the new bundle")
    parser.add_argument("--plane", required=True, help="plane of the training slices: sagittal, coronal or axial")
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--spacing", nargs=2, type=float, metavar="MM", help="voxel size within the slice, RAS+ order")
    sizes.add_argument(
        "--spacing-range", nargs=2, type=float, metavar="MM", help="smallest and largest voxel size of its training"
    )
    parser.add_argument(
        "--intensity", required=True, nargs="+", metavar="WORD", help="percentile Q, or window LOW HIGH (to 0 and 1)"
    )
    parser.add_argument("--format", default="auto", help="name of an importer; auto (the default) tries each")
    parser.add_argument("--sample", metavar="NIFTI", help="volume of the network's kind, for the orientation test")
    parser.add_argument("--sample-slices", type=int, default=4, metavar="N", help="number of its slices to test (4)")
    parser.add_argument("--window", nargs=2, type=int, metavar="N", help="largest slice to denoise whole")
    parser.add_argument("--dtype", default="float32", help="type of the stored weights: float32 (default) or float16")
    parser.add_argument("--license-note", metavar="TEXT", help="what you know of the licence of the weights")
    parser.add_argument(
        "--declare", action="append", default=[], metavar="KEY=VALUE", help="importer option (JSON value, or a word)"
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.bundle.importing.declaration import Declaration, parse_intensity
        from monai_diffrecon.bundle.importing.import_checkpoint import import_checkpoint
        from monai_diffrecon.numerics.pixel_range import PixelRange

        window = arguments.window
        bundle = import_checkpoint(
            arguments.checkpoint,
            arguments.to,
            Declaration(
                plane=arguments.plane,
                spacing=PixelRange(*arguments.spacing_range) if arguments.spacing_range else tuple(arguments.spacing),
                intensity=parse_intensity(arguments.intensity),
                window=None if window is None else (window[0], window[1]),
                license_note=arguments.license_note,
            ),
            importer=arguments.format,
            sample=arguments.sample,
            sample_slices=arguments.sample_slices,
            dtype=arguments.dtype,
            declared=declarations(arguments.declare),
            force=arguments.force,
        )
        sys.stdout.write("".join(f"{line}\n" for line in bundle.summary()))
        sys.stderr.write("".join(f"warning: {text}\n" for text in bundle.warnings))
        return 0

    return run


def simulate(parser: argparse.ArgumentParser) -> Run:
    """Measure a volume and write the measurement to a file."""
    parser.add_argument("volume", help="NIfTI file, or another image that an installed reader supports")
    parser.add_argument("--operator", required=True, metavar="NAME", help='name, or {"name": ..., options} in JSON')
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="option of the operator (JSON value, or a word)"
    )
    parser.add_argument("--output", required=True, metavar="FILE.h5", help="file to write")
    parser.add_argument("--noise", type=float, default=0.0, metavar="X", help="relative to the measured entries (0)")
    parser.add_argument("--photons", type=float, metavar="N", help="CT: photons per ray without an object")
    parser.add_argument(
        "--electronic-std", type=float, default=0.0, metavar="S", help="CT: noise of the electronics in photons (0)"
    )
    parser.add_argument("--unit", help="of the volume: HU, 1/mm or arbitrary (default: from the file)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (0)")
    parser.add_argument("--realization", type=int, default=0, metavar="N", help="number of the noise of this seed (0)")
    parser.add_argument("--reader", default="auto", help="name of a reader; auto (the default) tries each")
    parser.add_argument("--force", action="store_true", help="replace a file")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.engine.problem.simulation import Simulation, simulate_file

        operator = arguments.operator
        if operator.lstrip().startswith("{"):
            try:
                operator = json.loads(operator)
            except ValueError as error:
                raise ConfigError("not JSON", where="--operator", got=str(error)) from None
        else:
            operator = {"name": operator}
        measured = simulate_file(
            arguments.volume,
            arguments.output,
            Simulation(
                {**operator, **declarations(arguments.set, "--set")},
                noise=arguments.noise,
                photons=arguments.photons,
                electronic_std=arguments.electronic_std,
                unit=arguments.unit,
                seed=arguments.seed,
                realization=arguments.realization,
            ),
            reader=arguments.reader,
            force=arguments.force,
        )
        shape = " x ".join(map(str, measured.data.shape))
        sys.stdout.write(f"{arguments.output}: {shape}, noise {measured.noise_std:.4g}, volume in {measured.unit}\n")
        return 0

    return run


#: Name of the subcommand -> function that adds its arguments and returns what runs it; its docstring is the help.
COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "reconstruct": reconstruct,
    "plugins": plugins,
    "methods": methods,
    "bundles": bundles,
    "tasks": tasks,
    "new-plugin": new_plugin,
    "run": run_bundle,
    "import-checkpoint": import_checkpoint,
    "simulate": simulate,
    "evaluate": evaluate,
    "sweep": sweep,
    "image-quality": image_quality,
    "calibrate": calibrate,
    "cases": cases,
    "check": check,
    "verify": verify,
    "rerun": rerun,
    "view": view,
    "serve": serve,
    "reader-study": reader_study,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="diffrecon", description="Reconstruct 3D CT and MR volumes with pre-trained 2D diffusion models."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), action=_Completion, help="print completions for a shell"
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip().splitlines()[0]
        subparser = subparsers.add_parser(name, help=text, description=text)
        subparser.set_defaults(run=command(subparser), command=name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    An error that the package raises on purpose becomes one line on stderr and its exit code; any other
    exception is a defect and keeps its traceback. Ctrl-C is one line and exit code 130.

    Args:
        argv: arguments; those of the process unless given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        close = get_close_matches(words[0], COMMANDS, n=1)
        mend = f"did you mean {close[0]!r}?" if close else "`diffrecon --help` lists them"
        sys.stderr.write(f"error: {ConfigError('no such command', where='diffrecon', got=repr(words[0]), mend=mend)}\n")
        return ConfigError.exit_code
    arguments = build_parser().parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_launcher(arguments.command)
        return int(arguments.run(arguments))
    except DiffReconError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT


class _Completion(argparse.Action):
    """Prints the completions of the whole parser, which the library shtab writes."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--print-completion needs the library shtab: pip install shtab")
        sys.stdout.write(f"{shtab.complete(parser, values)}\n")
        parser.exit()


def _check_launcher(command: str) -> None:
    """Refuse what every process of ``torchrun`` would do all over.

    Raises:
        ConfigError: a command that reconstructs and does not share out its work.
    """
    if (
        command in ("evaluate", "sweep", "image-quality", "rerun", "serve")
        and "RANK" in os.environ
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    ):
        raise ConfigError(
            "does not share out its work among processes",
            where=f"diffrecon {command}",
            expected="one process",
            got=f"WORLD_SIZE {os.environ['WORLD_SIZE']}, as set by torchrun",
            mend="start it without torchrun; a cohort has --executor processes",
        )


if __name__ == "__main__":
    sys.exit(main())
