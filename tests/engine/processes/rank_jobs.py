# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in groups of processes, as ``torchrun`` starts them, and saves what each process got.

    python rank_jobs.py FOLDER

Everything is imported once; each group is forked from this process. A process saves
``FOLDER/<job>-<processes>-<rank>.pt``: ``{"volume", "execution", "steps", "report", "spread"}`` or
``{"error", "where", "exit_code", "seconds"}``. One that is killed saves nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_networks import CORONAL, SCORE
from torch import Tensor, nn

from monai_diffrecon import distributed
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Measurement, VolumeGeometry

Job = Callable[[int, Path], Any]
SHAPE = (11, 10, 12)


def thick(operator: str = "slice_thickness") -> Tensor:
    """Return the measurement of a phantom."""
    truth = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1)) + 1.0
    geometry = VolumeGeometry(SHAPE)
    if operator == "slice_thickness":
        spec: dict[str, Any] = {"name": operator, "thickness": 3.0}
        y = SliceThickness(geometry, thickness=3.0)(truth)
    else:
        spec = {"name": operator, "acceleration": 2.0, "complex_volume": True}
        y = CartesianMRI(geometry, acceleration=2.0, complex_volume=True)(truth + 0.5j * truth)
    return to_tensor(Measurement(y, geometry, operator=spec))


def inferer(**options: Any) -> DiffReconInferer:
    """Return an inferer whose slices make batches of two, one of them incomplete."""
    given: dict[str, Any] = {
        "operator": "slice_thickness",
        "prior": {"name": "perpendicular", "K": 2},
        "sampler": {"name": "pnp_hqs", "steps": 4, "sigma_start": 0.2},
        "auxiliaries": (CORONAL,),
        "sw_batch_size": 2,
        "progress": False,
    }
    return DiffReconInferer(options.pop("score", SCORE), **{**given, **options})


class Failing(nn.Module):
    """A network that fails in one process, at some of its calls."""

    def __init__(self, rank: int, calls: range, error: Exception) -> None:
        super().__init__()
        self.rank, self.calls, self.error, self.count = rank, calls, error, 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.count += 1
        if torch.distributed.get_rank() == self.rank and self.count in self.calls:
            raise self.error
        return SCORE.network(x, sigma)  # type: ignore[no-any-return]


class At:
    """Handler that acts at a step, in one process."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._call)

    def _call(self, engine: Any) -> None:
        if engine.state.recon.step == self.step:
            self.act()


def failing(rank: int, calls: range, error: Exception) -> DiffReconInferer:
    return inferer(score=replace(SCORE, network=Failing(rank, calls, error)))


def real(rank: int, folder: Path) -> Any:
    return inferer().reconstruct(thick(), case="a")


def flips(rank: int, folder: Path) -> Any:
    return inferer(flips=True).reconstruct(thick(), case="a")


def complex_samples(rank: int, folder: Path) -> Any:
    sampler = {"name": "ddim", "steps": 3, "sigma_start": 0.5}
    return inferer(sampler=sampler, num_samples=2, operator="cartesian_mri").reconstruct(
        thick("cartesian_mri"), case="a"
    )


def guided(rank: int, folder: Path) -> Any:
    sampler = {"name": "ddim", "steps": 2, "sigma_start": 0.5}
    return inferer(sampler=sampler, consistency="dps").reconstruct(thick(), case="a")


def short_of_memory(rank: int, folder: Path) -> Any:
    return failing(1, range(3, 4), MemoryError()).reconstruct(thick(), case="a")


def never_enough_memory(rank: int, folder: Path) -> Any:
    return failing(1, range(3, 1000), MemoryError()).reconstruct(thick(), case="a")


def broken_network(rank: int, folder: Path) -> Any:
    return failing(1, range(3, 4), ValueError("broken")).reconstruct(thick(), case="a")


def broken_handler(rank: int, folder: Path) -> Any:
    def fail() -> None:
        raise OSError("no space")

    return inferer().reconstruct(thick(), case="a", handlers=[At(2, fail)] if rank == 0 else [])


def other_input(rank: int, folder: Path) -> Any:
    return inferer().reconstruct(thick() + (0.1 if rank == 1 else 0.0), case="a")


def killed(rank: int, folder: Path) -> Any:
    act = At(2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return inferer().reconstruct(
        thick(), case="a", handlers=[act] if rank == 1 else [], checkpoint=RunCheckpoint(folder / "run.pt", every=0)
    )


def resumed(rank: int, folder: Path) -> Any:
    return inferer().reconstruct(thick(), case="a", checkpoint=RunCheckpoint(folder / "run.pt", resume="require"))


def cohort(rank: int, folder: Path) -> Any:
    """Reconstruct three cases by an evaluator: the second is faulty, and at the third the second process fails."""
    scans = [thick(), thick() * torch.nan, thick() * 2.0]
    evaluator = ReconstructionEvaluator(
        "cpu",
        [{"image": scan[None], "case": [name]} for scan, name in zip(scans, "abc", strict=True)],
        SCORE.network,
        failing(1, range(9, 1000), ValueError("broken")),  # the first case takes eight calls at most
        str(folder / "cohort"),
        track=False,
    )
    evaluator.network = evaluator.inferer.score.network
    try:
        evaluator.run()
    finally:
        failures = [error.where for error in evaluator.failures]
        done = [row["case"] for row in evaluator.results]
        torch.save({"failures": failures, "done": done}, folder / f"cohort_said-2-{rank}.pt")


#: (job, number of processes), in order.
JOBS: tuple[tuple[Job, int], ...] = (
    *((job, count) for job in (real, flips, complex_samples, guided) for count in (1, 2, 3)),
    *((job, 2) for job in (short_of_memory, never_enough_memory, broken_network, broken_handler, other_input)),
    (cohort, 2),
    (killed, 2),
    (resumed, 3),
)


def work(job: Job, rank: int, count: int, port: int, folder: Path) -> None:
    """Run a job as one process of a group and save what came of it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GROUP_RANK="0")
    target = folder / f"{job.__name__}-{count}-{rank}.pt"
    with distributed.joined():
        started = time.monotonic()
        try:
            done = job(rank, folder)
            found = {"volume": done.volume, "execution": done.report.execution, "steps": done.report.steps}
            found |= {"report": done.report, "spread": done.spread}
        except Exception as error:
            found = {"error": type(error).__name__, "where": getattr(error, "where", None)}
            found |= {"exit_code": getattr(error, "exit_code", None), "seconds": time.monotonic() - started}
        torch.save(found, target)


def main(folder: Path, jobs: Sequence[tuple[Job, int]]) -> None:
    """Run jobs, each with a number of processes."""
    torch.set_num_threads(1)
    for job, count in jobs:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(count):
            child = os.fork()
            if child == 0:
                try:
                    work(job, rank, count, port, folder)
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), JOBS)
