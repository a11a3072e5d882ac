# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which plugins the configurations of a bundle name, and who provides them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monai_diffrecon.registry import available, current_name
from monai_diffrecon.registry.contract import KINDS

#: Config id that holds a plugin -> its kind.
_SLOTS = {role: kind for kind, (role, _) in KINDS.items()}
#: ``{'name': 'x'}`` in an expression.
_NAME = re.compile(r"""['"]name['"]\s*:\s*['"]([\w:.-]+)['"]""")


@dataclass(frozen=True)
class NamedPlugin:
    """A plugin that a bundle names.

    Attributes:
        name: its name.
        kind: its kind, or an empty string when that is not known.
        providers: the installed distributions that provide it, with their versions.
    """

    name: str
    kind: str
    providers: tuple[str, ...]


def named_plugins(configs: Iterable[Any]) -> tuple[NamedPlugin, ...]:
    """Return the plugins that configurations name; no plugin is imported.

    An unknown name counts where only a plugin can stand, for instance under ``operator``.
    """
    named = {pair for config in configs for pair in _names(config, "")}
    found: set[NamedPlugin] = set()
    installed = available()
    for name, kind in named:
        distribution, _, plain = name.rpartition(":")
        infos = [i for i in installed if i.name == plain and (not distribution or i.distribution == distribution)]
        present = {k: n for k in KINDS if (n := current_name(k, name)) != name}
        infos += [i for i in installed if i.kind in present and i.name == present[i.kind].rpartition(":")[2]]
        # A name of several kinds is the one that its place asks for.
        infos = [i for i in infos if i.kind == kind] or infos
        for each in {info.kind for info in infos}:
            providers = sorted(f"{i.distribution} {i.version}".strip() for i in infos if i.kind == each)
            found.add(NamedPlugin(name, each, tuple(providers)))
        if not infos and kind:
            found.add(NamedPlugin(name, kind, ()))
    return tuple(sorted(found, key=lambda p: (p.kind, p.name)))


def former_plugins(plugins: Iterable[NamedPlugin]) -> set[tuple[str, str]]:
    """Return the former names in use, and their current names."""
    pairs = {(p.name, current_name(p.kind, p.name)) for p in plugins if p.kind}
    return {(former, name) for former, name in pairs if former != name}


def _names(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Give (name, kind) of all ``{"name": ...}``; the kind is empty where the place does not say it."""
    kind = _SLOTS.get(key.rpartition("#")[2].lstrip("+"), "")
    if isinstance(value, Mapping):
        if isinstance(name := value.get("name"), str) and not name.startswith(("$", "@", "%")):
            yield name, kind
        for k, v in value.items():
            yield from _names(v, str(k))
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _names(v, key)
    elif isinstance(value, str) and value.startswith("$"):
        yield from ((name, kind) for name in _NAME.findall(value))
