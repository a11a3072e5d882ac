# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Building blocks of a sampler's step: a copy of the state, and the data-consistent estimate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon.protocols import ConsistencyStep, Denoise, SamplerState


def fresh(state: SamplerState, *, sigma: float) -> SamplerState:
    """Return a state at noise level ``sigma`` whose memory can be written without touching that of ``state``.

    A step that fails half-way, for want of memory say, can then be repeated from the same state.
    """
    return replace(state, sigma=sigma, memory={key: dict(kept) for key, kept in state.memory.items()})


def corrected_estimate(
    state: SamplerState, denoise: Denoise, consistency: ConsistencyStep, *, release: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Denoise the iterate of a state and correct the estimate.

    Args:
        state: the iterate and its noise level.
        denoise: the score prior.
        consistency: the consistency step; the denoiser is run with gradients only if it has a guidance.
        release: take the iterate out of the state once it is denoised, unless the step reads it: for a sampler that
            does not need it any more.

    Returns:
        The denoiser's own estimate, the corrected estimate, and what to subtract from the next iterate, or None.
    """
    shift = None
    if type(consistency).guidance is ConsistencyStep.guidance:
        x0 = denoise(state.x, state.sigma, state)
        if release and not consistency.reads_iterate:
            state.x = state.x.to("meta")
    else:
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            x0 = denoise(x, state.sigma, replace(state, x=x))
            shift = consistency.guidance(x, x0, state)
        x0, shift = x0.detach(), None if shift is None else shift.detach()
    return x0, consistency.on_estimate(x0, state), shift
