# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommands ``bundles``, ``tasks`` and ``methods``; what they need is imported when they run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING

from monai_diffrecon.errors import ConfigError

if TYPE_CHECKING:
    from monai_diffrecon.bundle.catalogue import BundleCard

Run = Callable[[argparse.Namespace], int]
_WORDS = ("download", "export")


def bundles(parser: argparse.ArgumentParser) -> Run:
    """List the bundles that are found by name, explain one, download one or export one."""
    parser.add_argument(
        "words", nargs="*", metavar="NAME", help="explain this bundle; `download NAME`, `export NAME`: see below"
    )
    parser.add_argument("--url", help="download: address of the .zip of a bundle")
    parser.add_argument("--to", metavar="FILE.zip", help="export: file to write (NAME.zip)")
    parser.add_argument("--force", action="store_true", help="replace a bundle or a file")
    parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(arguments: argparse.Namespace) -> int:
        words = arguments.words
        if words and words[0] in _WORDS:
            if len(words) != 2:
                raise ConfigError(
                    "one bundle at a time", where=f"bundles {words[0]}", expected="NAME", got=len(words) - 1
                )
            from monai_diffrecon.bundle.transfer import download_bundle, export_bundle

            if words[0] == "download":
                root = download_bundle(words[1], arguments.url, force=arguments.force)
                sys.stdout.write(f"{words[1]}: checked, in {root}\n")
            else:
                path = export_bundle(words[1], arguments.to, force=arguments.force)
                sys.stdout.write(f"{path}\n")
            return 0
        if len(words) > 1:
            raise ConfigError("one bundle at a time", where="bundles", expected="NAME", got=" ".join(words))
        from monai_diffrecon.bundle.catalogue import catalogue, read_card
        from monai_diffrecon.bundle.places import find_bundle

        cards = catalogue() if not words else [read_card(find_bundle(words[0]))]
        if arguments.json:
            _write([json.dumps([{**asdict(card), "root": str(card.root)} for card in cards], indent=2)])
        elif words:
            _write(bundle_page(cards[0]))
        else:
            _write(bundle_table(cards))
        return 0

    return run


def tasks(parser: argparse.ArgumentParser) -> Run:
    """List the tasks of the bundles, or the settings of one."""
    parser.add_argument("name", nargs="?", help="explain this task")
    parser.add_argument("--bundle", metavar="NAME", help="only of this bundle (name or path)")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.bundle.catalogue import catalogue, read_card
        from monai_diffrecon.bundle.places import find_bundle

        cards = catalogue() if arguments.bundle is None else [read_card(find_bundle(arguments.bundle))]
        known: dict[str, list[BundleCard]] = {}
        for card in cards:
            for name in card.tasks:
                known.setdefault(name, []).append(card)
        if arguments.name is None:
            rows = [(name, of[0].tasks[name], ", ".join(c.name for c in of)) for name, of in sorted(known.items())]
            _write(table([("TASK", "MEASURED BY", "BUNDLES"), *rows]))
            return 0
        if arguments.name not in known:
            close = get_close_matches(arguments.name, known, n=1)
            raise ConfigError(
                "no such task",
                where="tasks",
                expected=", ".join(sorted(known)) or "none, no bundle was found",
                got=repr(arguments.name),
                mend=f"did you mean {close[0]!r}?" if close else None,
            )
        _write(task_page(arguments.name, known[arguments.name]))
        return 0

    return run


def methods(parser: argparse.ArgumentParser) -> Run:
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


def bundle_table(cards: Sequence[BundleCard]) -> list[str]:
    """Return the lines of a table of bundles."""
    if not cards:
        return ["No bundles found: install diffrecon-bundles, or set DIFFRECON_BUNDLES to the folder of the bundles."]
    rows = [(c.name, c.modality, c.pixels, c.place, f"BROKEN: {c.error}" if c.error else c.title) for c in cards]
    return table([("BUNDLE", "MODALITY", "PIXELS", "FROM", "TITLE"), *rows])


def bundle_page(card: BundleCard) -> list[str]:
    """Return the lines that describe a bundle to a person."""
    if card.error:
        return [card.name, f"  BROKEN: {card.error}"]
    known = {
        "modality": card.modality,
        "anatomy": card.anatomy,
        "pixels": card.pixels,
        "version": card.version,
        "licence": card.licence,
        "folder": str(card.root),
    }
    width = max(map(len, (*known, *card.tasks)))
    lines = [f"{card.name}: {card.title}", card.description, ""]
    lines += [f"  {key.ljust(width)}  {text}" for key, text in known.items() if text]
    lines += ["", "tasks:"] if card.tasks else []
    lines += [f"  {task.ljust(width)}  {text}" for task, text in card.tasks.items()]
    card_file = card.root / "docs" / "README.md"
    return [*lines, "", f"model card: {card_file}"] if card_file.is_file() else lines


def task_page(name: str, cards: Sequence[BundleCard]) -> list[str]:
    """Return the lines that describe a task: what it measures for each bundle, and its settings for the first."""
    from monai_diffrecon.presets.overlays import TASK, overlay_path

    path = overlay_path(TASK, name, cards[0].root, where="tasks")
    lines = [name, *table([(f"  {card.name}", card.tasks[name]) for card in cards]), ""]
    return [*lines, *path.read_text(encoding="utf-8").strip().splitlines()]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, all columns but the last one padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows]


def _write(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
