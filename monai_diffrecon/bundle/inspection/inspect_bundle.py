# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the files of a bundle would import and execute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.bundle.inspection.bundle_files import code_files, logging_uses
from monai_diffrecon.bundle.inspection.inspect_config import Item, inspect_items, items_of, macro_file, names_of
from monai_diffrecon.bundle.inspection.locate import without
from monai_diffrecon.bundle.inspection.use import PYTHON, Use, one_line

_SUFFIXES = (".json", ".yaml", ".yml")
_LOGGING = (".conf", ".ini", ".cfg")
_LARGEST = 16 << 20  # bytes of a configuration


class UnreadableConfigError(Exception):
    """A configuration that cannot be read."""


def inspect_bundle(root: str | Path) -> tuple[Use, ...]:
    """Return what all configurations, logging files and Python files of a bundle would import and execute.

    Args:
        root: root folder of the bundle. Nothing in it is imported or evaluated.
    """
    root = Path(root)
    files = sorted(path for path in (root / "configs").rglob("*") if path.is_file())
    with without(root):  # MONAI is imported to ask it
        uses = _inspect([path for path in files if path.suffix.lower() in _SUFFIXES], root)
    for path in files:
        if path.suffix.lower() in _LOGGING:
            uses += logging_uses(path, _name(path, root))
    return (*uses, *code_files(root))


def inspect_mapping(config: Mapping[str, Any], root: str | Path | None = None) -> tuple[Use, ...]:
    """Return what one configuration, and the files of the bundle that its macros read, would import and execute.

    Args:
        config: the configuration, merged but not resolved.
        root: root folder of the bundle, where macros may read; None lets them read nothing.
    """
    folder = None if root is None else Path(root)
    with without(folder):
        return tuple(_inspect([config], folder))


def read_config(path: Path) -> Any:
    """Return the content of a JSON or YAML file; tags that make objects are errors.

    Raises:
        UnreadableConfigError: not such a file, or larger than any configuration.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UnreadableConfigError("larger than any configuration")
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UnreadableConfigError("not plain YAML") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON
        raise UnreadableConfigError(type(error).__name__) from error


def _inspect(configs: list[Any], root: Path | None) -> list[Use]:
    """Inspect configurations, given or to be read, and the files that macros in them read."""
    uses: list[Use] = []
    inspected: dict[str, list[Item]] = {}
    waiting = list(configs)
    seen = {path.resolve() for path in waiting if isinstance(path, Path)}
    for config in waiting:  # grows
        name = _name(config, root) if isinstance(config, Path) else ""
        try:
            inspected[name] = items_of(read_config(config) if isinstance(config, Path) else config)
        except (UnreadableConfigError, OverflowError) as error:
            why = "" if isinstance(error, OverflowError) else "cannot be read, so its effect is unknown: "
            uses.append(Use(name, "file", name, PYTHON, fault=f"{why}{error}"))
            continue
        for other in (_inside(root, macro_file(value)) for _, value in inspected[name]):
            if other is not None and other.resolve() not in seen:
                seen.add(other.resolve())
                waiting.append(other)
    names, ids = names_of([item for items in inspected.values() for item in items])
    for name, items in inspected.items():
        for use in inspect_items(items, name, names, ids):
            outside = use.kind == "macro" and use.fault is None and _inside(root, use.name) is None
            fault = "reads a file that is not in the bundle" if outside else use.fault
            uses.append(Use(use.where, use.kind, use.text, use.name, fault))
    return uses


def _inside(root: Path | None, name: str) -> Path | None:
    """Return the file of the bundle that a macro names, or None."""
    if root is None or not name or Path(name).is_absolute():
        return None
    path = root / name
    return path if path.is_file() and path.resolve().is_relative_to(root.resolve()) else None


def _name(path: Path, root: Path | None) -> str:
    """Return the name of a file for messages: below ``configs``, else below the root."""
    relative = path if root is None else path.relative_to(root)
    return one_line(str(relative.relative_to("configs") if relative.parts[0] == "configs" else relative))
