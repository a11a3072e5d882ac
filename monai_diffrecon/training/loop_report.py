# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Validation of a network inside the reconstruction loop, which decides what weights are kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.training.loop_tasks import LoopTasks
from monai_diffrecon.training.slice_patches import SlicePatches

logger = logging.getLogger(__name__)


class LoopReport:
    """Handler that reconstructs validation volumes before the first epoch and after every few.

    The weights of the highest mean PSNR are kept in ``best.pt`` if no task lost more than ``loss_db`` against the
    start. When the mean falls by more than ``fall_db`` below the best, network and average go back to the best
    weights. ``loop_history.jsonl`` has a line for each validation: epoch, mean, the PSNR of each task (mean over the
    volumes), and whether the weights were kept. PSNR is in dB, of a data range of 1 in network units.

    Args:
        tasks: the tasks of validation, with the moving average as their network.
        patches: the validation set; the middle of every volume that has all planes is taken.
        output_dir: folder of the history and the weights.
        networks: the networks that go back: the trained one and the average.
        left_out: tasks that are not collected: reported and guarded, and no part of the mean.
        every: epochs between validations.
        volumes: most volumes; None for all.
        loss_db: largest loss of a task.
        fall_db: fall of the mean below the best that sends the training back.

    Raises:
        ConfigError: a data set of another section than ``validation``.
    """

    def __init__(
        self,
        tasks: LoopTasks,
        patches: SlicePatches,
        output_dir: str,
        networks: Sequence[nn.Module],
        left_out: Sequence[str] = (),
        every: int = 5,
        volumes: int | None = None,
        loss_db: float = 0.05,
        fall_db: float = 0.3,
    ) -> None:
        if patches.section != "validation":
            raise ConfigError(
                "subjects of the training", where="LoopReport#patches", expected="validation", got=patches.section
            )
        if unknown := set(left_out) - set(tasks.tasks):
            raise ConfigError("no such task", where="LoopReport#left_out", got=", ".join(sorted(unknown)))
        self.tasks, self.volumes, self.networks = tasks, patches.whole()[0][:volumes], tuple(networks)
        self.output_dir, self.left_out = Path(output_dir), tuple(left_out)
        self.every = check_integer(every, "LoopReport#every", low=1)
        self.loss_db, self.fall_db = loss_db, fall_db

    def attach(self, engine: Any) -> None:
        """Attach to a trainer, after the handler that restores its networks has been attached."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of the history; an epoch that was validated twice has its last one."""
        path = self.output_dir / "loop_history.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return list({row["epoch"]: row for row in rows}.values())

    def start(self, engine: Any) -> None:
        """Validate the weights that the training starts from."""
        if not self.history:
            self._write({"epoch": 0, **self.evaluate(), "kept": True})

    def __call__(self, engine: Any) -> None:
        """Validate, keep the weights or go back."""
        rows = [row for row in self.history if row["epoch"] < engine.state.epoch]
        row = self.evaluate()
        best = max(r["mean"] for r in rows if r["kept"])
        safe = all(row["psnr"][name] >= value - self.loss_db for name, value in rows[0]["psnr"].items())
        # Written as a comparison that is false for NaN.
        kept, fell = bool(safe and row["mean"] > best), not row["mean"] >= best - self.fall_db
        self._write({"epoch": engine.state.epoch, **row, "kept": kept, "went_back": fell})
        if fell:
            weights = torch.load(self.output_dir / "best.pt", map_location="cpu", weights_only=True)
            for network in self.networks:
                network.load_state_dict(weights)
            engine.optimizer.state.clear()
            logger.warning("epoch %d: the reconstructions became worse, went back to the best", engine.state.epoch)

    def evaluate(self) -> dict[str, Any]:
        """Return the mean PSNR over the tasks that are collected, and that of each task."""
        psnr = {}
        for name in self.tasks.tasks:
            values = []
            for volume in self.volumes:
                case = self.tasks.case(name, volume)
                values.append(float(-10 * (case.reconstruct() - case.truth).square().mean().log10()))
            psnr[name] = sum(values) / len(values)
        collected = [value for name, value in psnr.items() if name not in self.left_out]
        return {"mean": sum(collected) / len(collected), "psnr": psnr}

    def _write(self, row: dict[str, Any]) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if row["kept"]:
            weights = {k: v.detach().cpu().contiguous() for k, v in self.tasks.network.state_dict().items()}
            atomic_write(self.output_dir / "best.pt", lambda path: torch.save(weights, path))
        lines = [json.dumps(line) for line in (*self.history, row)]
        atomic_write(self.output_dir / "loop_history.jsonl", lambda path: path.write_text("\n".join(lines) + "\n"))
