# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in which each process draws samples of its own; see ``rank_jobs.py``."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rank_jobs import At, Failing, Job, inferer, main, thick
from tiny_networks import SCORE

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint

DDIM = {"name": "ddim", "steps": 3, "sigma_start": 0.5}


def sampling(count: int = 4, **options: Any) -> DiffReconInferer:
    """Return an inferer of complex volumes that keeps its samples."""
    given = {"sampler": DDIM, "operator": "cartesian_mri", "num_samples": count, "keep_samples": True}
    return inferer(**given, share="samples", **options)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def samples(rank: int, folder: Path) -> Any:
    return sampling().reconstruct(thick("cartesian_mri"), case="a")


def few_samples(rank: int, folder: Path) -> Any:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("monai_diffrecon").addHandler(handler)
    done = sampling(2).reconstruct(thick("cartesian_mri"), case="a")
    done.report.notices = tuple(said)
    return done


def broken_sample(rank: int, folder: Path) -> Any:
    score = replace(SCORE, network=Failing(1, range(3, 4), ValueError("broken")))
    return sampling(score=score).reconstruct(thick("cartesian_mri"), case="a")


def real_samples(rank: int, folder: Path, handlers: Sequence[Any] = (), checkpoint: RunCheckpoint | None = None) -> Any:
    """Draw real samples, whose last state is corrected once to make the result."""
    consistency = {"name": "admm_iterate", "final_sirt": True}
    drawing = inferer(sampler=DDIM, consistency=consistency, num_samples=4, keep_samples=True, share="samples")
    return drawing.reconstruct(thick(), case="a", handlers=handlers, checkpoint=checkpoint)


def second_killed(rank: int, folder: Path) -> Any:
    """Lose the second process in the first round; the first has drawn its sample."""
    return real_samples(rank, folder, [At(2, kill)] if rank == 1 else [], RunCheckpoint(folder / "second.pt", every=0))


def after_second(rank: int, folder: Path) -> Any:
    return real_samples(rank, folder, checkpoint=RunCheckpoint(folder / "second.pt", resume="require"))


class InSecondRound(At):
    """Acts at a step of the second sample of its process."""

    def _call(self, engine: Any) -> None:
        if engine.state.recon.case == "a#sample2":
            super()._call(engine)


def first_killed(rank: int, folder: Path) -> Any:
    """Lose the first process in the second round."""
    checkpoint = RunCheckpoint(folder / "first.pt", every=1)
    act = [InSecondRound(2, kill)] if rank == 0 else []
    return sampling().reconstruct(thick("cartesian_mri"), case="a", handlers=act, checkpoint=checkpoint)


def after_first(rank: int, folder: Path) -> Any:
    checkpoint = RunCheckpoint(folder / "first.pt", resume="require")
    return sampling().reconstruct(thick("cartesian_mri"), case="a", checkpoint=checkpoint)


JOBS: tuple[tuple[Job, int], ...] = (
    *((samples, count) for count in (1, 2, 3)),
    *((real_samples, count) for count in (1, 2)),
    (few_samples, 3),
    (broken_sample, 2),
    (second_killed, 2),
    (after_second, 1),
    (first_killed, 2),
    (after_first, 3),
)

if __name__ == "__main__":
    main(Path(sys.argv[1]), JOBS)
