# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Events inside one diffusion step."""

from __future__ import annotations

from ignite.engine import EventEnum


class StepEvents(EventEnum):
    """Fired by the reconstruction engine; ``engine.state`` holds what each says.

    DENOISED: the score prior was called; ``engine.state.estimate`` is the clean estimate.
    CORRECTED: a hook of the consistency step was called; ``engine.state.corrected`` is what it returned, and
        ``engine.state.hook`` its name.
    CONSISTENT: the step's measurement was enforced and the iterate updated.
    STEP_COMPLETED: the step is over and ``engine.state.recon`` is the sampler state after it.
    """

    DENOISED = "denoised"
    CORRECTED = "corrected"
    CONSISTENT = "consistent"
    STEP_COMPLETED = "step_completed"
