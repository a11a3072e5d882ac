# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Expressions and targets: what is refused, and what bundles need and get."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.trust.inspect_bundle import inspect_mapping
from monai_diffrecon.trust.policy import policy_for
from monai_diffrecon.trust.python_names import candidates, origin
from monai_diffrecon.trust.require_trusted import refusals


def refused(config: dict[str, Any], *trust: str) -> list[str]:
    return [use.name for use, _ in refusals(inspect_mapping(config), policy_for(trust))]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('x')",
        "open('x', 'w')",
        "eval('1')",
        "(lambda m: m.hub.load('x', 'y'))(torch)",
        "[m.random for m in [torch]]",
        "(x := torch).hub",
        "torch.os.system('x')",
        "torch.hub.load('a', 'b')",
        "torch.load('x')",
        "np.load('x')",
        "np.random.rand(@x, allow_pickle=True)",
        "monai.utils.optional_import('os')[0]",
        "monai.data.image_reader.itk.imread('x')",
        "monai.bundle.ConfigParser()",
        "torch._C._x",
        "@a.__class__",
        "@a.os.system('x')",
        "().__class__.__base__.__subclasses__()",
        "getattr(torch, 'os')",
        "type('X', (), {})",
        "torch",
        "__local_refs.values()",
        "__builtins__['eval']",
        "sorted([1], key=exec)",
        "f'{open}'",
        "'a@a'.join(1)",  # the reference breaks out of the text
        "undefined(1)",
        "f(",
        "x = 1",
        "import os",
        "import os, torch",
        "import torch, os",
        "import torch.hub",
        "from os import path",
        "from torch import hub as h",
        "from torch import os",
        "from . import x",
    ],
)
def test_expressions_that_reach_too_far(expression: str) -> None:
    assert refused({"a": 1, "x": {"list": [f"${expression}"]}})


@pytest.mark.parametrize(
    "expression",
    [
        "torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "@network.to(@device).to(memory_format=torch.channels_last)",
        "[x * 2 for x in range(len(@a))]",
        "(lambda x: max(x, 1))(@a#b#0)",
        "{**@a, 'name': 'x'}[@b] if not @c else None",
        "np.percentile(@a, 99)",
        "numpy.pad(@a, 1)",
        "monai.transforms.Compose([])",
        "@network.eval()",
        "str(Path(@a).parent)",
        "sqrt(2)",
        "from monai.utils import set_determinism",
    ],
)
def test_expressions_that_bundles_need(expression: str) -> None:
    assert not refused({"imports": ["$from pathlib import Path", "$from math import sqrt"], "x": f"${expression}"})


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "..os..system", "subprocess.run", "builtins.eval", "eval", "torch.load", "torch.hub.load"),
        *("monai.bundle.download", "download", "monai.apps.utils.download_url", "optional_import", "antigravity"),
        *("torch", "torch.nn", "torch.os.system", "Compose.__init__", "pathlib.Path.write_text", "", "acme.Net"),
        *("monai.bundle.scripts.urllib.request.urlretrieve", "monai_diffrecon.cli.main", "torch.jit.load"),
    ],
)
def test_targets_that_reach_too_far(target: str) -> None:
    assert refused({"x": [{"y": {"_target_": target}}]})


@pytest.mark.parametrize("target", ["Compose", "DataLoader", "LoadImageD", "torch.optim.Adam", "ignite.engine.Engine"])
def test_targets_that_bundles_need(target: str) -> None:
    assert not refused({"x": {"_target_": target}})


@pytest.mark.parametrize(
    "value",
    [
        "@imports",
        "@imports#0",
        "%imports#0",
        "$@imports#0.hub",
        {"y": "%##imports"},
        {"y": {"z": "@###imports#0"}},
        "$@",
    ],
)
def test_an_import_is_no_value(value: Any) -> None:
    """A module that is handed on would be out of sight."""
    assert not refused({"imports": ["$import torch"]})
    assert refused({"imports": ["$import torch"], "x": value})


@pytest.mark.parametrize(
    "entry",
    [{"_mode_": "debug"}, {"_debug_": True}, {"allow_pickle": True}, {"weights_only": False}, {"allow_pickle": "@a"}],
)
def test_arguments_that_switch_protection_off(entry: dict[str, Any]) -> None:
    assert not refused({"x": {"_target_": "NumpyReader", "_mode_": "callable", "allow_pickle": False}})
    assert refused({"x": {"_target_": "NumpyReader", **entry}})


def test_targets_by_detours() -> None:
    assert refused({"x": {"a": 1}, "x#_target_": "os.system"})
    assert refused({"x": {"a": 1}, "+x::y#_target_": "os.system"})
    assert refused({"name": "os.system", "x": {"_target_": "@name"}})
    assert refused({"name": "os.system", "x": {"_target_": "%name"}})
    assert refused({"x": {"_target_": "$'os.' + 'system'"}})
    assert refused({"x": "$monai.data.NumpyReader(**{'allow_pickle': @y})"})
    assert refused({"x": "$\uff45val('1')"})  # Python reads the wide e as e


def test_an_import_that_may_fail_is_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "diffrecon_trusted_sample"
    package.mkdir()
    (package / "__init__.py").write_text(
        "try:\n    import yaml\nexcept ImportError:\n    yaml = None\n"
        "try:\n    from os import system\nexcept ImportError:\n    def system(): ...\n"
        "import shutil as tools\nmove = tools.move\nfrom .inner import *\n"
    )
    (package / "inner.py").write_text("import subprocess\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = package.name
    assert origin(f"{name}.yaml.unsafe_load").startswith("yaml.")
    assert origin(f"{name}.system") == "os.system"
    assert origin(f"{name}.move") == "shutil.move"
    assert origin(f"{name}.subprocess.run") == "subprocess.run"
    assert origin(f"{name}.Net") == f"{name}.inner.Net"
    assert name not in sys.modules


def test_a_name_has_every_meaning_that_an_import_gives_it() -> None:
    """Which file is read last decides at run time."""
    assert refused({"imports": ["$import numpy as torch", "$from os import system as len"], "x": "$len('x')"})
    assert refused({"imports": ["$import acme as np"], "x": "$np.zeros(1)"}) == ["acme", "acme.zeros"]


def test_trust_is_as_wide_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = {"x": "$torch.hub.load('a', 'b')"}
    assert refused({"x": {"_target_": "acme.nets.Net"}}, "acme") == []
    assert refused({"x": {"_target_": "acme_evil.Net"}}, "acme")
    assert refused(hub, "torch")
    assert not refused(hub, "torch.hub")
    assert refused({"x": "$torch.load('a')"}, "torch.hub")
    assert refused({"x": "$torch.os.system('x')"}, "torch")
    assert not refused({"x": "$torch.os.system('x')"}, "os", "builtins")
    monkeypatch.setenv("DIFFRECON_TRUST", "other, acme")
    assert not refused({"x": {"_target_": "acme.nets.Net"}})


def test_what_yaml_makes_endless_is_refused() -> None:
    value: Any = ["x"] * 10
    for _ in range(12):
        value = [value] * 10  # 10^13 values, in a few lines of YAML
    assert refused({"x": value})


def test_names_are_followed_and_nothing_is_imported() -> None:
    before = set(sys.modules)
    assert origin("torch.load") == "torch.serialization.load"
    assert origin("torch.os.system") == "os.system"
    assert origin("monai.utils.optional_import") == "monai.utils.module.optional_import"
    assert origin("monai.data.image_reader.itk.imread").startswith("itk.")  # by optional_import
    assert candidates("Compose") == ["monai.transforms.compose.Compose"]
    assert candidates("eval") == ["builtins.eval"]
    assert not {m for m in set(sys.modules) - before if m.partition(".")[0] in ("monai", "itk", "torch")}
