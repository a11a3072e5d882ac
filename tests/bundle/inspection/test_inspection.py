# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Expressions and targets: what is refused, and what bundles need and get."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.bundle.inspection.allowed import ALLOWED
from monai_diffrecon.bundle.inspection.expressions import substitute
from monai_diffrecon.bundle.inspection.inspect_bundle import inspect_mapping
from monai_diffrecon.bundle.inspection.locate import short_name
from monai_diffrecon.bundle.inspection.policy import policy_for
from monai_diffrecon.bundle.inspection.require_trusted import refusals, require_trusted
from monai_diffrecon.errors import IntegrityError

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def refused(config: dict[str, Any], *trust: str) -> list[str]:
    return [refusal.reason for _, refusal in refusals(inspect_mapping(config), policy_for(trust))]


@pytest.mark.parametrize(
    "expression",
    [
        # Python itself
        *("__import__('os').system('x')", "open('x', 'w')", "eval('1')", "getattr(torch, 'os')", "type('X', (), {})"),
        *("__builtins__['eval']", "sorted([1], key=exec)", "map(eval, ['1'])", "vars()", "print(1, file=@a)", "help()"),
        *("breakpoint()", "globals()", "compile('1', '', 'eval')", "dict.__base__", "setattr(@a, 'x', 1)", "input()"),
        # from data to the system
        *("@a.__class__", "().__class__.__base__.__subclasses__()", "@a.os.system('x')", "@a.f_globals", "(1).real"),
        *("'{0.__class__}'.format(@a)", "f'{@a.__class__}'", "f'{open}'", "@a.write_text('x')", "@a.tofile('x')"),
        *("(x for x in [1]).gi_frame", "[c.__class__ for c in [1]]", "@a['x'].unlink()", "@a.format_map(@b)"),
        # outside of the grammar
        *("(lambda: 1)()", "lambda x: x", "(lambda m: m.hub.load('x', 'y'))(torch)", "(x := torch).hub", "@a()"),
        *("[f(1) for f in [@a]]", "(yield 1)", "await @a", "@a[0]('x')", "{'f': @a}['f']()", "(@a or @b)(1)"),
        *("[torch for torch in [1]]", "[len for len in [1]]", "undefined(1)", "f(", "x = 1", "'a@a'.join(1)"),
        # modules as values
        *("torch", "[torch]", "[m.random for m in [torch]]", "@a if torch else 1", "__local_refs.values()"),
        "__local_refs[str(1)]",
        # names that lead through a trusted package
        *("torch.os.system('x')", "np.os.system('x')", "monai.data.image_reader.itk.imread('x')", "torch.sys.exit()"),
        *("monai.utils.misc.subprocess.run('x')", "np.ctypeslib.ctypes.CDLL('x')", "monai.config.deviceconfig.sys"),
        # what trusted packages offer
        *("torch.hub.load('a', 'b')", "torch.load('x')", "torch.jit.load('x')", "torch.save(@a, 'x')", "torch.compile"),
        *("torch.utils.cpp_extension.load('x', [])", "torch.package.Package('x')", "torch.ops.load_library('x')"),
        *("np.load('x')", "np.random.rand(@x, allow_pickle=True)", "np.fromfile('x')", "np.savetxt('x', [])"),
        *("np.f2py.compile('x')", "torch._C._x", "torch.classes.load_library('x')", "torch.from_file('x')"),
        *("monai.utils.optional_import('os')[0]", "monai.bundle.ConfigParser()", "monai.bundle.run(config_file='x')"),
        *("monai.apps.download_url('x', 'y')", "monai.utils.run_cmd(['x'])", "monai.data.PersistentDataset([], None)"),
        *("monai.utils.module.import_option", "monai.utils.safeeval('1')", "monai.transforms.LoadImage('os.system')"),
        # imports
        *("import os", "import os, torch", "import torch, os", "import torch, math", "import torch.hub", "import sys"),
        *("from os import path", "from torch import hub as h", "from torch import os", "from . import x"),
        *("from monai.bundle import run", "from torch import *", "import torch; import os", "from monai import bundle"),
        *(
            "import monai_diffrecon.cli.main",
            "import antigravity",
            "from torch import load",
            "import numpy.f2py as torch",
        ),
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
        "from torch.nn import modules as m",
        "import torch.nn as nn2",
        "{k: v for k, v in zip(@a, @b) if v}",
        "{**@a, 'name': 'x'}[@b] if not @c else None",
        "dict.fromkeys(sorted({'axial', 'coronal'} - {@score.plane}), @score.plane)",
        "np.percentile(@a, 99)",
        "numpy.pad(@a, 1)",
        "monai.transforms.Compose([])",
        "@network.eval()",
        "@train#trainer.run()",
        "@bundle_root + '/models'",
        "str(Path(@a).parent / 'x')",
        "sqrt(2) * math.pi ** 2",
        "nn.Linear(3, @a[1:2][0])",
        "torch.float32 if @a > 2 and -@b <= 3 else torch.bfloat16",
        "max(@calls // 2, 1)",
        "monai.handlers.from_engine(['pred'])",
        "from monai.utils import set_determinism",
        "import monai.transforms as mt",
    ],
)
def test_expressions_that_bundles_need(expression: str) -> None:
    imports = ["$from pathlib import Path", "$from math import sqrt", "$import math", "$from torch import nn"]
    assert not refused({"imports": imports, "x": f"${expression}"})


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "..os..system", "subprocess.run", "builtins.eval", "eval", "len", "builtins.dict"),
        "antigravity",
        *("torch", "torch.nn", "torch.os.system", "torch.load", "torch.hub.load", "torch.jit.load", "torch.pi"),
        *("torch.nn.Module.compile", "Compose.__init__", "pathlib.Path.write_text", "pathlib.os.system", "", "."),
        *("monai.bundle.download", "download", "monai.bundle.run", "monai.bundle.ConfigWorkflow", "ConfigParser"),
        *("monai.apps.utils.download_url", "monai.apps.download_and_extract", "optional_import", "acme.Net"),
        *("monai.utils.instantiate", "monai.bundle.scripts.urllib.request.urlretrieve", "monai.losses.PerceptualLoss"),
        *("monai.data.NPZDictItemDataset", "monai.data.CSVDataset", "monai.data.PersistentDataset", "NumpyReader"),
        *("LoadImage", "LoadImaged", "SaveImaged", "monai.handlers.CheckpointLoader", "monai.networks.nets.HoVerNet"),
        *("monai.inferers.PatchInferer", "monai.networks.nets.FlexibleUNet", "monai.networks.nets.resnet18"),
        *("monai.transforms.TorchVision", "ignite.handlers.Checkpoint", "torch.optim.optimizer.os.system"),
        *("monai_diffrecon.cli.main.main", "monai_diffrecon.bundle.importing.import_checkpoint.import_checkpoint"),
        *("monai_diffrecon.io.atomic.atomic_write", "monai_diffrecon.bundle.inspection.locate.locate"),
        *("math.pi", "torch.no_such"),
        *("functools.reduce", "functools.partial.func", "numpy.load", "importlib.import_module", "pydoc.locate"),
    ],
)  # fmt: skip
def test_targets_that_reach_too_far(target: str) -> None:
    assert refused({"x": [{"y": {"_target_": target}}]})
    assert refused({"x": [{"y": {"_target_": target, "_mode_": "callable", "_desc_": "harmless"}}]})


@pytest.mark.parametrize(
    "target",
    [
        *("Compose", "DataLoader", "EnsureTypeD", "EnsureTyped", "monai.transforms.ScaleIntensityRanged", "DiceLoss"),
        *("torch.optim.Adam", "torch.optim.lr_scheduler.StepLR", "torch.nn.Identity", "torch.utils.data.DataLoader"),
        *("ignite.engine.Engine", "monai.networks.nets.DiffusionModelUNet", "monai.transforms.compose.Compose"),
        *("monai_diffrecon.engine.inferer.DiffReconInferer", "monai_diffrecon.samplers.pnp_hqs.PnPHQSSampler"),
    ],
)
def test_targets_that_bundles_need(target: str) -> None:
    assert not refused({"x": {"_target_": target}})
    assert not refused({"x": {"_target_": target, "_mode_": "callable"}})


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
    [
        *({"_mode_": "debug"}, {"_debug_": True}, {"_mode_": "$'de' + 'bug'"}, {"_debug_": "@a"}),
        *({"_disabled_": "$open('x')"}, {"_requires_": ["@a", "$open('x')"]}, {"_desc_": {"_target_": "os.system"}}),
    ],
)
def test_keys_with_a_meaning_of_their_own(entry: dict[str, Any]) -> None:
    harmless = {"_mode_": "callable", "_debug_": False, "_disabled_": "$not @a", "_requires_": ["@a"], "_desc_": "x"}
    assert not refused({"a": 1, "x": {"_target_": "torch.nn.Identity", **harmless}})
    assert refused({"a": 1, "x": {"_target_": "torch.nn.Identity", **entry}})


def test_targets_by_detours() -> None:
    assert refused({"x": {"a": 1}, "x#_target_": "os.system"})
    assert refused({"x": {"a": 1}, "+x::y#_target_": "os.system"})
    assert refused({"name": "os.system", "x": {"_target_": "@name"}})
    assert refused({"name": "os.system", "x": {"_target_": "%name"}})
    assert refused({"x": {"_target_": "$'os.' + 'system'"}})
    assert refused({"x": {"_target_": {"_target_": "torch.nn.Identity"}}})
    assert refused({"x": {"_target_": ["os.system"]}})
    assert refused({"x": "$monai.data.NumpyReader(**{'allow_pickle': @y})"})
    assert refused({"x": "$\uff45val('1')"})  # Python reads the wide e as e


@pytest.mark.parametrize(
    "config",
    [
        {"0": 0, "0 or torch.os.system('x') or [1, 2][0": {"y": "$@#z]", "z": 1}},  # MONAI puts the key into the text
        {"0": 0, "/elsewhere/x.json": {"y": "%#net"}},  # and into the name of a file
        {"a": {"y": "@#z", "z": 1}, "b[": "%a"},  # what is copied is completed by its new keys
        {"x": "%q\n/elsewhere/x.json#a"},
        {"x": "%/elsewhere/x.YAML#a"},
    ],
)
def test_references_that_become_something_else(config: dict[str, Any]) -> None:
    assert refused(config)


def test_relative_references() -> None:
    assert not refused({"a": {"y": "$@#z + @##b", "z": "%#y"}, "b": ["@#1", 2]})


def test_references_are_put_in_as_monai_does_it() -> None:
    from monai.bundle.reference_resolver import ReferenceResolver

    for text in ("$@a + @a#b", "$@a::b#0.run(@)", "$'x@y' + @a_b", "$@x@y", "$1 # 2"):
        refs = dict.fromkeys(ReferenceResolver.match_refs_pattern(text))
        assert f"${substitute(text[1:])}" == ReferenceResolver.update_refs_pattern(text, refs)


def test_a_name_has_every_meaning_that_an_import_gives_it() -> None:
    """Which file is read last decides at run time."""
    assert refused({"imports": ["$import numpy as torch", "$from os import system as len"], "x": "$len('x')"})
    assert refused({"imports": ["$import acme as np"], "x": "$np.zeros(1)"}) == ["acme is not trusted"] * 2


def test_trust_is_as_wide_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = {"x": "$torch.hub.load('a', 'b')"}
    assert refused({"x": {"_target_": "acme.nets.Net"}}, "acme") == []
    assert refused({"x": {"_target_": "acme_evil.Net"}}, "acme")
    assert refused(hub, "torch")
    assert not refused(hub, "torch.hub")
    assert refused({"x": "$torch.load('a')"}, "torch.hub")
    assert refused({"x": "$torch.os.path.join('x')"}, "torch")
    assert not refused({"x": "$torch.os.path.join('x')"}, "os", "posixpath", "ntpath")
    assert not refused({"x": "$(lambda: open('x'))()"}, "builtins")
    assert refused({"x": {"_target_": "os.system"}}, "builtins")
    monkeypatch.setenv("DIFFRECON_TRUST", "other, acme")
    assert not refused({"x": {"_target_": "acme.nets.Net"}})


def test_what_yaml_makes_endless_is_refused() -> None:
    value: Any = ["x"] * 10
    for _ in range(12):
        value = [value] * 10  # 10^13 values, in a few lines of YAML
    assert refused({"x": value})


def test_only_trusted_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "diffrecon_stranger.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for value in ({"_target_": "diffrecon_stranger.Net"}, "$import diffrecon_stranger"):
        assert refused({"x": value}) == ["diffrecon_stranger is not trusted"]
    assert not marker.exists()
    assert not refused({"x": {"_target_": "diffrecon_stranger.Net"}}, "diffrecon_stranger")
    assert marker.exists()
    del sys.modules["diffrecon_stranger"]


def test_what_a_trusted_package_only_imported_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diffrecon_friend.py").write_text(
        "import subprocess\nfrom shutil import rmtree\nfrom os import system\nmove = rmtree\n"
        "class Net:\n    def run(self): ...\ndef build(): ...\ntools = {'rm': rmtree}\nlate = lambda: 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Net", "build"):
        assert not refused({"x": {"_target_": f"diffrecon_friend.{name}"}}, "diffrecon_friend")
    for name in ("subprocess.run", "rmtree", "system", "move", "Net.run", "tools", "late", "none"):
        assert refused({"x": {"_target_": f"diffrecon_friend.{name}"}}, "diffrecon_friend"), name
    del sys.modules["diffrecon_friend"]


def test_the_folder_of_the_bundle_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MONAI does it, the bundle is on the path of imports; it poses as an installed plugin package too."""
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[monai_diffrecon.priors]\nacme = acme:Prior\n")
    (tmp_path / "acme.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"x": {"_target_": "acme.Net"}}
    with pytest.raises(IntegrityError) as caught:
        require_trusted(config, root=tmp_path)
    assert caught.value.where == "x#_target_"
    require_trusted(config, ["acme"], root=tmp_path)
    assert "acme" not in sys.modules


def test_a_short_name_is_that_of_one_class() -> None:
    """MONAI takes the first of several modules that define the name."""
    rows = [row for module, row in ALLOWED.items() if module.startswith("monai.") and row != "*"]
    names = [name for row in rows for name in row.split()]
    assert [name for name in names if len(short_name(name) or short_name(f"{name}d")) != 1] == []


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", SECURITY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {module: text.replace("all", "*").replace("`", "") for module, text in rows} == ALLOWED
