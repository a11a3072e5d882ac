# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What would break the documentation site, found without Sphinx."""

from __future__ import annotations

import importlib
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon import registry
from monai_diffrecon.cli.plugins import find_plugin, plugin_options

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILT = {"_build", "_extensions"}
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in BUILT)
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import an extension of the site, or a script that writes a page."""
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    before = {*sys.modules}
    yield importlib.import_module
    for name in {*sys.modules} - before:
        if name in ("plugin_tables", "public_names", "which_method"):
            del sys.modules[name]


def listed() -> list[str]:
    """Return the entries of all toctrees of the index."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.DOTALL | re.MULTILINE)
    return [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_index_lists_every_page_once() -> None:
    names = [p.relative_to(DOCS).with_suffix("").as_posix() for p in PAGES]
    for name in names:
        if name != "index":
            assert sum(fnmatch(name, entry) for entry in listed()) == 1, name
    for entry in listed():
        assert any(fnmatch(name, entry) for name in names), entry


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert target.suffix != ".md" or target in PAGES, f"{link}: not a page of the site"
            assert not anchor or anchor in anchors(target), link


def test_every_page_has_a_title() -> None:
    for page in PAGES:
        assert page.read_text(encoding="utf-8").startswith(("# ", "---\n")), page


def test_every_kind_of_plugins_has_a_page() -> None:
    for kind in registry.KINDS:
        assert f"```{{plugins}} {kind}\n" in (DOCS / "reference" / f"{kind}.md").read_text(encoding="utf-8")


def test_tables_have_every_option_of_every_plugin(extension: Any) -> None:
    page = extension("plugin_tables").kind_page("operators")
    sections = dict(section.split("\n", 1) for section in page.removeprefix("## ").split("\n## "))
    assert {*sections} == {info.name for info in registry.available("operators")}
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| ", sections["parallel_ct"], re.MULTILINE)
    assert [row[0] for row in rows] == [o.name for o in plugin_options(find_plugin("operators:parallel_ct"))]
    assert ("views", "`int \\| None`") in [row[:2] for row in rows]
    assert ("arc", "`float`", "`180.0`") in rows
    # A bar within a cell would end it.
    for line in re.findall(r"^\|.*$", page, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_the_public_names_are_documented_once(extension: Any) -> None:
    names_of = extension("public_names").names_of
    packages = re.findall(r"^```\{public-names\} (\S+)$", (DOCS / "reference/python.md").read_text(), re.MULTILINE)
    assert ("load", "autofunction") in names_of("monai_diffrecon")
    assert ("Operator", "autoclass") in names_of("monai_diffrecon")
    assert ("LadderSampler", "autoclass") not in names_of("monai_diffrecon.sampling")
    assert len(packages) == len({*packages}) >= 10
    assert all(names_of(package) for package in packages)


def test_the_table_of_methods_is_current(extension: Any) -> None:
    script = extension("which_method")
    found = script.results(script.RESULTS.read_text(encoding="utf-8"))
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.written(page, script.table(found)) == page, "run scripts/which_method.py"
    # 29.53 dB, and 16.45 dB of the classical estimate
    assert "| sparse-view CT | the bundle's default, 20 calls | +13.1 dB in 4 s |" in page
