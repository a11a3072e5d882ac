# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Processes that can be killed, and small jobs for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume

SHAPE = (14, 13, 12)


class Server:
    """Starts command lines in forked processes, and kills them when told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "DIFFRECON_CASE_KEY": "secret"},
        )
        assert self._line() == "ready"

    def warm(self, **job: Any) -> None:
        """Run a job in the server, so that its children need not import anything."""
        self._send(warm=True, **job)
        while self._line() != "warm":
            pass

    def run(
        self,
        log: Path,
        *,
        kill: tuple[int, float] | None = None,
        number: int = signal.SIGKILL,
        pause: tuple[int, Callable[[], None]] | None = None,
        **job: Any,
    ) -> tuple[int, str]:
        """Run a job to its end; return its exit code (negative: a signal) and what it printed.

        Args:
            log: file for its output.
            kill: after so many steps, and then so many seconds, send a signal.
            number: the signal.
            pause: after so many steps it stops, something else is done, and it goes on.
            job: as of ``fork_server``.
        """
        log.unlink(missing_ok=True)
        self._send(log=str(log), stop_at=None if pause is None else pause[0], **job)
        pid = int(self._line().removeprefix("pid "))
        steps = 0
        if kill is not None and kill[0] == 0:
            self._kill(pid, kill[1], number)
        while not (line := self._line()).startswith("end "):
            steps += 1
            if pause is not None and steps == pause[0]:
                try:
                    pause[1]()
                finally:
                    os.kill(pid, signal.SIGCONT)
            if kill is not None and steps == kill[0]:
                self._kill(pid, kill[1], number)
        return int(line.removeprefix("end ")), log.read_text() if log.exists() else ""

    def _send(self, **job: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    @staticmethod
    def _kill(pid: int, after: float, number: int) -> None:
        time.sleep(after)
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, number)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server died"
        return line.strip()

    def close(self) -> None:
        """Stop serving."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=20)


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
def server(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the process that forks others."""
    running, folder = Server(), tmp_path_factory.mktemp("warm")
    running.warm(bundle=job.reconstruction(folder / "one", steps=2, reference=str(job.scans / "Doe_0.nii.gz")))
    running.warm(argv=job.cohort(folder / "cohort", steps=2))
    yield running
    running.close()
