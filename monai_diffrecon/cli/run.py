# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon run``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import ast
import json
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from monai_diffrecon.errors import ConfigError


def run(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Run a bundle like `python -m monai.bundle run`, but check the command line first."""
    # Every word is MONAI's, with two hyphens or without.
    parser.prefix_chars = "\0"
    parser.add_argument("words", nargs="*", metavar="--ID VALUE", help="arguments of `python -m monai.bundle run`")

    def run_bundle(arguments: argparse.Namespace) -> int:
        if {"--help", "-h"} & {*arguments.words}:
            parser.print_help()
            return 0
        return run_words(arguments.words)

    return run_bundle


def run_words(words: Sequence[str]) -> int:
    """Check the arguments of `python -m monai.bundle run`, and run it in this process.

    Args:
        words: the arguments.

    Returns:
        The exit code.

    Raises:
        DiffReconError: what the check or the run raises.
    """
    from importlib.util import find_spec

    from monai_diffrecon.errors.uncaught import users_error
    from monai_diffrecon.options.command_line import check_arguments, with_present_ids

    check_arguments(words)
    words = with_present_ids(words)
    before = sys.argv
    found = find_spec("monai.bundle.__main__")
    sys.argv = [str(found.origin if found else ""), "run", *words]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except Exception as error:
        cause = users_error(error)
        if cause is None:
            raise
        raise cause from error
    finally:
        sys.argv = before
    return 0


def overrides_of(pairs: list[str]) -> dict[str, Any]:
    """Return ``ID=VALUE`` pairs as a dict: ``.`` or ``#`` between the levels of an id, JSON values or words.

    Raises:
        ConfigError: no such pair, or an id twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.replace(".", "#").replace("::", "#")
        if not (name and equals) or name in found:
            raise ConfigError("not an option", where="--set", expected="ID=VALUE, each ID once", got=pair)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def reader_of(text: str | None) -> Any:
    """Return the reader as it was typed: a name, or with options, as JSON or as Python writes them.

    Raises:
        ConfigError: options that are neither.
    """
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise ConfigError(
            "cannot be read", where="--reader", expected="a name, or {'name': ..., options}", got=text
        ) from None


def declarations(pairs: Sequence[str], where: str = "--declare") -> dict[str, Any]:
    """Return ``KEY=VALUE`` pairs as a dict; a value that is no JSON is a word.

    Args:
        pairs: the pairs.
        where: the argument that they came with, for messages.

    Raises:
        ConfigError: no such pair, or a key twice.
    """
    declared: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.isidentifier() and equals) or key in declared:
            raise ConfigError("not a declaration", where=where, expected="KEY=VALUE, each KEY once", got=pair)
        try:
            declared[key] = json.loads(value)
        except ValueError:
            declared[key] = value
    return declared
