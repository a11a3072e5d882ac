# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Public names of packages that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that names its exports under ``if TYPE_CHECKING:``.

    The block is the one place where they stand: type checkers, editors and the inspection of bundles read it too.

    Args:
        package: full name of the package or module.
    """

    def get(name: str) -> Any:
        if name == "__all__":
            return list(exports(package))
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        names = exports(package)
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        module, attribute = names[name]
        value = getattr(import_module(module), attribute) if attribute else import_module(module)
        setattr(sys.modules[package], name, value)
        return value

    return get


@cache
def exports(package: str) -> dict[str, tuple[str, str]]:
    """Return what a package exports lazily: name -> its module and its name there, empty for a module itself.

    Args:
        package: full name of the package or module, which is not imported (its parents are).

    Raises:
        ImportError: an installation without source files.
    """
    import ast

    spec = find_spec(package)
    source = None if spec is None or spec.loader is None else spec.loader.get_source(package)  # type: ignore[attr-defined]
    if source is None:
        raise ImportError(f"{package} needs its source files, to know its public names")
    found: dict[str, tuple[str, str]] = {}
    for block in ast.parse(source).body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for node in block.body:
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        whole = node.module == package  # its own submodule
                        target = (f"{package}.{alias.name}", "") if whole else (node.module, alias.name)
                        found[alias.asname or alias.name] = target
    return found
