# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon plugins NAME``: the options of one plugin."""

import json
from collections.abc import Callable

import pytest

from monai_diffrecon import registry
from monai_diffrecon.cli import main as cli
from monai_diffrecon.cli.plugins import PluginOption, find_plugin, plugin_options
from monai_diffrecon.errors import PluginError
from monai_diffrecon.registry import PluginInfo

SOURCE = '''
from monai_diffrecon.protocols import ClassicalSampler


class Base(ClassicalSampler):
    """Do something.

    Args:
        strength: how much
            of it: 0 or more.
        start: where to start.

    Raises:
        ValueError: never.
    """

    plugin_options = {"start": "samplers"}

    def __init__(self, strength: float, *, start="noise", sizes: list[int] | None = None) -> None: ...

    def estimate(self, measurement): ...


class Heir(Base):
    """Do it again.

    Args:
        sizes: of what.
    """


class Bare(ClassicalSampler):
    """Take nothing."""

    def estimate(self, measurement): ...
'''


@pytest.fixture(autouse=True)
def acme(install: Callable[..., None]) -> None:
    install("acme", "samplers", {"heir": "Heir", "bare": "Bare", "ddim": "Bare", "z_tv": "Bare"}, SOURCE)


def test_options_with_defaults_kinds_and_texts_of_the_bases() -> None:
    assert plugin_options(find_plugin("heir")) == [
        PluginOption("strength", "float", None, None, "how much of it: 0 or more."),
        PluginOption("start", "", "'noise'", "samplers", "where to start."),
        PluginOption("sizes", "list[int] | None", "None", None, "of what."),
    ]


def test_the_page_of_one_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "heir"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "heir (samplers), acme 2.1",
        "Do it again.",
        "",
        "  strength: float (required)",
        "      how much of it: 0 or more.",
        "  start = 'noise'  [samplers]",
        "      where to start.",
        "  sizes: list[int] | None = None",
        "      of what.",
    ]
    assert cli.main(["plugins", "bare"]) == 0
    assert capsys.readouterr().out.endswith("\n  no options\n")


def test_json_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "heir", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    options = known.pop("options")
    assert PluginInfo(**known) == find_plugin("heir")
    assert [option["default"] for option in options] == [None, "'noise'", "None"]


@pytest.mark.parametrize(
    ("name", "kind", "distribution"),
    [
        ("acme:ddim", "samplers", "acme"),
        ("Monai_Diffrecon:ddim", "samplers", "monai-diffrecon"),
        ("samplers:acme:ddim", "samplers", "acme"),
        ("samplers:z_tv", "samplers", "acme"),
        ("heir", "samplers", "acme"),
    ],
)
def test_ways_to_name_one(name: str, kind: str, distribution: str) -> None:
    info = find_plugin(name)
    assert (info.kind, info.distribution, info.name) == (kind, distribution, name.rpartition(":")[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["ddim"], "'samplers:acme:ddim' or 'samplers:monai-diffrecon:ddim'"),
        (["z_tv"], "'samplers:z_tv'"),
        (["other:heir"], "'samplers:heir'"),
        (["hair"], "'heir'"),
        (["samplers:perpendicular"], "diffrecon plugins"),
        (["heir", "--kind", "readers"], "diffrecon plugins"),
        (["xyz"], "diffrecon plugins"),
    ],
)
def test_what_is_not_one_plugin_is_refused_with_the_mend(
    arguments: list[str], mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plugins", *arguments]) == PluginError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert mend in captured.err.partition("Fix: ")[2]


def test_a_missing_plugin_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.get_group_all", lambda group: [])
    registry.refresh()
    with pytest.raises(PluginError) as caught:
        find_plugin("noncartesian_mri")
    assert "diffrecon-mri" in str(caught.value.mend)


def test_every_option_of_every_plugin_is_explained() -> None:
    installed = [info for info in registry.available() if info.distribution != "acme"]
    lacking = [(i.kind, i.name, o.name) for i in installed for o in plugin_options(i) if not (o.text and o.type)]
    assert installed
    assert lacking == []
