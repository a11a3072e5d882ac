# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Where a dotted name leads, read from the source files of installed packages; nothing is imported."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

#: Packages whose classes and functions MONAI finds by their bare names: it looks into every module "monai...".
_SHORT_NAMES_IN = ("monai", "monai_diffrecon")
_DEFINITION = re.compile(r"^(?:class|def) (\w+)|^((?:\w+ = )+)\w+$", re.MULTILINE)
#: Longest chain of imports that is followed.
_DEPTH = 12


def parts_of(name: str) -> list[str]:
    """Return the parts of a dotted name as ``pydoc.locate``, which MONAI uses, sees them: empty ones do not count."""
    return [part for part in name.split(".") if part]


def candidates(target: str) -> list[str]:
    """Return the full names that MONAI may find for a ``_target_``, in the notation ``package.module.attribute``.

    A name without a dot is a class or function of MONAI, or else a builtin or a module.
    """
    parts = parts_of(target)
    if len(parts) != 1 or target != parts[0]:
        return [".".join(parts)]
    modules = _short_names().get(target, ())
    found = [f"{module}.{target}" for module in modules]
    if not modules or hasattr(builtins, target):
        found.append(f"builtins.{target}" if hasattr(builtins, target) else target)
    elif target in sys.stdlib_module_names:
        found.append(target)
    return found


@cache
def _short_names() -> dict[str, tuple[str, ...]]:
    """Return name -> modules of MONAI that define a class or function of that name."""
    table: dict[str, list[str]] = {}
    for package in _SHORT_NAMES_IN:
        for root in _folders(package):
            for path in sorted(root.rglob("*.py")):
                relative = path.relative_to(root.parent).with_suffix("")
                module = ".".join(relative.parts).removesuffix(".__init__")
                for match in _DEFINITION.finditer(path.read_text(encoding="utf-8", errors="replace")):
                    for name in (match[1] or match[2]).replace(" =", "").split():
                        table.setdefault(name, []).append(module)
    return {name: tuple(dict.fromkeys(modules)) for name, modules in table.items()}


@cache
def origin(name: str) -> str:
    """Return a dotted name after following the imports that lead from one module to the next.

    ``torch.os.system`` is ``os.system``, and ``torch.load`` is ``torch.serialization.load``. What no source file
    says (extension modules, attributes made at run time) keeps its name.
    """
    return _follow(name, _DEPTH)


def is_module(name: str) -> bool:
    """Return whether a dotted name is that of a module or package with a source file, or of the standard library."""
    parts = parts_of(name)
    return _module_file(parts) is not None or (len(parts) == 1 and parts[0] in sys.stdlib_module_names)


def _follow(name: str, depth: int) -> str:
    parts = parts_of(name)
    cut = next((n for n in range(len(parts), 0, -1) if _module_file(parts[:n]) is not None), 0)
    if not cut or cut == len(parts) or not depth:
        return name
    module, attribute, rest = ".".join(parts[:cut]), parts[cut], parts[cut + 1 :]
    names, stars = _bindings(module)
    if attribute in names:
        source = names[attribute]
        if source in (None, f"{module}.{attribute}"):
            return name
        return _follow(".".join([str(source), *rest]), depth - 1)
    for star in stars:
        through = ".".join([star, attribute, *rest])
        found = _follow(through, depth - 1)
        if found != through or attribute in _bindings(star)[0]:
            return found
    return name


@cache
def _folders(package: str) -> tuple[Path, ...]:
    """Return the folders of a top-level package; finding one imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return ()
    places = spec.submodule_search_locations if spec is not None else None
    return tuple(Path(place) for place in places or ())


@cache
def _module_file_of(name: str) -> Path | None:
    top, *rest = name.split(".")
    for folder in _folders(top):
        path = folder.joinpath(*rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _module_file(parts: list[str]) -> Path | None:
    return _module_file_of(".".join(parts)) if parts and all(part.isidentifier() for part in parts) else None


@cache
def _bindings(module: str) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return the names that a module binds by imports (name -> source) or otherwise (None), and its star imports."""
    path = _module_file_of(module)
    if path is None:
        return {}, ()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # nothing that this Python could import either
        return {}, ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: dict[str, str | None] = {}
    own: dict[str, None] = {}
    stars: list[str] = []
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _source(node, package)
            stars += [base for alias in node.names if alias.name == "*"]
            names |= {a.asname or a.name: f"{base}.{a.name}" for a in node.names if a.name != "*"}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own[node.name] = None
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
                if isinstance(first, ast.Name):
                    source = _alias(node.value, names) if first is target else _optional_import(node.value)
                    own[first.id] = None
                    if source is not None:
                        names[first.id] = source
    # What is imported somewhere counts as imported, whatever takes its place when that fails.
    return {**own, **names}, tuple(stars)


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a module, those under if, try and with included."""
    found: list[ast.stmt] = []
    for node in body:
        found.append(node)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            inner += [statement for handler in getattr(node, "handlers", []) for statement in handler.body]
            found += _statements(inner)
    return found


def _source(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")
    base = base[: len(base) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _alias(value: ast.expr, names: dict[str, str | None]) -> str | None:
    """Return the source of an assigned name: what ``a = b`` and ``a = b.c`` stand for, if b is an import."""
    chain: list[str] = []
    while isinstance(value, ast.Attribute):
        chain.insert(0, value.attr)
        value = value.value
    source = names.get(value.id) if isinstance(value, ast.Name) else None
    return None if source is None else ".".join([source, *chain])


def _optional_import(value: ast.expr) -> str | None:
    """Return the source in ``a, _ = optional_import("b", name="c")``, which is how MONAI imports."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "optional_import"):
        return None
    named = [keyword.value for keyword in value.keywords if keyword.arg in ("module", "name")]
    words = [a.value for a in [*value.args[:1], *named] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return ".".join(words) or None
