# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon reconstruct``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_diffrecon.cli.run import overrides_of, reader_of, run_words
from monai_diffrecon.errors import ConfigError

if TYPE_CHECKING:
    from monai_diffrecon.api.choice import Choice
    from monai_diffrecon.protocols import Measurement

#: Argument -> id of the bundle's configuration.
_IDS = {
    "reference": "reference",
    "output": "output_dir",
    "samples": "num_samples",
    "device": "device",
    "precision": "precision",
    "reader": "reader",
    "case": "case_name",
    "seed": "seed",
}
#: What draws samples, if the user names no method.
_SAMPLES = "posterior"


def reconstruct(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Reconstruct a scan: the bundle and the task are chosen from it unless you name them."""
    parser.add_argument(
        "scan",
        metavar="SCAN",
        nargs="+",
        help="image with thick slices, folder of a DICOM series, or raw data; several thick scans make one volume",
    )
    parser.add_argument("--bundle", metavar="NAME", help="name or path of a bundle (`diffrecon bundles`)")
    parser.add_argument("--task", metavar="NAME", help="task of the bundle (`diffrecon tasks`)")
    parser.add_argument("--method", metavar="NAME", help="preset of a method (`diffrecon methods`)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="config id and value, as sampler.steps=20"
    )
    parser.add_argument("--reference", metavar="FILE", help="the truth, for PSNR and SSIM")
    parser.add_argument("--output", metavar="FOLDER", default="reconstruction", help="(reconstruction)")
    parser.add_argument("--calls", type=int, metavar="N", help="network calls for each slice")
    parser.add_argument("--samples", type=int, metavar="N", help="draw so many and write their mean and spread")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    parser.add_argument("--precision", help="float32, bfloat16, float16, tf32 or auto (the bundle's)")
    parser.add_argument("--reader", help="name of a reader, or {'name': ..., options}; auto (the default) tries each")
    parser.add_argument("--case", metavar="NAME", help="name of the case in files and records (a keyed hash)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed (0)")
    parser.add_argument("--motion", help="of several scans: none, stacks (the default), or slices too")
    parser.add_argument("--spacing", type=float, metavar="MM", help="of the volume of several scans (1)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.api.choice import choose
        from monai_diffrecon.errors.options import path_option
        from monai_diffrecon.io.find_reader import read_scan

        overrides, arguments.reader = overrides_of(arguments.set), reader_of(arguments.reader)
        paths = [path_option(scan, "SCAN") for scan in arguments.scan]
        leaning = bool(overrides.get("correct_tilt"))
        scans = [read_scan(path, arguments.reader or "auto", leaning=leaning)[1] for path in paths]
        several = _several(arguments, scans)
        choice = choose(scans[0] if several is None else several, arguments.bundle, arguments.task)
        scan = paths[0] if several is None else Path(arguments.output) / "stacks.h5"
        words = words_of(scan, choice, arguments, overrides)
        for reason in choice.reasons:
            sys.stdout.write(f"{reason}\n")
        sys.stdout.write(f"the same as: python -m monai.bundle run {' '.join(map(quoted, words))}\n")
        sys.stdout.flush()
        if arguments.dry_run:
            return 0
        if several is not None:
            _write_combined(scan, scans, arguments)
        del scans
        started, output = time.time(), Path(arguments.output)
        code = run_words(words)
        pages = [page for page in sorted(output.glob("*_view.html")) if page.stat().st_mtime >= started - 1]
        sys.stdout.write("".join(f"look at it: {page}\n" for page in pages))
        sys.stdout.write(_where_tracked(output, overrides))
        return code

    return run


def _several(arguments: argparse.Namespace, scans: list[Measurement]) -> Measurement | None:
    """Return what is known of several scans before they are combined; None of a single one.

    Raises:
        ConfigError: options of several scans with a single one.
    """
    if len(scans) > 1:
        return replace(scans[0], operator={"name": "stacks"})
    given = [f"--{name}" for name in ("motion", "spacing") if getattr(arguments, name) is not None]
    if given:
        raise ConfigError("is for several scans", where=given[0], mend="omit it, or name the other scans")
    return None


def _write_combined(path: Path, scans: list[Measurement], arguments: argparse.Namespace) -> None:
    from monai_diffrecon.io.measurement.file import write_measurement
    from monai_diffrecon.stacks.combine import combine_stacks

    sys.stdout.write(f"aligning {len(scans)} scans, which takes some minutes\n")
    sys.stdout.flush()
    given = {name: getattr(arguments, name) for name in ("motion", "spacing") if getattr(arguments, name) is not None}
    combined = combine_stacks(scans, **given)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_measurement(path, combined)


def _where_tracked(output: Path, overrides: dict[str, Any]) -> str:
    """Return where MLflow shows the run, as a line for a reader; nothing if the run was not tracked."""
    from monai_diffrecon.errors.options import check_flag
    from monai_diffrecon.tracking.run_notes import is_server
    from monai_diffrecon.tracking.runs_page import runs_page

    if not check_flag(overrides.get("evaluator#track", True), "evaluator#track"):
        return ""
    uri = overrides.get("evaluator#tracking_uri")
    page = runs_page(output, uri, overrides.get("evaluator#experiment", "monai_diffrecon"))
    if page is None:
        return ""
    if not is_server(uri):
        store = quoted(uri or f"sqlite:///{output / 'mlflow.db'}")
        page = f"mlflow ui --backend-store-uri {store}, then open {page}"
    return f"options, metrics and pictures: {page}\n"


def words_of(scan: Path, choice: Choice, arguments: argparse.Namespace, overrides: dict[str, Any]) -> list[str]:
    """Return the arguments of ``monai.bundle run``.

    Raises:
        ConfigError: no such task or method, or arguments that contradict each other.
    """
    from monai_diffrecon.presets.overlays import METHOD, TASK, overlay_path

    files = [choice.bundle / "configs" / "inference.json"]
    if choice.task is not None:
        files.append(overlay_path(TASK, choice.task, choice.bundle, where="--task"))
    method = arguments.method
    if arguments.samples is not None and arguments.samples > 1 and method is None:
        method = _SAMPLES
        sys.stdout.write(f"method {method}: it draws samples\n")
    if method is not None:
        files.append(overlay_path(METHOD, method, choice.bundle, where="--method"))
    given = {id_: getattr(arguments, name) for name, id_ in _IDS.items() if getattr(arguments, name) is not None}
    if arguments.calls is not None:
        named = method is not None and "calls" in json.loads(files[-1].read_text(encoding="utf-8"))
        given["calls" if named else "sampler#steps"] = arguments.calls
    if twice := sorted(set(given) & set(overrides)):
        raise ConfigError("given twice", where=f"--set {twice[0]}", mend="give it once")
    listed = ",".join(repr(str(file)) for file in files)
    words = ["--config_file", str(files[0]) if len(files) == 1 else f"[{listed}]", "--bundle_root", str(choice.bundle)]
    words += ["--image", str(scan)]
    for id_, value in {**given, **overrides}.items():
        words += [f"--{id_}", value if isinstance(value, str) else repr(value)]  # MONAI reads Python, not JSON
    return words


def quoted(word: str) -> str:
    """Return a word as a shell takes it; words in single quotes within double ones, which people can read."""
    return f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word)
