# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint training after every epoch, and resume from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.bundle.weights import check_state
from monai_diffrecon.bundle.wrapped_weights import state_dict_in, without_prefixes
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import atomic_write


class ResumableCheckpoint:
    """Handler that saves after every epoch and, when its file exists, restores at the start.

    The file is replaced in one step, so training killed at any moment resumes from its last complete epoch. A
    plain ``state_dict`` in float32 is exported beside it. (MONAI's own saver and loader are two handlers that
    rotate file names; neither replaces one file atomically nor finds it again.)

    Args:
        path: the checkpoint.
        objects: what to save: name -> object with ``state_dict`` and ``load_state_dict``.
        export: file for the weights of ``export_network``.
        export_network: the network to export, the moving average for instance.
        pretrained: weights that every network among ``objects`` starts from while there is no checkpoint, those of a
            bundle for instance: training goes on on other data. None: start from random weights.

    Raises:
        InputError: no file ``pretrained``, or its weights are those of another network.
    """

    def __init__(
        self,
        path: str,
        objects: dict[str, Any],
        export: str,
        export_network: nn.Module,
        pretrained: str | None = None,
    ) -> None:
        self.path, self.export = Path(path), Path(export)
        self.objects, self.export_network, self.pretrained = objects, export_network, pretrained

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def restore(self, engine: Any) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.exists():
            if self.pretrained is not None:
                self._start_from(Path(self.pretrained))
                engine.logger.info("started from the weights of %s", Path(self.pretrained).name)
            return
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, obj in self.objects.items():
            obj.load_state_dict(saved[name])
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["epoch"] * engine.state.epoch_length
        engine.logger.info("resumed %s after epoch %d", self.path.name, saved["epoch"])

    def _start_from(self, path: Path) -> None:
        where = "train#handlers: pretrained"
        if not path.is_file():
            raise InputError(
                "no weights to start from",
                where=where,
                expected="a state_dict of the network",
                got=path.name,
                mend="pass --pretrained FILE, or null to start from random weights",
            )
        weights = check_state(state_dict_in(load_checkpoint(path), where), where)
        for name, network in self.objects.items():
            if isinstance(network, nn.Module):
                try:
                    network.load_state_dict(without_prefixes(weights, network.state_dict().keys()))
                except RuntimeError as error:
                    raise InputError(
                        f"the weights do not fit the object {name!r}",
                        where=where,
                        expected="weights of the same network",
                        got=str(error).splitlines()[1].strip() if "\n" in str(error) else str(error),
                        mend="use the weights of the bundle with this network_def",
                    ) from error

    def __call__(self, engine: Any) -> None:
        """Save."""
        state = {name: obj.state_dict() for name, obj in self.objects.items()} | {"epoch": engine.state.epoch}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, lambda path: torch.save(state, path))
        weights = {k: v.detach().cpu().contiguous() for k, v in self.export_network.state_dict().items()}
        atomic_write(self.export, lambda path: torch.save(weights, path))
