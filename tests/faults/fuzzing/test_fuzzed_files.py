# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile scans of every kind: one line, or a valid measurement; nothing else is ever read or written."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_diffrecon.engine.problem.measured_operator import build_operator, resolve_operator
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, to_tensor

from . import sandbox as fuzz_sandbox
from .damage import damage
from .sandbox import Outcome, run_examples
from .seeds import write_seeds

#: Damaged copies of each scan; FUZZ_COPIES and FUZZ_FIRST look for more, and beyond what the suite tries.
COPIES = int(os.environ.get("FUZZ_COPIES", "40"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Valid scans, and a folder to damage copies in whose name no message may repeat."""
    root = tmp_path_factory.mktemp("files")
    seeds = write_seeds(root / "seeds")
    folder = root / "DOE_JANE"
    folder.mkdir()
    for seed in seeds:  # what is imported now is not imported by every child
        read_and_build(seed)
    return SimpleNamespace(root=root, seeds=seeds, folder=folder)


def read_and_build(scan: Path) -> None:
    """Do what a run does with a scan before it computes; raise AssertionError for an invalid measurement."""
    image = to_tensor(read_scan(scan)[1])
    assert bool(torch.isfinite(torch.view_as_real(image) if image.is_complex() else image).all())
    measured = from_tensor(image)
    spec, geometry = measured.operator, measured.geometry
    if spec is None:
        spec, geometry = resolve_operator({"name": "slice_thickness"}, geometry)
    affine = affine_of(geometry)
    assert np.isfinite(affine).all()
    assert all(n >= 1 for n in geometry.shape)
    assert all(0 < s < 1e9 for s in geometry.spacing)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), geometry.spacing, rtol=1e-3)
    assert 0.0 <= measured.noise_std < np.inf
    operator = build_operator(spec, geometry)
    assert operator.volume_shape == (1, *geometry.shape)


def outcomes_of(seed: Path, folder: Path, copies: int) -> list[Outcome]:
    def example(index: int) -> None:
        rng = random.Random(f"{seed.name} {index + FIRST}")
        target = folder / "scan"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        read_and_build(damage(rng, seed, target))

    return run_examples(copies, example, folder)


@pytest.mark.slow
def test_fuzzed_files_end_in_one_line_or_a_valid_measurement(place: SimpleNamespace) -> None:
    before = sorted(place.root.rglob("*"))
    outcomes = {seed.name: outcomes_of(seed, place.folder, COPIES) for seed in place.seeds}
    counted = Counter(o.status for found in outcomes.values() for o in found)
    failed = [
        f"{name} {o.index + FIRST}: {o.text}" for name, found in outcomes.items() for o in found if o.status == "failed"
    ]
    assert not failed, f"{len(failed)} of {sum(counted.values())}\n" + "\n".join(failed[:60])
    # So that the number cannot shrink, and the damages do not miss.
    assert sum(counted.values()) >= 1000
    assert counted["refused"] > sum(counted.values()) / 3
    assert counted["fine"] > 20
    shutil.rmtree(place.folder / "scan")
    assert sorted(place.root.rglob("*")) == before


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file beside the folder": (lambda p: (p.parent / "x").write_text("x"), "Stray: open"),
    "a file through ..": (lambda p: os.open(p / "../x", os.O_WRONLY | os.O_CREAT), "Stray: open"),
    "a folder beside the folder": (lambda p: (p.parent / "y").mkdir(), "Stray: os.mkdir"),
    "a file that goes": (lambda p: os.rename(p / "a", p.parent / "a"), "Stray: os.rename"),
    "a program": (lambda p: os.system("true"), "Stray: os.system"),
    "a crash": (lambda p: os.abort(), "ended by signal 6"),
    "memory": (lambda p: bytearray(1 << 33), "MemoryError"),
    "an error of Python": (lambda p: 1 // 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "DOE_JANE"
    folder.mkdir()
    (folder / "a").write_text("a")
    fault, says = PLANTED[name]
    (outcome,) = run_examples(1, lambda _: fault(folder), folder)
    assert outcome.status == "failed"
    assert says in outcome.text
    assert [p.name for p in tmp_path.iterdir()] == ["DOE_JANE"]


def test_a_write_that_is_swallowed_is_still_told(tmp_path: Path) -> None:
    def swallow(_: int) -> None:
        try:
            (tmp_path / "x").write_text("x")
        except BaseException:
            return

    (tmp_path / "in").mkdir()
    (outcome,) = run_examples(1, swallow, tmp_path / "in")
    assert outcome.status == "failed"
    assert not (tmp_path / "x").exists()


def test_a_write_inside_the_folder_is_allowed(tmp_path: Path) -> None:
    (outcome,) = run_examples(1, lambda _: (tmp_path / "x").write_text("x"), tmp_path)
    assert outcome.status == "fine"


@pytest.mark.parametrize("fault", ["computes", "waits"])
def test_a_hang_is_caught(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_sandbox, "LONGEST", 0.2)
    # On a busy machine the wait would end first.
    monkeypatch.setattr(fuzz_sandbox, "LONGEST_WAIT", 1.0 if fault == "waits" else 60.0)
    read, _ = os.pipe()

    def hang(_: int) -> None:
        while fault == "computes":
            pass
        os.read(read, 1)

    (outcome,) = run_examples(1, hang, tmp_path)
    assert outcome.status == "failed"
    said = outcome.text
    assert said.startswith({"computes": "Hang: more than 0.2 s", "waits": "the process ended by signal 9"}[fault])
