# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint a training after every epoch, and go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from monai_diffrecon.io.atomic import atomic_write


class ResumableCheckpoint:
    """Handler that saves after every epoch and, when its file exists, restores at the start.

    The file is replaced in one step, so a training killed at any moment goes on from its last whole epoch. A
    plain ``state_dict`` in float32 is exported beside it. (MONAI's own saver and loader are two handlers that
    rotate file names; neither replaces one file atomically nor finds it again.)

    Args:
        path: the checkpoint.
        objects: what to save: name -> object with ``state_dict`` and ``load_state_dict``.
        export: file for the weights of ``export_network``.
        export_network: the network to export, the moving average for instance.
    """

    def __init__(self, path: str, objects: dict[str, Any], export: str, export_network: nn.Module) -> None:
        self.path, self.export = Path(path), Path(export)
        self.objects, self.export_network = objects, export_network

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def restore(self, engine: Any) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, obj in self.objects.items():
            obj.load_state_dict(saved[name])
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["epoch"] * engine.state.epoch_length
        engine.logger.info("resumed %s after epoch %d", self.path.name, saved["epoch"])

    def __call__(self, engine: Any) -> None:
        """Save."""
        state = {name: obj.state_dict() for name, obj in self.objects.items()} | {"epoch": engine.state.epoch}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, lambda path: torch.save(state, path))
        weights = {k: v.detach().cpu().contiguous() for k, v in self.export_network.state_dict().items()}
        atomic_write(self.export, lambda path: torch.save(weights, path))
