# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A directive that documents what a package exports: ``{public-names} monai_diffrecon.networks``."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import monai_diffrecon

ROOT = "monai_diffrecon"


def names_of(package: str) -> list[tuple[str, str]]:
    """Return (name, what documents it) of the public classes and functions of a package.

    Args:
        package: a package with lazy names or with ``__all__``; less what the whole package exports under the same name.
    """
    module = importlib.import_module(package)
    named = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
    found = []
    for name in named:
        value = getattr(module, name)
        if package != ROOT and value is getattr(monai_diffrecon, name, None):
            continue  # documented as a name of the whole package
        if inspect.isclass(value):
            found.append((name, "autoclass"))
        elif inspect.isfunction(value):
            found.append((name, "autofunction"))
    return found


def setup(app: Any) -> dict[str, Any]:
    """Add the directive to Sphinx."""
    from docutils.parsers.rst import directives
    from sphinx.util.docutils import SphinxDirective

    class PublicNames(SphinxDirective):
        """Documentation of every public class and function of a package."""

        required_arguments = 1
        option_spec = {"members": directives.flag}  # noqa: RUF012

        def run(self) -> list[Any]:
            package, members = self.arguments[0], "members" in self.options
            lines = ["```{eval-rst}"]
            for name, directive in names_of(package):
                lines += ["", f".. {directive}:: {package}.{name}"]
                lines += ["   :members:"] if members and directive == "autoclass" else []
            return list(self.parse_text_to_nodes("\n".join([*lines, "```"])))

    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
