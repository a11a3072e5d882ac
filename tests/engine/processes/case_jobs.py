# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in which each process takes cases of its own; see ``rank_jobs.py``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, MetaTensor
from rank_jobs import SHAPE, Job, inferer, main, thick
from tiny_networks import SCORE
from torch.utils.data import Dataset

from monai_diffrecon import distributed
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator


class Scans(Dataset):  # type: ignore[type-arg]
    """Four scans; the second holds NaN, and the last has no reference. It knows which were loaded."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.loaded.append(index)
        scan = thick() * (torch.nan if index == 1 else index + 1.0)
        truth = torch.rand((1, 1, *SHAPE), generator=torch.Generator().manual_seed(index)) + 1.0
        known = {} if index == 3 else {"reference": MetaTensor(truth)}
        return {"image": scan[None], "case": ["abcd"[index]], **known}


class Killing(torch.nn.Module):
    """A network that kills one process."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if distributed.rank() == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return SCORE.network(x, sigma)  # type: ignore[no-any-return]


def cohort(folder: Path, job: str, rank: int, *, where: str, network: torch.nn.Module | None = None) -> None:
    """Run the evaluator over four cases and save what this process knows at the end."""
    scans, count = Scans(), distributed.processes()
    evaluator = ReconstructionEvaluator(
        "cpu",
        DataLoader(scans, batch_size=1, collate_fn=lambda batch: batch[0]),
        SCORE.network if network is None else network,
        inferer(share="cases"),
        str(folder / where),
        track=where == "tracked",
    )
    try:
        evaluator.run()
    finally:
        said: dict[str, Any] = {"results": [dict(row, output=Path(row["output"]).name) for row in evaluator.results]}
        said |= {"failures": [error.where for error in evaluator.failures], "loaded": scans.loaded}
        said |= {"metrics": dict(evaluator.state.metrics)}
        torch.save(said, folder / f"{job}_said-{count}-{rank}.pt")


def cases(rank: int, folder: Path) -> Any:
    cohort(folder, "cases", rank, where="tracked" if distributed.processes() == 3 else f"by{distributed.processes()}")


def dead_case(rank: int, folder: Path) -> Any:
    cohort(folder, "dead_case", rank, where="dead", network=Killing(1))


def continued(rank: int, folder: Path) -> Any:
    cohort(folder, "continued", rank, where="dead")


JOBS: tuple[tuple[Job, int], ...] = (
    *((cases, count) for count in (1, 2, 3)),
    (dead_case, 2),
    (continued, 2),
)

if __name__ == "__main__":
    main(Path(sys.argv[1]), JOBS)
