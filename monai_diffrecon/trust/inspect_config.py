# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a configuration of MONAI's bundles would import and execute."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from monai_diffrecon.trust.expressions import DEFAULT_NAMES, Scope, imported_name, inspect_expression
from monai_diffrecon.trust.locate import short_name
from monai_diffrecon.trust.use import PYTHON, Use, one_line, parts_of

#: More values than a configuration has. YAML's anchors can make a small file larger than any memory.
_MOST_VALUES = 200_000
_DEEPEST = 100
_FILE = re.compile(r".*\.(?:json|yaml|yml)(?=(?:::.*)|$)", re.IGNORECASE)
_RELATIVE = re.compile(r"[@%]::+")
_MODES = ("default", "callable")


def scope_of(configs: Iterable[Any]) -> Scope:
    """Return what the expressions of these configurations, in any combination, can see."""
    names = {name: set(found) for name, found in DEFAULT_NAMES.items()}
    ids: set[str] = set()
    for config in configs:
        with suppress(OverflowError):  # inspect_config reports it
            for at, _, value in _values(config):
                if isinstance(value, str) and value.startswith("$") and (imported := imported_name(value[1:])):
                    names.setdefault(imported[0], set()).add(imported[1] or PYTHON)
                    ids.update("::".join(at[:n]).lstrip("+") for n in range(len(at) + 1))
    return Scope({name: frozenset(found) for name, found in names.items()}, frozenset(ids))


def inspect_config(config: Any, name: str, scope: Scope) -> list[Use]:
    """Return what a configuration would import and execute, in its own order.

    A macro that reads another file (``"%other.json#id"``) is a use of kind ``macro`` whose name is the file.

    Args:
        config: content of the file; nothing in it is resolved yet.
        name: name of the file for messages, or an empty string.
        scope: from :func:`scope_of`.
    """
    found: list[Use] = []
    try:
        for at, key, value in _values(config):
            where = one_line("#".join([*([name] if name else []), *at]))
            if isinstance(value, str):
                found += _text(value, where, at, scope)
            found += _entry(key, value, where)
    except OverflowError as error:
        found.append(Use(name, "file", name, PYTHON, fault=str(error)))
    return found


def texts(config: Any) -> list[str]:
    """Return all texts in a configuration, as far as it can be inspected."""
    found: list[str] = []
    with suppress(OverflowError):  # inspect_config reports it
        found += [value for _, _, value in _values(config) if isinstance(value, str)]
    return found


def macro_file(text: str) -> str:
    """Return the file that a macro reads, or an empty string for one within its own configuration."""
    match = _FILE.match(text.replace("#", "::").removeprefix("%"))
    return match[0] if match else ""


def _values(config: Any) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Give ``(id, key, value)`` of each value of a nested configuration, itself included, in order."""
    stack: list[tuple[tuple[str, ...], str, Any]] = [((), "", config)]
    count = 0
    while stack:
        at, key, value = stack.pop()
        count += 1
        if count > _MOST_VALUES or len(at) > _DEEPEST:
            raise OverflowError("has more values, or deeper ones, than can be inspected")
        yield at, key, value
        nested = isinstance(value, (list, tuple))
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if nested else ()
        for k, v in reversed(list(items)):
            parts = str(k).replace("::", "#").split("#")  # "network_def#_target_" reaches into network_def
            stack.append(((*at, *parts), parts[-1].lstrip("+"), v))


def _entry(key: str, value: Any, where: str) -> list[Use]:
    """Return what the keys with a meaning of their own do."""
    if key == "_target_":
        if not isinstance(value, str) or value.startswith(("$", "@", "%")):
            return [Use(where, "target", str(value), PYTHON, "computes its target, so no one can say what it runs")]
        return _target(value, where)
    if (key == "_mode_" and value not in _MODES) or (key == "_debug_" and value is not False):
        return [Use(where, "target", f"{key}: {value}", f"{PYTHON}.breakpoint")]
    return []


def _target(target: str, where: str) -> list[Use]:
    parts = parts_of(target)
    if not parts:
        return [Use(where, "target", target, PYTHON, "names nothing")]
    names = [".".join(parts)]
    if names == [target] == parts:  # without a dot: MONAI's own, or else a builtin or a module
        names = short_name(target) or [f"{PYTHON}.{target}" if hasattr(builtins, target) else target]
    return [Use(where, "target", target, name) for name in names]


def _text(text: str, where: str, at: tuple[str, ...], scope: Scope) -> list[Use]:
    """Return what MONAI does with a text: evaluate it, look it up, read another file."""
    plain = _absolute(text, at)
    if plain.startswith("$"):
        return inspect_expression(plain[1:], where, scope)
    if not plain.startswith(("@", "%")):
        return []
    file = macro_file(plain) if plain.startswith("%") else ""
    id_ = plain.removeprefix(f"%{file}").removeprefix("::") if file else plain[1:]
    found = [Use(where, "macro", text, file)] if file else []
    # A file as a whole holds its imports too, but not under an id of their own.
    if id_ in scope.import_ids and (id_ or not file):
        found.append(Use(where, "macro", text, id_ or "(everything)", fault="hands on an import"))
    return found


def _absolute(text: str, at: tuple[str, ...]) -> str:
    """Return a text with relative ids (``@##id``) made absolute, as MONAI does it."""
    plain = text.replace("#", "::") if text.startswith(("$", "@", "%")) else text
    for prefix in sorted(set(_RELATIVE.findall(plain)), reverse=True):
        levels = prefix[1:].count("::")
        above = "::".join(at[:-levels]) if levels <= len(at) else ""
        plain = plain.replace(prefix, prefix[0] + (f"{above}::" if above else ""))
    return plain
