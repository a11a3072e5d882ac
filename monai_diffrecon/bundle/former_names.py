# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Names of modules in the configurations of older bundles, and the public names that took their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from monai_diffrecon._lazy import exports

#: Current public homes of names in bundles, and modules whose names never occurred in a bundle.
_HOMES = ("", ".networks", ".training", ".transforms", ".evaluation")
_PROGRAMS = "monai_diffrecon.api."
_IMPORT = re.compile(r"\bfrom (monai_diffrecon(?:\.\w+)+) import (\w+)$")


def with_public_names(config: Any) -> Any:
    """Return a configuration with public names in ``_target_``s and imports, otherwise unchanged.

    Args:
        config: content of a configuration file, not resolved.
    """
    if isinstance(config, dict):
        return {
            key: public_name(value) if key == "_target_" and isinstance(value, str) else with_public_names(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [with_public_names(value) for value in config]
    if isinstance(config, str) and config.startswith("$from monai_diffrecon."):
        return _IMPORT.sub(_import, config)
    return config


def former_names(config: Any) -> Iterator[tuple[str, str]]:
    """Yield what a configuration names by the module it was in, and its public name."""
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            if key == "_target_" and isinstance(value, str) and public_name(value) != value:
                yield value, public_name(value)
            yield from former_names(value)
    elif isinstance(config, str) and (new := with_public_names(config)) != config:
        yield config.removeprefix("$"), new.removeprefix("$")


def public_name(target: str) -> str:
    """Return the public name of a class or function of this package; any other as it is.

    Args:
        target: a dotted name.
    """
    package, _, rest = target.partition(".")
    name = rest.rpartition(".")[2]
    if package != "monai_diffrecon" or not name:
        return target
    for home in (f"{package}{end}" for end in _HOMES):
        module, attribute = exports(home).get(name, ("", ""))
        if attribute and not module.startswith(_PROGRAMS):
            return f"{home}.{name}"
    return target


def _import(match: re.Match[str]) -> str:
    home, _, name = public_name(f"{match[1]}.{match[2]}").rpartition(".")
    return f"from {home} import {name}"
