# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a release repeats of setup.cfg, and what a package page can show."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_diffrecon import __version__

ROOT = Path(__file__).parents[1]
#: Package here -> its name in conda-forge.
CONDA = {"torch": "pytorch", "pytorch-ignite": "ignite", "matplotlib": "matplotlib-base"}


def settings(path: Path) -> ConfigParser:
    parser = ConfigParser(delimiters=("=",))
    parser.optionxform = str
    parser.read(path, encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "release/recipe.yaml").read_text(encoding="utf-8"))


def test_the_recipe_agrees_with_setup_cfg(recipe: dict[str, Any]) -> None:
    package = settings(ROOT / "setup.cfg")
    wanted = [re.fullmatch(r"([\w-]+)(.*)", line) for line in lines(package["options"]["install_requires"])]
    run = recipe["requirements"]["run"]
    assert set(run[1:]) == {f"{CONDA.get(m[1], m[1])} {m[2]}" for m in wanted if m}
    assert run[0] == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == package["options"]["python_requires"]
    assert recipe["build"]["python"]["entry_points"] == lines(package["options.entry_points"]["console_scripts"])
    assert recipe["context"]["version"] == __version__
    for key, here in (("summary", "description"), ("license", "license"), ("license_file", "license_files")):
        assert recipe["about"][key] == package["metadata"][here]
    setuptools = re.search(r"setuptools(>=\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert setuptools is not None
    assert f"setuptools {setuptools[1]}" in recipe["requirements"]["host"]


def test_the_citation_agrees_with_setup_cfg() -> None:
    metadata = settings(ROOT / "setup.cfg")["metadata"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["authors"] == [{"name": metadata["author"]}]
    assert citation["license"] == metadata["license"]
    assert [reference["year"] for reference in citation["references"]] == [2023, 2023]


@pytest.mark.parametrize("path", [ROOT, *sorted(ROOT.glob("plugins/*/"))], ids=lambda path: path.name)
def test_a_package_page_has_no_relative_links(path: Path) -> None:
    """They lead nowhere outside of the repository."""
    page = path / settings(path / "setup.cfg")["metadata"]["long_description"].removeprefix("file:").strip()
    targets = re.findall(r"\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not target.startswith("https://")] == []
