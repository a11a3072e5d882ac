# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``monai.bundle run --tracking mlflow``: MONAI would put all cases into one run, and the user's paths beside it."""

from __future__ import annotations

import json
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.uncaught import chain_of

ROOT = Path(__file__).parents[2]
canaries_in = runpy.run_path(str(Path(__file__).with_name("canary.py")))["canaries_in"]
PATIENT = "Doe_Canary_19700101"
SILENT = {"save_execute_config": False}


@pytest.fixture
def run(tmp_path: Path, make_bundle: Callable[..., Path]) -> Callable[..., Exception | None]:
    """Run a bundle with MONAI's tracking; return what it raises."""
    bundle = make_bundle(tmp_path / "axial")
    scan = tmp_path / f"{PATIENT}.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 6), dtype=np.float32), np.diag([1.0, 1, 3, 1])), scan)

    def run(**options: Any) -> Exception | None:
        given = {"bundle_root": str(bundle), "device": "cpu", "image": str(scan), "output_dir": str(tmp_path / "out")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's own, of MLflow's store
            try:
                workflow = ConfigWorkflow(
                    str(bundle / "configs/inference.json"), tracking="mlflow", logging_file=False, **(given | options)
                )
                workflow.initialize()
                workflow.run()
            except Exception as error:  # MONAI wraps what a component raises
                return error
        return None

    return run


def test_monai_tracking_is_refused_and_nothing_is_written(run: Callable[..., Any], tmp_path: Path) -> None:
    error = run(**SILENT)
    ours = [e for e in chain_of(error) if isinstance(e, ConfigError)]
    assert ours, repr(error)
    assert ours[0].exit_code == 2
    assert "MLFlowHandler" in str(ours[0])
    assert PATIENT not in str(ours[0])
    out = tmp_path / "out"
    assert not list(out.rglob("*_recon.nii.gz"))
    assert canaries_in([out], [PATIENT]) == []


@pytest.mark.slow
def test_without_the_switch_in_the_bundle_monai_writes_the_path_of_the_scan(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Shows why bundles need the switch: MONAI writes this file before anything of a bundle is made."""
    run(save_execute_config=True)
    (config,) = (tmp_path / "out").glob("config_*.json")
    assert canaries_in([config], [PATIENT])


def configs_that_run_cases() -> list[Path]:
    names = ("inference.json", "evaluate.json")
    roots = [*(ROOT / "bundles").iterdir(), ROOT / "monai_diffrecon/bundle/importing/template"]
    return sorted(root / "configs" / name for root in roots for name in names if (root / "configs" / name).is_file())


def test_bundles_keep_monai_from_writing_their_executed_config() -> None:
    paths = configs_that_run_cases()
    assert len(paths) > 8
    for path in paths:
        config = json.loads(path.read_text())
        # Where there is no list of handlers MONAI gives the evaluator an argument, which a cohort's does not have.
        assert (config.get("save_execute_config", True), config.get("handlers")) == (False, []), path.parts[-3:]
