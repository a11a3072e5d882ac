# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Processes that can be killed, and small jobs for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume

SHAPE = (14, 13, 12)


class Job:
    """Scans, a bundle of tiny networks, and the command lines that reconstruct them."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.scans, self.bundle = root, root / "scans", make_bundle(root / "axial")
        make_bundle(root / "coronal", plane="coronal", seed=1)
        self.scans.mkdir()
        for seed in range(3):
            noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
            volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
            write_volume(self.scans / f"Doe_{seed}.nii.gz", volume, geometry_of(SHAPE, np.eye(4)))

    def reconstruction(self, output: Path, *, steps: int = 8, **options: Any) -> dict[str, Any]:
        """Return arguments of ``monai.bundle.run`` for one scan, whose case is ``a``."""
        task = "configs/tasks/z_super_resolution.json"
        settings = {
            "config_file": [str(self.bundle / "configs/inference.json"), str(self.bundle / task)],
            "bundle_root": str(self.bundle),
            "image": str(self.scans / "Doe_0.nii.gz"),
            "auxiliary_bundle": "../coronal",
            "output_dir": str(output),
            "case_name": "a",
            "sampler#steps": steps,
            "checkpoint_every": 1,
        }
        return {k: v for k, v in (settings | options).items() if v is not None}

    def cohort(self, output: Path, *, steps: int = 8) -> list[str]:
        """Return the command line of ``diffrecon evaluate`` for three scans."""
        cohort = {
            "title": "Three",
            "cases": [{"image": str(self.scans / f"Doe_{n}.nii.gz"), "name": f"case{n}"} for n in range(3)],
            "methods": [
                {
                    "label": "Diffusion",
                    "bundle": str(self.bundle),
                    "task": "z_super_resolution",
                    "auxiliary_bundle": "../coronal",
                    "overrides": {"sampler#steps": steps, "device": "cpu"},
                }
            ],
            "simulate": {"noise": 0.01},
            "resamples": 200,
        }
        file = output.with_suffix(".json")
        file.write_text(json.dumps(cohort))
        return ["evaluate", "--config", str(file), "--output", str(output), "--checkpoint-every", "1"]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Job:
    """Return the scans and the bundle."""
    return Job(tmp_path_factory.mktemp("job"), make_bundle)


@pytest.fixture(scope="session")
def server(fork_server: Any, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the process that forks others, when it has run the jobs once."""
    folder = tmp_path_factory.mktemp("warm")
    fork_server.warm(bundle=job.reconstruction(folder / "one", steps=2, reference=str(job.scans / "Doe_0.nii.gz")))
    fork_server.warm(argv=job.cohort(folder / "cohort", steps=2))
    return fork_server
