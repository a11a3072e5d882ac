# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a configuration of MONAI's bundles would import and execute."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Mapping
from typing import Any

from monai_diffrecon.bundle.inspection.expressions import DEFAULT_NAMES, Names, imported_name, inspect_expression
from monai_diffrecon.bundle.inspection.locate import short_name
from monai_diffrecon.bundle.inspection.use import PYTHON, Use, one_line, parts_of

#: Limit on the number of values: YAML anchors can expand a small file beyond any memory.
_MOST_VALUES = 200_000
_DEEPEST = 100
_ID = re.compile(r"[@%](?:::)*([\w:]*)")
#: What MONAI completes by the keys on the way to a text: relative ids and, when it looks again, copies by macros.
_COMPLETED = re.compile(r"^%|[@%]::")
_PLAIN_KEY = re.compile(r"[\w+]*")

#: Keys on the way to a value, and the value.
Item = tuple[tuple[str, ...], Any]


def items_of(config: Any) -> list[Item]:
    """Return all values of a nested configuration with their ids, itself included, in order.

    Raises:
        OverflowError: it has more values, or deeper ones, than any configuration.
    """
    found: list[Item] = []
    stack: list[Item] = [((), config)]
    while stack:
        at, value = stack.pop()
        found.append((at, value))
        if len(found) > _MOST_VALUES or len(at) > _DEEPEST:
            raise OverflowError("has more values, or deeper ones, than can be inspected")
        nested = isinstance(value, (list, tuple))
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if nested else ()
        # "network_def#_target_" reaches into network_def.
        stack += reversed([((*at, *str(k).replace("::", "#").split("#")), v) for k, v in inner])
    return found


def names_of(items: list[Item]) -> tuple[Names, set[str]]:
    """Return the names that import statements bind (and those of MONAI), and the ids of such statements.

    What holds a statement counts too. Which of several meanings a name has is decided when it runs: all count.
    """
    names = {name: set(found) for name, found in DEFAULT_NAMES.items()}
    ids: set[str] = set()
    for at, value in items:
        if isinstance(value, str) and value.startswith("$") and (imported := imported_name(value[1:])):
            names.setdefault(imported[0], set()).add(imported[1] or PYTHON)
            ids.update("::".join(at[:n]).lstrip("+") for n in range(len(at) + 1))
    return names, ids


def inspect_items(items: list[Item], file: str, names: Names, import_ids: set[str]) -> Iterator[Use]:
    """Give what the values of a configuration would import and execute, in its own order.

    A macro that reads another file (``"%other.json#id"``) is a use of kind ``macro`` whose name is the file.

    Args:
        items: from :func:`items_of`.
        file: name of its file for messages, or an empty string.
        names: from :func:`names_of`, of all files of the bundle.
        import_ids: likewise.
    """
    for at, value in items:
        where = one_line("#".join([*([file] if file else []), *at]))
        key = at[-1].lstrip("+") if at else ""
        if isinstance(value, str) and value.startswith(("$", "@", "%")):
            yield from _text(value, at, where, names, import_ids)
        if key == "_target_":
            yield from _target(value, where)
        elif (key == "_mode_" and value not in ("default", "callable")) or (key == "_debug_" and value is not False):
            yield Use(where, "target", f"{key}: {value}", f"{PYTHON}.breakpoint")


def macro_file(text: object) -> str:
    """Return the file that a macro reads, or an empty string for one within its own configuration."""
    if not (isinstance(text, str) and text.startswith("%")):
        return ""
    from monai.bundle import ConfigParser

    return ConfigParser.split_path_id(text[1:])[0]


def _text(text: str, at: tuple[str, ...], where: str, names: Names, import_ids: set[str]) -> Iterator[Use]:
    """Give what MONAI does with a text: evaluate it, look it up, read another file."""
    file = macro_file(text)
    plain = text.replace("#", "::").replace(file, "")
    found = (id_ for id_ in _ID.findall(plain) if id_ in import_ids and (id_ or not file))
    if _COMPLETED.search(plain) and not all(_PLAIN_KEY.fullmatch(key) for key in at):
        yield Use(where, "macro", text, PYTHON, fault="contains a reference below a key that is not a plain name")
    elif (id_ := next(found, None)) is not None:
        yield Use(where, "macro", text, id_ or "(everything)", fault="passes on an import")
    elif file:
        yield Use(where, "macro", text, file)
    elif text.startswith("$"):
        yield from inspect_expression(text[1:], where, names)


def _target(target: object, where: str) -> Iterator[Use]:
    if not isinstance(target, str) or target.startswith(("$", "@", "%")):
        yield Use(where, "target", str(target), PYTHON, "computes its target, so what it runs is unknown")
        return
    parts = parts_of(target)
    found = [".".join(parts)]
    if found == [target] == parts:  # without a dot: MONAI's own, or else a builtin or a module
        found = short_name(target) or [f"{PYTHON}.{target}" if hasattr(builtins, target) else target]
    for name in found:
        yield Use(where, "target", target, name, None if parts else "names nothing")
