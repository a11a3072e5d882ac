# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Description of one plugin: its options with defaults and meanings, and its distribution."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from monai_diffrecon import registry
from monai_diffrecon.errors import PluginError
from monai_diffrecon.registry import PluginInfo, contract


@dataclass(frozen=True)
class PluginOption:
    """One option of a plugin.

    Attributes:
        name: name of the option.
        type: its annotation, or an empty string.
        default: its default as Python writes it; None for a required option.
        plugins: the kind of the plugins that it takes, or None.
        text: what the docstring says of it, or an empty string.
    """

    name: str
    type: str
    default: str | None
    plugins: str | None
    text: str


def find_plugin(name: str, kind: str | None = None) -> PluginInfo:
    """Return the one plugin of a name, without importing it.

    Args:
        name: ``NAME``, ``KIND:NAME``, ``DISTRIBUTION:NAME`` or ``KIND:DISTRIBUTION:NAME``.
        kind: the kind to look in; None looks in all.

    Raises:
        PluginError: there is none, or more than one.
    """
    first, _, rest = name.partition(":")
    if kind is None and rest and first in registry.KINDS:
        kind, name = first, rest
    distribution, _, plain = name.rpartition(":")
    infos = registry.available(kind)
    named = [i for i in infos if i.name == plain]
    found = [i for i in named if not distribution or i.distribution == registry.canonical(distribution)]
    if len(found) == 1:
        return found[0]
    now = {k: registry.current_name(k, name) for k in (registry.KINDS if kind is None else (kind,))}
    if moved := {k: present for k, present in now.items() if present != name}:
        ((k, present),) = moved.items()
        info = find_plugin(present, k)
        return replace(info, summary=f"{info.summary} Formerly called {plain!r}.")
    if named:
        full = " or ".join(_full_name(i, named) for i in found or named)
        what = f"the name of {len(found)} plugins" if found else "not a plugin of that distribution"
        raise PluginError(what, where="plugins", got=repr(name), mend=f"give the full name, {full}")
    of_kind = f" among the {kind}" if kind else ""
    providers = [d for (k, n), d in registry.KNOWN_PROVIDERS.items() if n == plain and kind in (None, k)]
    if providers:
        mend = f"install the package that provides it, {providers[0]}"
    elif close := get_close_matches(plain, sorted({i.name for i in infos}), n=3):
        mend = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        mend = "see `diffrecon plugins` for those found"
    raise PluginError(f"no plugin {plain!r}{of_kind}", where="plugins", mend=mend)


def plugin_options(info: PluginInfo) -> list[PluginOption]:
    """Import a plugin and return the options of its constructor, less what the framework gives.

    Raises:
        PluginError: the plugin is broken.
    """
    cls = registry.load(info.kind, f"{info.distribution}:{info.name}")
    nested, texts = contract.nested_options(cls), _texts(cls)
    options = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if name not in contract.GIVEN:
            annotation = parameter.annotation
            word = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
            options.append(
                PluginOption(
                    name,
                    "" if annotation is inspect.Parameter.empty else word,
                    None if parameter.default is inspect.Parameter.empty else repr(parameter.default),
                    nested.get(name),
                    texts.get(name, ""),
                )
            )
    return options


def plugin_page(info: PluginInfo, options: list[PluginOption]) -> list[str]:
    """Return the lines that describe a plugin to a person."""
    lines = [f"{info.name} ({info.kind}), {info.distribution} {info.version}".rstrip(), info.summary, ""]
    for o in options:
        default = "(required)" if o.default is None else f"= {o.default}"
        plugins = f"  [{o.plugins}]" if o.plugins else ""
        lines += [f"  {o.name}{': ' if o.type else ''}{o.type} {default}{plugins}"]
        lines += [f"      {o.text}"] if o.text else []
    return lines if options else [*lines, "  no options"]


def _full_name(info: PluginInfo, others: list[PluginInfo]) -> str:
    alike = sum(o.kind == info.kind for o in others) > 1
    return repr(f"{info.kind}:{info.distribution}:{info.name}" if alike else f"{info.kind}:{info.name}")


def _texts(cls: type) -> dict[str, str]:
    """Return option -> its text in the section Args of a Google docstring; a base's where the class says none."""
    texts: dict[str, str] = {}
    for base in cls.__mro__:
        doc = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = re.search(r"^Args:\n((?: .*\n?|\n)*)", doc, re.MULTILINE)
        for entry in re.split(r"\n(?=    \w)", "\n" + section[1] if section else ""):
            name, colon, text = entry.strip().partition(":")
            if colon and name.isidentifier():
                texts.setdefault(name, " ".join(text.split()))
    return texts
