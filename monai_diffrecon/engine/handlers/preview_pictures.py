# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Preview pictures during a run."""

from __future__ import annotations

from typing import Any

from monai_diffrecon import slabs
from monai_diffrecon.comparison.montage import preview
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, path_option


class PreviewPictures:
    """Handler that draws the iterate's three central slices every ``every`` steps.

    Args:
        folder: folder of the pictures ``step_0005.png``.
        every: steps between pictures, 1 or more.

    Raises:
        ConfigError: ``every`` is out of range.
        InputError: ``folder`` is not a path.
    """

    def __init__(self, folder: str, every: int = 5) -> None:
        self.folder = path_option(folder, "preview folder")
        self.every = check_integer(every, "preview_every", low=1)

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine.

        Raises:
            ConfigError: this process holds a part of the volume only.
        """
        if slabs.peers() is not None:
            raise ConfigError(
                "a process with a part of the volume draws no pictures",
                where="preview_every",
                expected="0 with slabs",
                got=self.every,
            )
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Draw if this step is due."""
        step = engine.state.recon.step
        if step % self.every == 0 or step == len(engine.ladder):
            self.folder.mkdir(parents=True, exist_ok=True)
            preview(engine.iterate().abs(), self.folder / f"step_{step:04d}.png")
