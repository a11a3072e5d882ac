# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bundles, weights and archives of a stranger: refused, and nothing of them was run.

Each payload would make a file. A control shows that it does so when MONAI, or pickle, gets it without a check.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.bundle.inspection.bundle_report import report_on
from monai_diffrecon.bundle.inspection.require_trusted import require_trusted
from monai_diffrecon.bundle.score_network import load_auxiliaries, load_score_network
from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.presets.overlays import copy_methods

#: Payload -> (what is merged into the configuration, the id to ask MONAI for); MARKER is the file it makes.
PAYLOADS: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"network_def": {"_target_": "os.system", "command": "touch MARKER"}}, "network_def"),
    "target through a trusted package": (
        {"network_def": {"_target_": "torch.os.system", "command": "touch MARKER"}},
        "network_def",
    ),
    "import in an expression": ({"network_def": "$__import__('os').system('touch MARKER')"}, "network_def"),
    "open": ({"network_def": "$open('MARKER', 'w').close()"}, "network_def"),
    "lambda": ({"network_def": "$(lambda m: m.os.system('touch MARKER'))(torch)"}, "network_def"),
    "nested in a list": (
        {
            "network_def": {
                "_target_": "torch.nn.Identity",
                "x": [[{"y": ["$eval('open(\"MARKER\", \"w\")').close()"]}]],
            }
        },
        "network_def",
    ),
    "imports": (
        {"imports": ["$from os import system as len"], "network_def": "$len('touch MARKER')"},
        "network_def",
    ),
    "reference to an import": (
        {"mods": "$import torch", "network_def": "$@mods.os.system('touch MARKER')"},
        "network_def",
    ),
    "import by a trusted function": (
        {"network_def": "$monai.utils.optional_import('os')[0].system('touch MARKER')"},
        "network_def",
    ),
    "behind a reference": (
        {"a": "$torch", "b": "@a", "network_def": "$@b.os.system('touch MARKER')"},
        "network_def",
    ),
    "by what it requires": (
        {"network_def": {"_target_": "torch.nn.Identity", "_requires_": "$open('MARKER', 'w').close()"}},
        "network_def",
    ),
    "through the attributes of data": (
        {"network_def": "$[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
         ".__init__.__globals__['system']('touch MARKER')"},
        "network_def",
    ),
    "a method as target": (
        {
            "i": "$from pathlib import Path",
            "network_def": {"_target_": "pathlib.Path.touch", "self": "$Path('MARKER')"},
        },
        "network_def",
    ),
    "a target that is computed": (
        {"network_def": {"_target_": "$'os.' + 'system'", "command": "touch MARKER"}},
        "network_def",
    ),
    "a target by reference": (
        {"a": "os.system", "network_def": {"_target_": "@a", "command": "touch MARKER"}},
        "network_def",
    ),
}  # fmt: skip

_KEY = "0 or torch.os.system('touch MARKER') or [1, 2][0"
#: What MONAI itself makes of texts that look harmless: it puts keys into expressions, and finds classes by their names.
DETOURS: dict[str, tuple[Any, Any]] = {
    "a key that is put into an expression": ({"0": 0, _KEY: {"y": "$@#z]", "z": 1}}, f"{_KEY}::y"),
    "a reader by its name": (
        {"network_def": {"_target_": "LoadImage", "reader": "os.system", "command": "touch MARKER"}},
        "network_def",
    ),
}


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "axial")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def own_modules() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path


def armed(payload: Any, marker: Path) -> Any:
    return json.loads(json.dumps(payload).replace("MARKER", str(marker)))


def merge(bundle: Path, name: str, content: dict[str, Any]) -> None:
    path = bundle / "configs" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def merge_hash(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    metadata["diffrecon"]["weights"]["sha256"] = sha256_file(bundle / "models/model.pt")
    merge(bundle, "metadata.json", metadata)


def run_unchecked(config: dict[str, Any], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # MONAI's, for arguments that a network does not take: too late, the payload ran.
        with suppress(RuntimeError):
            ConfigParser(config).get_parsed_content(name)


@pytest.mark.parametrize("name", PAYLOADS)
def test_code_in_the_configuration_of_an_auxiliary_bundle_is_not_run(name: str, bundle: Path, marker: Path) -> None:
    payload, wanted = PAYLOADS[name]
    merge(bundle, "inference.json", armed(payload, marker))
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert str(caught.value.where).startswith("bundle axial, inference.json: ")
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert report_on(bundle).exit_code == 4
    assert not marker.exists()
    run_unchecked(armed(payload, marker), wanted)
    assert marker.exists()


@pytest.mark.parametrize("name", DETOURS)
def test_code_by_what_monai_makes_of_texts_is_not_run(name: str, bundle: Path, marker: Path) -> None:
    payload, wanted = (armed(part, marker) for part in DETOURS[name])
    merge(bundle, "inference.json", payload)
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.exit_code == 4
    assert report_on(bundle).exit_code == 4
    assert not marker.exists()
    run_unchecked(payload, wanted)
    assert marker.exists()


def test_a_configuration_exchanged_after_the_inspection_is_not_run(
    bundle: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle / "configs/inference.json"
    evil = json.dumps({**json.loads(path.read_text()), **armed(PAYLOADS["open"][0], marker)})
    read_text = Path.read_text

    def exchange(self: Path, *args: Any, **options: Any) -> str:
        text = read_text(self, *args, **options)
        if self == path:
            path.write_text(evil)
        return text

    monkeypatch.setattr(Path, "read_text", exchange)
    assert load_score_network(bundle).plane == "axial"
    assert path.read_text() == evil
    assert not marker.exists()


@pytest.mark.parametrize("file", ["train.json", "evaluate.json", "tasks/accelerated_mri.json", "methods/dds.json"])
def test_code_in_any_configuration_file_is_found(file: str, bundle: Path, marker: Path) -> None:
    copy_methods(bundle)
    merge(bundle, file, {"handlers": [{"deep": ["$open('" + str(marker) + "', 'w')"]}]})
    with pytest.raises(IntegrityError) as caught:
        require_trusted(bundle)
    assert caught.value.where == f"{file}#handlers#0#deep#0"
    assert not marker.exists()


def test_an_overlay_that_reaches_into_another_file_is_found(bundle: Path) -> None:
    merge(bundle, "tasks/accelerated_mri.json", {"network_def#_target_": "os.system"})
    with pytest.raises(IntegrityError) as caught:
        require_trusted(bundle)
    assert caught.value.where == "tasks/accelerated_mri.json#network_def#_target_"


def test_an_import_in_the_metadata_is_found(bundle: Path) -> None:
    """MONAI puts the metadata into the configuration, and evaluates every import in it."""
    merge(bundle, "metadata.json", {"references": ["$import antigravity"]})
    with pytest.raises(IntegrityError) as caught:
        require_trusted(bundle)
    assert caught.value.where == "metadata.json#references#0"
    assert "antigravity" not in sys.modules


def test_a_module_of_the_bundle_is_not_imported(bundle: Path, marker: Path, own_modules: None) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts/diffrecon_evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nNet = dict\n")
    merge(bundle, "inference.json", {"network_def": {"_target_": "scripts.diffrecon_evil.Net"}})
    sys.path.insert(0, str(bundle))  # as MONAI does
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, inference.json: network_def#_target_"
    report = report_on(bundle)
    assert report.exit_code == 4
    assert "scripts/diffrecon_evil.py" in {use.where for use, _ in report.refused}
    assert not marker.exists()


def test_a_macro_that_reads_outside_of_the_bundle_is_refused(bundle: Path, tmp_path: Path, marker: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(armed({"net": {"_target_": "os.system", "command": "touch MARKER"}}, marker)))
    merge(bundle, "inference.json", {"network_def": f"%{outside}#net"})
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, inference.json: network_def"
    assert not marker.exists()
    run_unchecked({"network_def": f"%{outside}#net"}, "network_def")
    assert marker.exists()


def test_an_auxiliary_bundle_is_refused_beside_a_good_one(
    bundle: Path, make_bundle: Callable[..., Path], marker: Path
) -> None:
    other = make_bundle(bundle.parent / "coronal", plane="coronal")
    merge(other, "inference.json", armed(PAYLOADS["open"][0], marker))
    with pytest.raises(IntegrityError) as caught:
        load_auxiliaries("../coronal", load_score_network(bundle), bundle)
    assert caught.value.where == "bundle coronal, inference.json: network_def"
    assert not marker.exists()


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_that_run_code_are_refused(bundle: Path, marker: Path, zipped: bool) -> None:
    path = bundle / "models/model.pt"
    torch.save({"w": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    merge_hash(bundle)
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, models/model.pt"
    assert "system," in caught.value.what
    assert report_on(bundle).exit_code == 4
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_plain_pickle_as_weights_is_refused(bundle: Path, marker: Path) -> None:
    path = bundle / "models/model.pt"
    path.write_bytes(pickle.dumps(Payload(marker)))
    merge_hash(bundle)
    with pytest.raises((IntegrityError, InputError)):
        load_score_network(bundle)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_truncated_weights_are_refused(bundle: Path) -> None:
    path = bundle / "models/model.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, models/model.pt"
    assert str(caught.value.expected).startswith("sha256 ")
    assert caught.value.exit_code == 4


def test_swapped_weights_are_refused(bundle: Path, make_bundle: Callable[..., Path]) -> None:
    """Weights of the right network, and not those that the metadata names."""
    other = make_bundle(bundle.parent / "other", seed=1)
    (bundle / "models/model.pt").write_bytes((other / "models/model.pt").read_bytes())
    with pytest.raises(IntegrityError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, models/model.pt"
    assert str(caught.value.expected).startswith("sha256 ")


@pytest.mark.parametrize(
    ("member", "mode"),
    [("../evil", 0), ("archive/link", stat.S_IFLNK | 0o777)],
    ids=["path", "link"],
)
def test_a_checkpoint_with_strange_members_is_refused(tmp_path: Path, member: str, mode: int) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(1)}, path)
    info = zipfile.ZipInfo(member)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(info, "x")
    with pytest.raises(IntegrityError) as caught:
        load_checkpoint(path)
    assert caught.value.where == "checkpoint model.pt"
    assert repr(member) in caught.value.what
