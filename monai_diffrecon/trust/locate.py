# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a dotted name stands for, and where that is defined; only trusted packages are imported to find out."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

#: Types of the constants in trusted packages: numbers, texts, ``torch.float32``, ``torch.channels_last``.
_CONSTANTS = {f"builtins.{name}" for name in ("bool", "int", "float", "complex", "str", "NoneType")} | {
    f"torch.{name}" for name in ("dtype", "layout", "memory_format")
}


class NotTrustedError(Exception):
    """A name that leads into a package that is not trusted; the argument is the package."""


def short_name(target: str) -> list[str]:
    """Return the full names that MONAI may find for a ``_target_`` without a dot: classes and functions of MONAI."""
    importlib.import_module("monai.bundle")
    locator = importlib.import_module("monai.bundle.config_item").ComponentLocator()
    modules = locator.get_component_module_name(target) or []
    return [f"{module}.{target}" for module in ([modules] if isinstance(modules, str) else modules)]


def locate(parts: list[str], trusted: Callable[[str], bool], root: Path | None) -> tuple[Any, str, str]:
    """Return what a dotted name stands for, the module that defines it, and its name there.

    Args:
        parts: parts of the name.
        trusted: whether a top-level package may be imported.
        root: folder of the bundle; nothing is imported from there.

    Raises:
        NotTrustedError: the name leads through another package, as ``torch.os.system`` does.
        LookupError: there is no such name, or it is an attribute of a class.
    """
    thing: Any = _member(None, parts[0], trusted, root)
    holder = ""
    for part in parts[1:]:
        if not isinstance(thing, ModuleType):
            raise LookupError("is an attribute of a class or value")
        holder = thing.__name__
        thing = _member(thing, part, trusted, root)
    if isinstance(thing, ModuleType):
        _check(thing.__name__, trusted)
        return thing, thing.__name__, ""
    if f"{type(thing).__module__}.{type(thing).__name__}" in _CONSTANTS:
        return thing, holder, parts[-1]
    home = getattr(thing, "__module__", None) or holder
    name = getattr(thing, "__name__" if inspect.isbuiltin(thing) else "__qualname__", None)
    if not (callable(thing) and isinstance(home, str) and isinstance(name, str) and name.isidentifier()):
        raise LookupError("is no class, function or constant of a module")
    _check(home, trusted)
    return thing, home, name


def is_constant(thing: object) -> bool:
    """Return whether :func:`locate` found a value rather than a class, function or module."""
    return not callable(thing) and not isinstance(thing, ModuleType)


def place(package: str, root: Path | None) -> str:
    """Return whether a top-level package is ``installed``, ``absent``, or a part of the ``bundle``."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return "installed" if package in sys.modules else "absent"
    if spec is None:
        return "absent"
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location and spec.origin else [])]
    return "bundle" if any(_inside(folder, root) for folder in places) else "installed"


def _member(module: ModuleType | None, part: str, trusted: Callable[[str], bool], root: Path | None) -> Any:
    full = part if module is None else f"{module.__name__}.{part}"
    _check(full, trusted)
    with warnings.catch_warnings(), _without(root):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(full)  # a submodule comes before an attribute, as in pydoc.locate
        except ImportError:
            if module is None:
                raise LookupError("cannot be imported") from None
        except (Exception, SystemExit):
            raise LookupError("cannot be imported") from None
        try:
            return getattr(module, part)
        except Exception:
            raise LookupError("does not exist") from None


def _check(full: str, trusted: Callable[[str], bool]) -> None:
    package = full.partition(".")[0]
    if not trusted(package):
        raise NotTrustedError(package)


@contextmanager
def _without(root: Path | None) -> Iterator[None]:
    """Take the folder of a bundle, which MONAI puts on the path of imports, off it."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if not _inside(path, root)]
    try:
        yield
    finally:
        sys.path[:] = before


def _inside(path: str, root: Path | None) -> bool:
    return root is not None and Path(path).resolve().is_relative_to(root.resolve())
