# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Configurations with something wrong in them: one line, or a run; nothing is written outside of its folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.bundle.score_network import load_score_network
from monai_diffrecon.evaluation.cohort.read import read_cohort
from monai_diffrecon.io.find_reader import readers_of
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.protocols import Measurement

from .configs import build, is_quick, make_config, write_config
from .mutations import mutate_bytes, mutate_tree
from .sandbox import Outcome, run_examples

#: How many of each; FUZZ_CONFIGS and FUZZ_FIRST look for more, once and beyond what the suite tries.
COUNT = int(os.environ.get("FUZZ_CONFIGS", "620"))
METADATA, COHORTS = 140, 240
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> SimpleNamespace:
    """A tiny bundle and a tiny scan in the one folder that may be written."""
    root = tmp_path_factory.mktemp("configs")
    folder = root / "DOE_JANE"
    folder.mkdir()
    bundle = make_bundle(folder / "axial")
    readers_of()  # imported once, not by every child
    axes = np.meshgrid(*(np.linspace(-1, 1, 8),) * 3, indexing="ij")
    values = (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "scan.nii")
    return SimpleNamespace(root=root, folder=folder, bundle=bundle, scan=folder / "scan.nii")


def report(outcomes: list[Outcome], most_by_monai: float) -> None:
    """Fail with all that failed; the number of examples that reached our code must not shrink."""
    counted = Counter(o.status for o in outcomes)
    failed = [f"{o.index + FIRST}: {o.text}" for o in outcomes if o.status == "failed"]
    assert not failed, f"{len(failed)} of {len(outcomes)}, {counted}\n" + "\n".join(failed[:60])
    assert counted["not ours"] <= most_by_monai * len(outcomes), counted
    assert counted["refused"] > len(outcomes) / 4, counted


@pytest.mark.slow
def test_fuzzed_configs_end_in_one_line_or_build(place: SimpleNamespace) -> None:
    def example(index: int) -> None:
        rng = random.Random(f"config {index + FIRST}")
        shutil.rmtree(place.folder / "out", ignore_errors=True)
        files, typed = make_config(rng, place.bundle / "configs")
        options: dict[str, Any] = {
            "bundle_root": str(place.bundle),
            "device": "cpu",
            "evaluator#track": False,
            "output_dir": str(place.folder / "out"),
        }
        if files[0]["image"] is None:
            options["image"] = str(place.scan)
        evaluator = build(write_config(place.folder, files), options | typed)
        if index % 3 == 0 and is_quick(files):
            evaluator.run()

    before = sorted(p for p in place.root.iterdir())
    outcomes = run_examples(COUNT, example, place.folder)
    report(outcomes, 0.05)
    assert sum(o.status == "fine" for o in outcomes) > 30
    assert sorted(p for p in place.root.iterdir()) == before


@pytest.mark.slow
def test_fuzzed_metadata_end_in_one_line_or_a_network(place: SimpleNamespace) -> None:
    path = place.bundle / "configs/metadata.json"
    whole = path.read_bytes()
    metadata = json.loads(whole)

    def example(index: int) -> None:
        rng = random.Random(f"metadata {index + FIRST}")
        try:
            if rng.random() < 0.2:
                path.write_bytes(mutate_bytes(rng, whole))
            else:
                where = rng.choice((("diffrecon",), ("diffrecon",), ("diffrecon",), ("network_data_format",), ()))
                path.write_text(json.dumps(mutate_tree(rng, metadata, where)))
            score = load_score_network(place.bundle)
            assert score.spacing[0] > 0
            assert score.spacing[1] > 0
        finally:
            path.write_bytes(whole)

    report(run_examples(METADATA, example, place.folder), 0.0)


def test_fuzzed_cohorts_end_in_one_line_or_a_cohort(place: SimpleNamespace) -> None:
    cohort = {
        "title": "two methods",
        "cases": [{"image": "scan.nii", "name": "a"}, {"image": "scan.nii", "reference": "scan.nii", "name": "b"}],
        "methods": [
            {"label": "one", "bundle": "axial", "task": "sparse_view_ct", "preset": "fbp"},
            {"label": "two", "bundle": "axial", "overrides": {"sampler#steps": 1}},
        ],
        "baseline": "one",
        "seed": 0,
        "simulate": {"noise": 0.1, "photons": None, "electronic_std": 0.0, "unit": "HU"},
        "data_range": 1.0,
        "vif": False,
        "resamples": 100,
    }
    path = place.folder / "cohort.json"

    def example(index: int) -> None:
        rng = random.Random(f"cohort {index + FIRST}")
        text = json.dumps(mutate_tree(rng, cohort))
        if rng.random() < 0.15:
            path.write_bytes(mutate_bytes(rng, text.encode()))
        else:
            path.write_text(text)
        read_cohort(path, place.folder / "out", place.bundle)

    report(run_examples(COHORTS, example, place.folder), 0.0)


def test_at_least_1000_configs_are_tried() -> None:
    assert COUNT + METADATA + COHORTS >= 1000


def hostile_nifti(path: Path) -> Path:
    """A header that claims 10^12 voxels, and no more than that."""
    header = nib.Nifti1Image(np.zeros((2, 2, 2), dtype=np.float32), np.eye(4)).header
    header["dim"][1:4] = 10000
    path.write_bytes(header.binaryblock + bytes(4))
    return path


def truncated_hdf5(path: Path) -> Path:
    geometry = geometry_of((8, 8, 8))
    operator = {"name": "parallel_ct", "views": 4, "detectors": 12}
    write_measurement(path, Measurement(torch.ones(4, 12, 8), geometry, operator))
    path.write_bytes(path.read_bytes()[:3000])
    return path


COMMANDS: dict[str, tuple[Callable[[SimpleNamespace], dict[str, object]], str]] = {
    "a header of 10^12 voxels": (
        lambda p: {"image": hostile_nifti(p.folder / "huge.nii")},
        "truncated, or a damaged header",
    ),
    "a name outside of the folder": (
        lambda p: {"image": p.scan, "case_name": "../../evil"},
        "not a valid name for files",
    ),
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_command_ends_with_one_line_and_exit_code_2(
    place: SimpleNamespace, name: str, python_m: Callable[..., Any]
) -> None:
    given, says = COMMANDS[name]
    options = {
        "config_file": place.bundle / "configs/inference.json",
        "bundle_root": place.bundle,
        "output_dir": place.folder / "out",
        "evaluator#track": False,
        **given(place),
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    _check_refused(python_m("monai.bundle", "run", *arguments), says, place)


def test_simulate_ends_with_one_line_and_exit_code_2(place: SimpleNamespace, python_m: Callable[..., Any]) -> None:
    scan = truncated_hdf5(place.folder / "cut.h5")
    output = place.folder / "simulated.h5"
    done = python_m("monai_diffrecon", "simulate", scan, "--operator", "parallel_ct", "--output", output)
    _check_refused(done, "cannot be read as HDF5", place)
    assert not output.exists()


def _check_refused(done: subprocess.CompletedProcess[str], says: str, place: SimpleNamespace) -> None:
    assert done.returncode == 2, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert done.stderr.splitlines()[-1] == errors[0]
    assert says in errors[0]
    assert place.folder.name not in errors[0]
    assert "Traceback" not in done.stderr
    assert [p.name for p in place.root.iterdir()] == [place.folder.name]
