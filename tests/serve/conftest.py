# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A server, a bundle, rules and series."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from monai_diffrecon.cli import main as cli

from ..io.conftest import ROOT, make_series
from .fake_orthanc import FakeOrthanc

SHAPE = (16, 14, 5)


@pytest.fixture
def orthanc() -> Iterator[FakeOrthanc]:
    server = FakeOrthanc()
    yield server
    server.close()


@pytest.fixture(scope="session")
def series() -> Callable[..., list[FileDataset]]:
    """Return what makes the files of a series: ``series(number, **changes)``."""

    def make(number: int = 1, **changes: Any) -> list[FileDataset]:
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
        values = 900 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos((3 + number) * axes[0]))
        files = make_series(values.astype(np.int16), SliceThickness=3.0, SeriesInstanceUID=f"{ROOT}9.{number}")
        for k, dataset in enumerate(files):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}9.{number}.{k}"
            for keyword, value in changes.items():
                setattr(dataset, keyword, value)
        return files

    return make


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "axial")


@pytest.fixture
def words(orthanc: FakeOrthanc, bundle: Path, tmp_path: Path, empty_store: Any) -> Callable[..., list[str]]:
    """Return what makes the command line of the worker: ``words(*more, folder="work", **of_the_rule)``."""

    def make(*more: str, folder: str = "work", steps: int = 2, **rule: Any) -> list[str]:
        overrides = {"sampler#steps": steps, "device": "cpu", "evaluator#view": False, "checkpoint_every": 1}
        said = {"name": "thick", "modality": "MR", "bundle": str(bundle), "overrides": overrides} | rule
        rules = tmp_path / "rules.json"
        rules.write_text(json.dumps({"rules": [said]}))
        if not (tmp_path / folder / "results").exists():
            empty_store(tmp_path / folder / "results")
        begin = ["serve", "--orthanc", orthanc.url, "--rules", str(rules), "--work", str(tmp_path / folder)]
        return [*begin, "--once", *more]

    return make


@pytest.fixture
def serve(words: Callable[..., list[str]], caplog: pytest.LogCaptureFixture) -> Callable[..., int]:
    """Run the worker in this process until it has nothing to do."""

    def run(*more: str, **options: Any) -> int:
        before = logging.getLogger("monai_diffrecon").level
        try:
            return cli.main(words(*more, **options))
        finally:
            logging.getLogger("monai_diffrecon").setLevel(before)

    return run
