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
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


class NotTrustedError(Exception):
    """A name that leads into a package that is not trusted; the argument is the package."""


def short_name(target: str) -> list[str]:
    """Return the full names that MONAI may find for a ``_target_`` without a dot: classes and functions of MONAI."""
    importlib.import_module("monai.bundle")
    modules = _locator(len(sys.modules)).get_component_module_name(target) or []
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
    thing: Any = None
    holder = ""
    for n, part in enumerate(parts):
        if n and not isinstance(thing, ModuleType):
            raise LookupError("is an attribute of a class or value")
        holder = thing.__name__ if n else ""
        full = f"{holder}.{part}" if n else part
        _check(full, trusted)
        with without(root), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                thing = _import(full) or getattr(thing, part)
            except (Exception, SystemExit):
                raise LookupError("cannot be imported") from None
    if isinstance(thing, ModuleType):
        _check(thing.__name__, trusted)
        return thing, thing.__name__, ""
    if is_constant(thing):
        return thing, holder, parts[-1]
    home = getattr(thing, "__module__", None) or holder
    name = getattr(thing, "__name__" if inspect.isbuiltin(thing) else "__qualname__", None)
    if not (callable(thing) and isinstance(home, str) and isinstance(name, str) and name.isidentifier()):
        raise LookupError("is not a class, function or constant of a module")
    _check(home, trusted)
    return thing, home, name


def is_constant(thing: object) -> bool:
    """Return whether something is a plain value, such as ``math.pi`` or ``torch.channels_last``."""
    return type(thing) in (bool, int, float, str) or (type(thing).__module__ == "torch" and not callable(thing))


def exists(package: str, root: Path | None) -> bool:
    """Return whether Python finds a top-level package without the folder of the bundle."""
    try:
        with without(root):
            spec = importlib.util.find_spec(package) if package.isidentifier() else None
            return spec is not None and spec.origin is not None  # a mere folder has none
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return package in sys.modules


@contextmanager
def without(root: Path | None) -> Iterator[None]:
    """Take the folder of a bundle, which MONAI puts on the path of imports, off it."""
    before = list(sys.path)
    if root is not None:
        folder = root.resolve()
        sys.path[:] = [path for path in before if not Path(path).resolve().is_relative_to(folder)]
    try:
        yield
    finally:
        sys.path[:] = before


@cache
def _locator(_loaded: int) -> Any:
    """Return MONAI's index of the modules that are loaded; a new one when there are more of them."""
    return importlib.import_module("monai.bundle").ComponentLocator()


def _import(full: str) -> ModuleType | None:
    """Import a module; a submodule comes before an attribute of the same name, as in ``pydoc.locate``."""
    try:
        return importlib.import_module(full)
    except ImportError:
        return None


def _check(full: str, trusted: Callable[[str], bool]) -> None:
    package = full.partition(".")[0]
    if not trusted(package):
        raise NotTrustedError(package)
