# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every slice denoiser must obey."""

from __future__ import annotations

import torch

from monai_diffrecon.protocols import Denoiser


def check_denoiser(denoiser: Denoiser, slice_shape: tuple[int, int, int] = (1, 16, 16), *, seed: int = 0) -> None:
    """Check the laws; the network should be in evaluation mode.

    Slices do not depend on the batch they are in, one noise level may stand for all, each slice may have its own,
    the input is left alone, and the shape, type and finiteness of the input are kept at both ends of the range.

    Args:
        denoiser: the denoiser.
        slice_shape: (C, H, W) of a slice that its network takes.
        seed: seed of the test slices.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    low, high = denoiser.sigma_min, denoiser.sigma_max
    assert 0.0 < low < high, f"noise levels must rise: sigma_min {low}, sigma_max {high}"
    x = torch.rand((3, *slice_shape), generator=torch.Generator().manual_seed(seed))
    copy = x.clone()
    levels = torch.tensor([low, (low * high) ** 0.5, high], dtype=x.dtype)
    with torch.no_grad():
        together = denoiser(x, levels)
        assert together.shape == x.shape, f"the shape changes from {tuple(x.shape)} to {tuple(together.shape)}"
        assert together.dtype == x.dtype, f"the type changes from {x.dtype} to {together.dtype}"
        assert bool(torch.isfinite(together).all()), "not finite somewhere between sigma_min and sigma_max"
        for i, level in enumerate(levels):
            alone = denoiser(x[i : i + 1], float(level))
            scale = together[i : i + 1].abs().max().clamp(min=1.0)
            assert torch.allclose(alone / scale, together[i : i + 1] / scale, atol=1e-5), (
                f"slice {i} depends on its batch, or on how its noise level {float(level):g} is given"
            )
    assert torch.equal(x, copy), "the input is changed in place"
