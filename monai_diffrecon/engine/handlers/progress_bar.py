# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Progress on the terminal."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from tqdm import tqdm

from monai_diffrecon.engine.reconstruction_engine import StepEvents


class ProgressBar:
    """Handler that shows the step, the noise level, the residual when known, and the time left.

    Args:
        description: text in front of the bar.
        disable: show nothing; None shows a bar only on a terminal.
    """

    def __init__(self, description: str = "reconstruct", *, disable: bool | None = None) -> None:
        self.description, self.disable = description, disable
        self.bar: tqdm | None = None

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Any) -> None:
        done = 0 if engine.recon is None else engine.recon.step  # of an interrupted run before
        self.bar = tqdm(
            total=len(engine.ladder), initial=done, desc=self.description, unit="step", disable=self.disable
        )

    def _advance(self, engine: Any) -> None:
        if self.bar is None:
            return
        shown = {"sigma": f"{engine.ladder[engine.state.recon.step - 1]:.3f}"}
        if "residual" in engine.state.metrics:
            shown["residual"] = f"{engine.state.metrics['residual']:.2e}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _close(self, engine: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Any, error: BaseException) -> None:
        self._close(engine)
        raise error
