# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The known ids of a configuration, and the closest match for an unknown one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pydoc import locate
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.registry.contract import GIVEN, with_present_options

#: Keys with a meaning for MONAI in what has a ``_target_``.
_OF_COMPONENTS = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_")


def is_known(config: Any, name: str) -> bool:
    """Say whether a configuration has an id, or has a plugin or a component that takes it as an option.

    Args:
        config: the merged configuration.
        name: the id, ``#`` between the levels.
    """
    keys, here, owned = name.split("#"), config, False
    for depth, key in enumerate(keys):
        if isinstance(here, Mapping) and key not in here:
            options = options_of(here)
            # What lies within an option of a plugin, the planes of `share` for instance, the plugin checks itself.
            allowed = owned if options == () else options is None or key in options
            return allowed and depth == len(keys) - 1
        if isinstance(here, Mapping):
            owned, here = owned or options_of(here) != (), here[key]
        elif isinstance(here, list) and key.isdecimal() and int(key) < len(here):
            here = here[int(key)]
        else:
            return False
    return True


def present_id(config: Any, name: str) -> str:
    """Return an id with renamed plugin options replaced by their current names; a warning is given for former names.

    Args:
        config: the merged configuration.
        name: the id, ``#`` between the levels.
    """
    keys, here = name.split("#"), config
    for depth, key in enumerate(keys):
        if isinstance(here, Mapping) and key not in here and isinstance(here.get("name"), str):
            with suppress(DiffReconError):  # building it reports the error
                for plugin in _plugins(here["name"]):
                    (keys[depth],) = with_present_options(plugin, {keys[depth]: None})
        here = here.get(keys[depth]) if isinstance(here, Mapping) else None
    return "#".join(keys)


def options_of(part: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the options of a plugin ``{"name": ...}`` or a component ``{"_target_": ...}``.

    Returns:
        Their names, none for any other dict, and None where anything goes or it is not known.
    """
    if "_target_" in part:
        options = _options_of_target(part["_target_"])
        return None if options is None else (*options, *_OF_COMPONENTS)
    if not isinstance(part.get("name"), str):
        return ()
    found: list[str] = []
    try:
        for plugin in _plugins(part["name"]):
            found += [option for option in _parameters(plugin) or () if option not in GIVEN]
    except DiffReconError:
        return None  # building it reports the error
    return tuple(dict.fromkeys(found)) or None


def nearest(config: Mapping[str, Any], name: str, others: Iterable[str] = ()) -> str | None:
    """Return the known id that is most like another, or None.

    Args:
        config: the merged configuration.
        name: an id that it does not know.
        others: further ids that are known.
    """
    parent, _, last = name.rpartition("#")
    ids = list(_ids(config))
    siblings = [i.rpartition("#")[2] for i in ids if i.rpartition("#")[0] == parent]
    part = _at(config, parent)
    if isinstance(part, Mapping):
        siblings += [option for option in options_of(part) or () if option not in _OF_COMPONENTS]
    elif part is None or isinstance(part, str):  # a level that does not exist, or one that refers to another
        siblings = []
    if not parent:
        siblings += others
    close = get_close_matches(last, siblings, n=1)
    tails = sorted((i for i in ids if i.rpartition("#")[2] == last), key=len)
    if close and (parent or not tails):
        return f"{parent}#{close[0]}" if parent else close[0]
    return next(iter(tails or get_close_matches(name, ids, n=1)), None)


def _plugins(name: str) -> Iterator[type]:
    """Yield the plugins of a name, of whichever kind."""
    for kind in registry.KINDS:
        present = registry.current_name(kind, name)
        if present.rpartition(":")[2] in {info.name for info in registry.available(kind)}:
            yield registry.load(kind, present)


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        name = f"{prefix}{key}"
        yield name
        if isinstance(value, Mapping | list):
            yield from _ids(value, f"{name}#")


def _at(config: Any, name: str) -> Any:
    for key in name.split("#") if name else ():
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _options_of_target(target: Any) -> tuple[str, ...] | None:
    if not isinstance(target, str) or target.startswith(("$", "@", "%")):
        return None
    if "." not in target:
        from monai.bundle import ComponentLocator

        modules = ComponentLocator().get_component_module_name(target)
        target = f"{modules[0] if isinstance(modules, list) else modules}.{target}"
    try:
        return _parameters(locate(str(target)))
    except Exception:  # MONAI reports import errors
        return None


def _parameters(component: Any) -> tuple[str, ...] | None:
    if not callable(component):
        return None
    parameters = inspect.signature(component).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters)
