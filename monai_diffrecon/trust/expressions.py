# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the expressions of a bundle (``"$..."``) reach, read from their syntax; nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from monai_diffrecon.trust.python_names import is_module, origin
from monai_diffrecon.trust.use import BUILTINS, Use

# fmt: off
#: The builtins that only compute. Every other one counts as a way to execute or reach anything.
HARMLESS_BUILTINS = frozenset({
    "abs", "all", "any", "bool", "bytes", "complex", "dict", "divmod", "enumerate", "filter", "float",
    "frozenset", "hash", "int", "isinstance", "len", "list", "map", "max", "min", "ord", "pow", "print",
    "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip",
})
#: Attributes by which an object that looks like data leads to the system.
_ATTRIBUTES = frozenset({
    "os", "sys", "subprocess", "shutil", "importlib", "builtins", "pickle", "ctypes", "socket", "pty", "runpy",
    "multiprocessing", "pdb", "urllib", "requests", "system", "popen", "Popen", "check_output", "write_text",
    "write_bytes", "touch", "unlink", "rmtree", "rmdir", "rename", "chmod", "symlink_to", "hardlink_to",
    "tofile", "dump", "open", "import_module", "exec_module", "load_module", "run_module", "f_globals",
    "f_builtins", "f_locals", "gi_frame", "cr_frame", "ag_frame", "tb_frame", "gi_code", "func_globals",
})
# fmt: on
#: Arguments that switch a safe reader to an unsafe one -> the value that does not.
SAFE_VALUES: Mapping[str, bool] = {
    "allow_pickle": False,
    "weights_only": True,
    "trust_remote_code": False,
    "trust_repo": False,
    "_debug_": False,
}
#: Names that MONAI defines for every expression.
DEFAULT_NAMES: Mapping[str, frozenset[str]] = {
    name: frozenset({package})
    for name, package in (("monai", "monai"), ("torch", "torch"), ("np", "numpy"), ("numpy", "numpy"))
}
#: What MONAI puts in the place of "@id": an item of this dict.
REFERENCES = "__local_refs"
_REFERENCE = re.compile(r"@(?:\w*)(?:::\w*)*")


@dataclass(frozen=True)
class Scope:
    """What expressions can see.

    Attributes:
        names: name -> the dotted names it may stand for.
        import_ids: ids (separator ``::``) whose value is, or holds, an import statement.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=lambda: DEFAULT_NAMES)
    import_ids: frozenset[str] = frozenset()


def imported_names(text: str) -> dict[str, str] | None:
    """Return name -> dotted name of an import statement (without the ``$``), or None when it is none.

    Of several aliases MONAI uses the first one; all are returned.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not body or not isinstance(body[0], (ast.Import, ast.ImportFrom)):
        return None
    head = f"{body[0].module}." if isinstance(body[0], ast.ImportFrom) else ""
    return {alias.asname or alias.name: f"{head}{alias.name}" for alias in body[0].names}


def substitute(text: str) -> str:
    """Return an expression as MONAI evaluates it: ``@id`` is an item of a dict."""
    text = text.replace("#", "::")
    for item in sorted(_REFERENCE.findall(text), key=len, reverse=True):
        text = text.replace(item, f"{REFERENCES}['{item[1:]}']")
    return text


def inspect_expression(text: str, where: str, scope: Scope) -> list[Use]:
    """Return what an expression (without the ``$``) reaches beyond computing with the values of its bundle."""
    shown = f"${text}"
    if (imported := imported_names(text)) is not None:
        return [Use(where, "import", shown, name, origin(name)) for name in imported.values()]
    try:
        tree = ast.parse(substitute(text).lstrip(" \t"), mode="eval")
        found = list(_Walk(scope, _local_names(tree)).visit(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = [_Found(BUILTINS, "cannot be parsed, so no one can say what it does")]
    unique = list(dict.fromkeys(found))
    return [Use(where, "expression", shown, item.name, origin(item.name), item.fault) for item in unique]


def suspicious_part(parts: list[str]) -> str | None:
    """Return the part of a dotted name that leads behind the scenes, or None."""
    return next((part for part in parts if part.startswith("__") or part in _ATTRIBUTES), None)


@dataclass(frozen=True)
class _Found:
    name: str
    fault: str | None = None


def _local_names(tree: ast.AST) -> frozenset[str]:
    """Return the names that lambdas, comprehensions and ``:=`` bind."""
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(stored | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)})


class _Walk:
    """Visits the nodes of an expression."""

    def __init__(self, scope: Scope, local: frozenset[str]) -> None:
        self.scope, self.local = scope, local

    def visit(self, node: ast.AST) -> Iterator[_Found]:
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield from self._chain(node)
            return
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == REFERENCES:
            yield from self._reference(node.slice)
            return
        if isinstance(node, ast.Call):
            yield from self._arguments(node)
        if (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in SAFE_VALUES
        ):  # f(**{"allow_pickle": True})
            yield _Found(f"{BUILTINS}.{node.value}")
        for child in ast.iter_child_nodes(node):
            yield from self.visit(child)

    def _chain(self, node: ast.expr) -> Iterator[_Found]:
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            known = self._names(node.id)
            for name in known:
                full = ".".join([name, *attributes])
                yield _Found(full, "hands on a whole module" if is_module(origin(full)) else None)
            if not known:
                yield from self._unknown(node.id)
        else:
            known = frozenset()
            yield from self.visit(node)
        if (part := suspicious_part(attributes)) is not None:
            yield _Found(f"{BUILTINS}.{part}")

    def _names(self, name: str) -> frozenset[str]:
        return self.scope.names.get(name, frozenset())

    def _unknown(self, name: str) -> Iterator[_Found]:
        if name in HARMLESS_BUILTINS:
            return
        if hasattr(builtins, name) or name.startswith("__"):
            yield _Found(f"{BUILTINS}.{name}")
        elif name not in self.local:
            yield _Found(name, "a name that nothing in the bundle defines")

    def _reference(self, index: ast.expr) -> Iterator[_Found]:
        if not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
            yield _Found(f"{BUILTINS}.{REFERENCES}")
        elif index.value in self.scope.import_ids:
            yield _Found(index.value, "hands on an import")

    def _arguments(self, node: ast.Call) -> Iterator[_Found]:
        for keyword in node.keywords:
            safe = SAFE_VALUES.get(keyword.arg or "")
            if safe is not None and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is safe):
                yield _Found(f"{BUILTINS}.{keyword.arg}")
