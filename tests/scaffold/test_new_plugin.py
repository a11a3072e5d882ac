# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon new-plugin``: a package of each kind passes its tests, which can fail, and all work in a run by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest

from monai_diffrecon import registry
from monai_diffrecon.cli import main as cli
from monai_diffrecon.scaffold.new_plugin import TEMPLATES, kinds, new_plugin

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/your_first_plugin.md").read_text(encoding="utf-8")
KINDS = sorted({*kinds().values()})
#: Registers packages without installing them: an egg-info in each folder that is given.
REGISTER = """
import os, sys, setuptools
for folder in sys.argv[1:]:
    os.chdir(folder)
    setuptools.setup(script_args=["-q", "egg_info"])
"""
#: Kind -> an error that somebody may make in what was written, and that its tests have to find.
ERRORS = {
    "consistency": ("self.step / norm", "self.step"),
    "denoisers": ("x - sigma * noise", "x - noise"),
    "executors": ("isinstance(found, OSError)", "isinstance(found, Exception)"),
    "metrics": ("100.0 * ", ""),
    "noises": ("self.seed // 2", "0"),
    "operators": ("self.initial(y) / self.factor", "self.initial(y)"),
    "priors": ("mirrored = plane(x.flip(self.dim), sigma).flip(self.dim)", "mirrored = plane(x.flip(self.dim), sigma)"),
    "readers": ("nib.as_closest_canonical", ""),
    "regularizers": ("torch.cat([v, zero], self.dim)", "torch.cat([zero, v], self.dim)"),
    "runtimes": ("with torch.no_grad():", "with torch.enable_grad():"),
    "samplers": ("following / sigma * (state.x - x0)", "following * (state.x - x0)"),
    "writers": ("voxels = volume[0]", "voxels = volume[0].flip(0)"),
}


def name_of(kind: str) -> str:
    return f"my_{kind}"


def run(*words: str, folders: Iterable[Path] = (), cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python with this checkout and these folders on its path."""
    path = os.pathsep.join([*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, timeout=280, cwd=cwd, env=environment
    )


def register(packages: Path) -> None:
    done = run("-c", REGISTER, *map(str, packages.iterdir()))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of each kind, registered for processes that have them on their path."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        assert cli.main(["new-plugin", kind.removesuffix("s"), name_of(kind), "--output", str(folder)]) == 0
    register(folder)
    return folder


def test_every_kind_but_importers_has_a_template() -> None:
    assert {*KINDS} == {*registry.KINDS} - {"importers"} == {*ERRORS}


def test_templates_are_installed_with_the_package() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pattern = setup["options.package_data"]["monai_diffrecon.scaffold"]
    assert {*TEMPLATES.parent.glob(pattern)} == {path for path in TEMPLATES.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_short_and_complete(packages: Path, kind: str) -> None:
    name = name_of(kind)
    folder = packages / f"diffrecon-{name}".replace("_", "-")
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and "egg-info" not in str(p)}
    wanted = {"README.md", "setup.cfg", "pyproject.toml", f"diffrecon_{name}.py", f"tests/test_{name}.py"}
    assert {*files} - {path for path in files if "__pycache__" in path} == wanted
    texts = {path: files[path].read_text(encoding="utf-8") for path in wanted}
    lines = sum(len(text.splitlines()) for text in texts.values())
    assert lines < 100
    assert f"| {kind} | {lines} | " in PAGE
    assert f"| `{kind.removesuffix('s')}` | " in PAGE
    assert not [path for path, text in texts.items() if "$" in text or not text.endswith("\n")]
    setup = ConfigParser()
    setup.read_string(texts["setup.cfg"])
    assert setup["options"]["install_requires"] == "monai-diffrecon>=0.1,<0.2"
    assert setup["metadata"]["author"] == f"The {folder.name} authors"
    assert name in texts["README.md"]
    assert f"{kind}:{name}" in texts["README.md"]


def test_packages_are_clean(packages: Path) -> None:
    for words in (["check"], ["format", "--check", "--line-length", "120"]):
        done = run("-m", "ruff", words[0], "--isolated", "--no-cache", *words[1:], ".", cwd=packages)
        assert done.returncode == 0, done.stdout


def test_the_registry_knows_them(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in packages.iterdir():
        monkeypatch.syspath_prepend(folder)
    registry.refresh()
    try:
        found = {info.kind: info for info in registry.available() if info.name == name_of(info.kind)}
    finally:
        registry.refresh()
    assert {*found} == {*KINDS}
    for info in found.values():
        assert (info.distribution, info.version) == (f"diffrecon-my-{info.kind}", "0.1.0")
        assert info.summary.endswith(".") or info.kind == "regularizers", info


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_their_tests_pass_and_find_errors(packages: Path, tmp_path: Path) -> None:
    """In one process: of the packages as they are, and of others with an error each."""
    for kind, (right, wrong) in ERRORS.items():
        module = new_plugin(kind, f"wrong_{kind}", tmp_path) / f"diffrecon_wrong_{kind}.py"
        text = module.read_text(encoding="utf-8")
        assert text.count(right) == 1, kind
        module.write_text(text.replace(right, wrong), encoding="utf-8")
    register(tmp_path)
    folders = [*packages.iterdir(), *tmp_path.iterdir()]
    options = ("-v", "--color=no", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib")
    done = run("-m", "pytest", *options, *(str(f / "tests") for f in folders), folders=folders, cwd=tmp_path)
    results = re.findall(r"test_(my|wrong)_([a-z]+)\.py::.+ ([A-Z]+) ", done.stdout)
    for kind in KINDS:
        passed, found = ([r for of, k, r in results if (of, k) == (name, kind)] for name in ("my", "wrong"))
        assert {*passed} == {"PASSED"}, (kind, done.stdout, done.stderr)
        assert len(passed) == len(found) >= 2
        assert "FAILED" in found, f"the tests of {kind} do not find {ERRORS[kind]}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_uses_them_by_name(packages: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    """As their pages say; the bundle names the denoiser. Executors and regularizers have no place in such a run."""
    name = {kind: name_of(kind) for kind in KINDS}
    bundle = make_bundle(tmp_path / "b", denoiser={"name": name["denoisers"], "sigma_min": 0.01, "sigma_max": 1.0})
    volume = np.random.default_rng(0).random((16, 16, 8), dtype=np.float32)
    np.savez(tmp_path / "scan.npz", volume=volume, affine=np.eye(4))
    options = {
        "config_file": bundle / "configs/inference.json",
        "bundle_root": bundle,
        "image": tmp_path / "scan.npz",
        "reference": tmp_path / "scan.npz",
        "simulate": "true",
        "operator": {"name": name["operators"], "factor": 2},
        "prior": {"name": name["priors"], "axis": 0},
        "consistency": {"name": name["consistency"], "iterations": 3},
        "sampler": {"name": name["samplers"], "steps": 2},
        "noise": {"name": name["noises"]},
        "runtime": name["runtimes"],
        "output_format": name["writers"],
        "output_dir": tmp_path / "out",
        "evaluator#track": "false",
        "logging_file": "False",
    }
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    done = run("-m", "monai_diffrecon", "run", *words, folders=packages.iterdir(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = (tmp_path / "out").glob("*.provenance.json")
    said = record.read_text(encoding="utf-8")
    taken = {kind for kind in KINDS if name[kind] in said}
    assert taken == {*KINDS} - {"denoisers", "executors", "metrics", "regularizers"}
    (written,) = (tmp_path / "out").glob("*_recon.npz")
    with np.load(written) as archive:
        assert archive["volume"].shape == volume.shape
        assert archive["affine"].tolist() == np.eye(4).tolist()
