# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon reader-study``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from monai_diffrecon.errors import ConfigError


def reader_study(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Export blinded pairs of volumes for readers, or unseal what they scored."""
    export = parser.add_argument_group("export a pack")
    export.add_argument("--cohort", metavar="FILE.json", help="cases, methods, pairs and criteria")
    export.add_argument("--output", metavar="DIR", help="folder of the pack, new or empty")
    export.add_argument("--key", metavar="FILE", help="new file outside the pack: who is A and B")
    export.add_argument("--seed", type=int, metavar="N", help="of sides, order and slices; keep it secret (random)")
    results = parser.add_argument_group("unseal")
    results.add_argument("--unseal", metavar="KEY", help="the key of the pack")
    results.add_argument("--scores", nargs="+", default=[], metavar="FILE.csv", help="completed sheets, one per reader")
    results.add_argument("--pack", metavar="DIR", help="also verify this pack")
    results.add_argument("--report", metavar="FILE.json", help="also write the results as JSON")
    exported, unsealed = ("cohort", "output", "key"), ("unseal", "scores")

    def run(arguments: argparse.Namespace) -> int:
        given = vars(arguments)
        unsealing = bool(given["unseal"])
        needed, others = (unsealed, (*exported, "seed")) if unsealing else (exported, (*unsealed, "pack", "report"))
        missing = [f"--{name}" for name in needed if not given[name]]
        strange = [f"--{name}" for name in others if given[name] not in (None, [])]
        if missing or strange:
            raise ConfigError(
                "either export or unseal",
                where="reader-study",
                expected="--cohort, --output and --key; or --unseal and --scores",
                got=", ".join([*(f"no {name}" for name in missing), *strange]),
            )
        return _unseal(arguments) if unsealing else _export(arguments)

    return run


def _export(arguments: argparse.Namespace) -> int:
    from monai_diffrecon.evaluation.reader_study.pack import export_pack
    from monai_diffrecon.evaluation.reader_study.spec import read_spec

    count = export_pack(read_spec(arguments.cohort), arguments.output, arguments.key, seed=arguments.seed)
    sys.stdout.write(
        f"{arguments.output}: {count} items; give this folder to the readers\n"
        f"{arguments.key}: the key; do not share it until all sheets are returned\n"
    )
    return 0


def _unseal(arguments: argparse.Namespace) -> int:
    from monai_diffrecon.evaluation.reader_study.results import summary, unseal
    from monai_diffrecon.io.atomic import write_json

    results = unseal(arguments.unseal, arguments.scores, pack=arguments.pack)
    sys.stdout.write("".join(f"{line}\n" for line in summary(results)))
    if arguments.report:
        write_json(arguments.report, results)
    return 0
