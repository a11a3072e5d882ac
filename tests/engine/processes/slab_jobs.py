# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in which each process holds a slab of the volume; see ``rank_jobs.py``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rank_jobs import SHAPE, At, Job, inferer, main, thick
from tiny_networks import CORONAL, SCORE
from torch import Tensor

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import Measurement, VolumeGeometry
from monai_diffrecon.slabs import peers

ADMM = {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.01}]}


def calm(score: ScoreNetwork) -> ScoreNetwork:
    """Return a score whose random network does not multiply round-off."""
    state = {name: 0.7 * weight for name, weight in score.network.state_dict().items()}
    score.network.load_state_dict(state)
    return score


AXIAL, ACROSS = calm(replace(SCORE)), calm(replace(CORONAL))


def slabs(**options: Any) -> DiffReconInferer:
    return inferer(score=AXIAL, auxiliaries=(ACROSS,), share="slabs", **options)


def projections() -> Tensor:
    truth = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1)) + 1.0
    geometry = VolumeGeometry(SHAPE)
    y = ParallelCT(geometry, views=7)(truth)
    return to_tensor(Measurement(y, geometry, operator={"name": "parallel_ct", "views": 7}, noise_std=0.05))


def thick_slices(rank: int, folder: Path) -> Any:
    """Cut where no network has its plane: the iterate has no negative values in the end."""
    return slabs().reconstruct(thick(), case="a")


def axial_cuts(rank: int, folder: Path) -> Any:
    sampler = {"name": "ddim", "steps": 3, "sigma_start": 0.3}
    return slabs(sampler=sampler, consistency=ADMM).reconstruct(projections(), case="a")


def complex_volume(rank: int, folder: Path) -> Any:
    return slabs(operator="cartesian_mri").reconstruct(thick("cartesian_mri"), case="a")


def refused(rank: int, folder: Path) -> Any:
    return slabs(sampler={"name": "ddim", "steps": 2}, consistency="dps").reconstruct(thick(), case="a")


def too_many_samples(rank: int, folder: Path) -> Any:
    return slabs(sampler={"name": "ddim", "steps": 2}, num_samples=2).reconstruct(thick(), case="a")


def coupled(rank: int, folder: Path) -> Any:
    sampler = {"name": "ddim", "steps": 2}
    return slabs(sampler=sampler, operator="unconditional").reconstruct(
        to_tensor(Measurement(torch.zeros(0), VolumeGeometry(SHAPE), operator={"name": "unconditional"})), case="a"
    )


def killed(rank: int, folder: Path) -> Any:
    handlers = [At(3, lambda: os.kill(os.getpid(), signal.SIGKILL))] if rank == 1 else []
    return axial_checkpointed(handlers, RunCheckpoint(folder / "run.pt", every=1))


def resumed(rank: int, folder: Path) -> Any:
    return axial_checkpointed([], RunCheckpoint(folder / "run.pt", resume="require"))


def axial_checkpointed(handlers: list[Any], checkpoint: RunCheckpoint) -> Any:
    sampler = {"name": "ddim", "steps": 3, "sigma_start": 0.3}
    case = slabs(sampler=sampler, consistency=ADMM)
    return case.reconstruct(projections(), case="a", handlers=handlers, checkpoint=checkpoint)


class Largest:
    """Handler that remembers the largest iterate."""

    def attach(self, engine: Any) -> None:
        seen = peers()
        assert seen is not None
        assert engine.problem.operator.volume_shape[seen.slab.dim] == len(seen.slab) < seen.slab.count


def parts_only(rank: int, folder: Path) -> Any:
    return slabs().reconstruct(thick(), case="a", handlers=[Largest()])


JOBS: tuple[tuple[Job, int], ...] = (
    *((thick_slices, count) for count in (1, 2, 3)),
    *((axial_cuts, count) for count in (1, 2)),
    *((complex_volume, count) for count in (1, 3)),
    *((job, 2) for job in (refused, too_many_samples, coupled, parts_only, killed)),
    (resumed, 3),
)

if __name__ == "__main__":
    main(Path(sys.argv[1]), JOBS)
