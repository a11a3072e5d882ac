# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a run does when memory runs out, one measure after the other."""

from __future__ import annotations

from typing import Any

from monai_diffrecon.engine.out_of_memory import is_out_of_memory, out_of_memory_error, release_memory


class MemoryRelief:
    """Makes room for a step to be tried again: smaller batches of slices, then the volume on the CPU.

    Nothing but want of memory is taken for it. The voxels stay the same, within the rounding of another batch size.

    Attributes:
        notes: what was done, in words.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def relieve(self, error: Exception, engine: Any) -> None:
        """Make room, or give up.

        Args:
            error: what a step ended in.
            engine: the reconstruction engine whose step it was.

        Raises:
            Exception: ``error`` itself, when it is something else.
            ResourceError: nothing is left to be done; the message has an estimate.
        """
        if not is_out_of_memory(error):
            raise error
        planes = engine.prior.planes if engine.prior is not None else ()
        # Guidance goes back through all batches at once, outside of the calls that halve by themselves.
        halved = [plane.halve() for plane in planes if hasattr(plane, "halve")]
        if any(halved):
            return
        device = engine.problem.measurement.device
        if engine.move_to_cpu():
            release_memory(device)
            self.notes.append("out of memory: the volume was moved to the CPU")
            return
        raise out_of_memory_error(error, engine.memory_needed) from error
