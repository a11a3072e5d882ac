# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The small grammar of expressions (``"$..."``), and the names that they reach; nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping, Set

from monai_diffrecon.bundle.inspection.allowed import ATTRIBUTES, BUILTINS
from monai_diffrecon.bundle.inspection.use import PYTHON, Use

#: Name in an expression -> the dotted names that it may stand for.
Names = Mapping[str, Set[str]]
#: Names that MONAI defines for every expression.
DEFAULT_NAMES: Names = {"monai": {"monai"}, "torch": {"torch"}, "np": {"numpy"}, "numpy": {"numpy"}}
#: What MONAI puts in the place of "@id": an item of this dict.
REFERENCES = "__local_refs"
_REFERENCE = re.compile(r"@(?:\w*)(?:::\w*)*")
#: Literals, arithmetic, comparisons, conditions, items, comprehensions. Names, attributes and calls have rules.
_GRAMMAR = (
    *(ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred, ast.keyword, ast.Subscript, ast.Slice),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
)


class _OutsideGrammarError(Exception):
    """What an expression may not do; the argument is a clause that follows its text."""


def imported_name(text: str) -> tuple[str, str] | None:
    """Return the name that an import statement (without the ``$``) binds and what it stands for, or None.

    The second is empty when it is more than ``import a``, ``import a as b`` or ``from a import b``.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not body or not isinstance(statement := body[0], (ast.Import, ast.ImportFrom)):
        return None
    alias = statement.names[0]
    bound = alias.asname or alias.name
    if len(body) > 1 or len(statement.names) > 1 or alias.name == "*":
        return bound, ""
    if isinstance(statement, ast.Import):
        return bound, alias.name
    return bound, f"{statement.module}.{alias.name}" if statement.module and not statement.level else ""


def substitute(text: str) -> str:
    """Return an expression as MONAI evaluates it: ``@id`` is an item of a dict."""
    text = text.replace("#", "::")
    for item in sorted(_REFERENCE.findall(text), key=len, reverse=True):
        text = text.replace(item, f"{REFERENCES}['{item[1:]}']")
    return text


def inspect_expression(text: str, where: str, names: Names) -> list[Use]:
    """Return the names that an expression (without the ``$``) reaches, and what in it is outside of the grammar."""
    shown = f"${text}"
    if (imported := imported_name(text)) is not None:
        fault = None if imported[1] else "imports more than one name"
        return [Use(where, "import", shown, imported[1] or PYTHON, fault)]
    try:
        tree = ast.parse(substitute(text).lstrip(" \t"), mode="eval").body
        found = list(dict.fromkeys(_Walk(names, tree).visit(tree)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [Use(where, "expression", shown, PYTHON, "cannot be parsed, so its effect is unknown")]
    except _OutsideGrammarError as error:
        return [Use(where, "expression", shown, PYTHON, str(error))]
    return [Use(where, "expression", shown, name) for name in found]


class _Walk:
    """Visits the nodes of an expression and gives the dotted names in it."""

    def __init__(self, names: Names, tree: ast.AST) -> None:
        self.names = names
        targets = (node.target for node in ast.walk(tree) if isinstance(node, ast.comprehension))
        self.local = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        if hidden := sorted(n for n in self.local if n in names or n.startswith("__") or hasattr(builtins, n)):
            raise _OutsideGrammarError(f"gives the name {hidden[0]} another meaning")

    def visit(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield from self._named(node)
            return
        if _is_reference(node):
            return
        if isinstance(node, ast.Call) and not self._may_be_called(node.func):
            raise _OutsideGrammarError("calls something other than a name or a method")
        if not isinstance(node, _GRAMMAR):
            raise _OutsideGrammarError(f"uses syntax outside the allowed grammar ({type(node).__name__})")
        for child in ast.iter_child_nodes(node):
            yield from self.visit(child)

    def _named(self, node: ast.Name | ast.Attribute) -> Iterator[str]:
        """Give the full name of ``a.b.c`` when ``a`` is imported; otherwise ``b`` and ``c`` have to be attributes."""
        attributes: list[str] = []
        value: ast.expr = node
        while isinstance(value, ast.Attribute):
            attributes.insert(0, value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id in self.names:
            yield from (".".join([full, *attributes]) for full in sorted(self.names[value.id]))
            return
        if isinstance(value, ast.Name) and value.id not in self.local:
            if value.id not in BUILTINS.split():
                if not hasattr(builtins, value.id) and not value.id.startswith("__"):
                    raise _OutsideGrammarError(f"uses the name {value.id}, which nothing in the bundle defines")
                yield f"{PYTHON}.{value.id}"
        elif not isinstance(value, ast.Name):
            yield from self.visit(value)
        if (other := next((a for a in attributes if a not in ATTRIBUTES.split()), None)) is not None:
            raise _OutsideGrammarError(f"reads the attribute .{other}, which bundles may not use")

    def _may_be_called(self, function: ast.expr) -> bool:
        name = isinstance(function, ast.Name) and function.id not in self.local
        return name or isinstance(function, ast.Attribute)


def _is_reference(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    )
