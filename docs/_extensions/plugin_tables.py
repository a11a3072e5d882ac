# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A directive that describes the plugins of a kind from their signatures: ``{plugins} operators``."""

from __future__ import annotations

from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.cli.plugins import PluginOption, plugin_options

ABOUT = (
    "This page is made from the signatures of the installed plugins; `diffrecon plugins --kind {kind}` lists them, "
    "`diffrecon plugins NAME` prints the options of one."
)


def kind_page(kind: str) -> str:
    """Return Markdown with a section and a table of options for every installed plugin of a kind."""
    sections = []
    for info in registry.available(kind):
        options = plugin_options(info)
        lines = [f"## {info.name}", "", f"{_text(info.summary)} *Package: {info.distribution}.*", ""]
        if options:
            lines += ["| option | type | default | meaning |", "|---|---|---|---|", *map(_row, options), ""]
        else:
            lines += ["No options.", ""]
        sections += lines
    return "\n".join(sections)


def _row(option: PluginOption) -> str:
    default = "required" if option.default is None else _code(option.default)
    text = _text(option.text)
    if option.plugins:
        text = f"{text} Takes [{option.plugins}]({option.plugins}.md).".strip()
    return f"| `{option.name}` | {_code(option.type) if option.type else ''} | {default} | {text} |"


def _code(text: str) -> str:
    # A bar ends a cell, also within code.
    return f"`{text}`".replace("|", "\\|")


def _text(text: str) -> str:
    """Return reStructuredText of a docstring as Markdown: double backticks and roles become code."""
    words = text.replace("``", "`").replace("|", "\\|").replace("$", "\\$")
    for role in ("class", "func", "meth", "mod", "data", "attr"):
        words = words.replace(f":{role}:`~", "`").replace(f":{role}:`", "`")
    return words


def setup(app: Any) -> dict[str, Any]:
    """Add the directive to Sphinx."""
    from sphinx.util.docutils import SphinxDirective

    class Plugins(SphinxDirective):
        """Sections of all plugins of a kind."""

        required_arguments = 1

        def run(self) -> list[Any]:
            kind = self.arguments[0]
            text = f"{ABOUT.format(kind=kind)}\n\n{kind_page(kind)}"
            return list(self.parse_text_to_nodes(text, allow_section_headings=True))

    app.add_directive("plugins", Plugins)
    return {"parallel_read_safe": True}
