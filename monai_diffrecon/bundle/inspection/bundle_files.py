# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Files of a bundle that Python would run beside its configurations."""

from __future__ import annotations

import ast
import configparser
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path

from monai_diffrecon.bundle.inspection.locate import exists
from monai_diffrecon.bundle.inspection.use import PYTHON, Use, one_line

_CODE = (*all_suffixes(), ".pyo", ".pyz", ".egg", ".pyx")
#: An installed distribution is recognised by such a folder, and its entry points are plugins.
_DISTRIBUTIONS = (".dist-info", ".egg-info")
_STREAMS = ("sys.stdout", "sys.stderr")
_LOGGING_CLASS = re.compile(
    r"(logging\.)?((handlers\.)?(Rotating|TimedRotating)FileHandler|(Stream|File|Null)Handler|Formatter)"
)


def code_files(root: Path) -> tuple[Use, ...]:
    """Return the Python modules in a bundle: MONAI puts the root of a bundle on the path of imports.

    A link to another folder counts too, since it hides what is in it.
    """
    return tuple(_code_files(root))


def logging_uses(path: Path, name: str) -> list[Use]:
    """Return what a logging configuration evaluates: ``class``, ``args`` and ``kwargs`` of each section are code.

    Args:
        path: the file, as ``logging.config.fileConfig`` reads it.
        name: its name for messages.
    """
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (configparser.Error, ValueError, OSError):
        return [Use(name, "logging", "", PYTHON, fault="cannot be read, so its effect is unknown")]
    uses = []
    for section in parser.sections():
        for key in ("class", "args", "kwargs"):
            value = parser.get(section, key, fallback="").strip()
            harmless = _LOGGING_CLASS.fullmatch(value) if key == "class" else _is_data(value)
            if value and not harmless:
                uses.append(Use(f"{name}#{section}#{key}", "logging", value, f"{PYTHON}.eval"))
    return uses


def _code_files(root: Path) -> Iterator[Use]:
    for folder, folders, files in os.walk(root):
        for name in sorted(folders):
            path = Path(folder, name)
            relative = one_line(str(path.relative_to(root)))
            if path.is_symlink():
                yield Use(relative, "module", relative, PYTHON, fault="a link to another folder")
            elif name.endswith(_DISTRIBUTIONS):
                yield Use(relative, "module", relative, PYTHON, fault="poses as an installed plugin package")
        for name in sorted(files):
            if name.lower().endswith(_CODE) or name == "entry_points.txt":
                yield _module(Path(folder, name), root)


def _module(path: Path, root: Path) -> Use:
    relative = path.relative_to(root)
    parts = [*relative.parts[:-1], relative.name.partition(".")[0]]
    replaces = parts[0] in sys.stdlib_module_names or exists(parts[0], root)
    fault = f"replaces the package {parts[0]}" if replaces else None
    return Use(one_line(str(relative)), "module", str(relative), ".".join(parts), fault=fault)


def _is_data(text: str) -> bool:
    """Return whether arguments are literals and standard streams."""
    for stream in _STREAMS:
        text = text.replace(stream, "None")
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True
