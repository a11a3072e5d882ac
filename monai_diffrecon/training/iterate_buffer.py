# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the reconstruction loop gives its network, collected while the network is trained, and batches of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor

from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.numerics.planes import to_slices
from monai_diffrecon.training.denoising_batch import DenoisingBatch
from monai_diffrecon.training.loop_tasks import LoopTasks
from monai_diffrecon.training.slice_patches import SlicePatches, padded


class IterateRecorder:
    """Handler of a reconstruction that keeps patches of what the network was given, and of the truth.

    Args:
        truth: the true volume (1, X, Y, Z) in network units.
        rng: draws slices and patches.
        patch_size: height and width of a patch; smaller slices are padded with 0, as those of ``SlicePatches``.
        per_call: patches of each volume that is denoised.
    """

    def __init__(self, truth: Tensor, rng: np.random.Generator, patch_size: int = 96, per_call: int = 6) -> None:
        self.truth, self.rng, self.patch_size, self.per_call = truth, rng, patch_size, per_call
        self.pairs: list[np.ndarray] = []
        self.sigmas: list[float] = []

    def attach(self, engine: Any) -> None:
        """Attach to a ``ReconstructionEngine``."""
        engine.add_event_handler(StepEvents.DENOISED, self)

    def __call__(self, engine: Any) -> None:
        """Keep patches of every plane that was called."""
        state, size = engine.state.recon, self.patch_size
        for index in engine.prior.planes_at(state.step):
            both = [to_slices(x, engine.prior.planes[index].plane)[:, 0] for x in (state.x, self.truth)]
            for _ in range(self.per_call):
                k, top, left = (int(self.rng.integers(max(n, 1))) for n in self._places(both[0].shape))
                crops = [x[k, top : top + size, left : left + size].cpu().numpy() for x in both]
                self.pairs.append(np.stack([padded(crop, (size, size)) for crop in crops]))
                self.sigmas.append(float(state.sigma))

    def _places(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0], *(n - self.patch_size + 1 for n in shape[1:]))

    def content(self) -> dict[str, Tensor]:
        """Return ``pairs`` (N, 2, H, W), iterate and truth, and ``sigma`` (N,)."""
        return {"pairs": torch.from_numpy(np.stack(self.pairs)).half(), "sigma": torch.tensor(self.sigmas)}


class IterateCollector:
    """Handler that reconstructs training volumes before each epoch with the network as it is, and keeps its inputs.

    Files of an epoch that was interrupted are kept, and the rest of them is made. The oldest files are removed.

    Args:
        tasks: the tasks, with the moving average as their network.
        patches: the training set.
        folder: folder of the files.
        rounds: reconstructions before each epoch; the tasks take turns.
        limit_gb: most that the files take on disk.
        seed: seed of what is drawn.
        patch_size: as of the training.

    Raises:
        ConfigError: a data set of another section than ``training``, or without a volume that has all planes.
    """

    def __init__(
        self,
        tasks: LoopTasks,
        patches: SlicePatches,
        folder: str,
        rounds: int = 6,
        limit_gb: float = 1.5,
        seed: int = 0,
        patch_size: int = 96,
    ) -> None:
        if patches.section != "training":
            raise ConfigError(
                "only training subjects may be learned from",
                where="train#handlers: IterateCollector#patches",
                expected="section training",
                got=patches.section,
            )
        self.tasks, self.folder, self.seed, self.patch_size = tasks, Path(folder), seed, patch_size
        self.volumes, self.weights = patches.whole()
        self.rounds = check_integer(rounds, "IterateCollector#rounds", low=1)
        self.limit = check_number(limit_gb, "IterateCollector#limit_gb", low=0.0, open_low=True) * 1e9

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Collect."""
        self.folder.mkdir(parents=True, exist_ok=True)
        epoch, names = engine.state.epoch, sorted(self.tasks.tasks)
        for i in range(self.rounds):
            count = (epoch - 1) * self.rounds + i
            path = self.folder / f"{count:08d}.pt"
            if not path.exists():
                atomic_write(path, partial(torch.save, self._collected(names[count % len(names)], count).content()))
        kept = 0
        for path in sorted(self.folder.glob("*.pt"), reverse=True):
            kept += path.stat().st_size
            if kept > self.limit:
                path.unlink()

    def _collected(self, name: str, count: int) -> IterateRecorder:
        rng = np.random.Generator(np.random.PCG64((self.seed, count)))
        case = self.tasks.case(name, self.volumes[rng.choice(len(self.volumes), p=self.weights)], rng)
        recorder = IterateRecorder(case.truth, rng, self.patch_size)
        case.reconstruct(recorder)
        return recorder


class IterateBatch(DenoisingBatch):
    """Adds iterates of the loop, at their own levels, to each batch of patches with white noise.

    Args:
        folder: folder of the collector's files.
        share: iterates for each patch with white noise.
        seed: seed; what is drawn depends on it and on the number of batches since.
        kwargs: as of :class:`DenoisingBatch`.
    """

    def __init__(self, folder: str, share: float = 1.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.folder, self.share = Path(folder), check_number(share, "train#prepare_batch#share", low=0.0)

    def __call__(
        self, batchdata: Tensor, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
        """Return (inputs (B, 1, H, W), {"clean", "sigma"}, (), {"sigma": (B,)})."""
        noisy, target, _, _ = super().__call__(batchdata, device, non_blocking, **kwargs)
        rng = np.random.Generator(np.random.PCG64((self.seed, self.iteration)))
        files = sorted(self.folder.glob("*.pt"))
        pairs, levels = [], []
        for _ in range(round(self.share * len(noisy)) if files else 0):
            kept = torch.load(files[rng.integers(len(files))], mmap=True, weights_only=True)
            index = int(rng.integers(len(kept["sigma"])))
            pairs.append(kept["pairs"][index].float())
            levels.append(kept["sigma"][index])
        if pairs:
            drawn, sigma = torch.stack(pairs).to(noisy), torch.stack(levels).to(noisy)
            noisy = torch.cat([noisy, drawn[:, :1]])
            target = {
                "clean": torch.cat([target["clean"], drawn[:, 1:]]),
                "sigma": torch.cat([target["sigma"], sigma]),
            }
        return noisy, target, (), {"sigma": target["sigma"]}
