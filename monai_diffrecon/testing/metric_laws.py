# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every metric must obey."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from monai_diffrecon.protocols import Metric, VolumeGeometry

#: Odd, unequal, and large enough for any window.
_GEOMETRY = VolumeGeometry((47, 43, 45), (1.0, 1.3, 2.0))


def check_metric(make: Callable[[], Metric]) -> None:
    """Check the laws.

    It says its name, unit and direction. Its value is one finite number, of a volume with and without a mask, and the
    same when a second object is asked. More error is worse, and none is best. What it is given is left as it is, and
    so is the global generator.

    Args:
        make: returns a new metric.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    metric, before = make(), torch.random.get_rng_state()
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", str(metric.name)), f"its name is {metric.name!r}"
    assert isinstance(metric.unit, str), f"its unit is {metric.unit!r}"
    assert isinstance(metric.higher_is_better, bool), f"higher_is_better is {metric.higher_is_better!r}"
    reference, noise = _phantom()
    mask = reference > 0.2
    for inside in (None, mask):
        values = [_value(metric, reference + scale * noise, reference, inside) for scale in (0.02, 0.08, 0.3)]
        assert all(map(math.isfinite, values)), f"not finite: {values}"
        again = _value(make(), reference + 0.02 * noise, reference, inside)
        assert values[0] == again, "a second object gives another number"
        ordered = sorted(values, reverse=metric.higher_is_better)
        assert values == ordered, f"more error is not worse: {values}"
        assert len(set(values)) == len(values), f"errors of different size are one number: {values}"
        perfect = _value(metric, reference, reference, inside)
        assert not math.isnan(perfect), "no error is not a number"
        better = perfect >= values[0] if metric.higher_is_better else perfect <= values[0]
        assert better, f"no error ({perfect}) is worse than some ({values[0]})"
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is used"


def _value(metric: Metric, volume: Tensor, reference: Tensor, mask: Tensor | None) -> float:
    a, b, inside = volume.clone(), reference.clone(), None if mask is None else mask.clone()
    span = float(reference.max() - reference.min())
    value = metric(a, b, geometry=_GEOMETRY, data_range=span, mask=inside)
    assert torch.equal(a, volume), "the volume was changed"
    assert torch.equal(b, reference), "the reference was changed"
    assert inside is None or mask is None or torch.equal(inside, mask), "the mask was changed"
    assert isinstance(value, (int, float)), f"it returns {type(value).__name__}, not a number"
    assert not isinstance(value, bool), "it returns a truth value, not a number"
    return float(value)


def _phantom() -> tuple[Tensor, Tensor]:
    """Return blobs (1, X, Y, Z) from 0 to about 1.4, and unit noise."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in _GEOMETRY.shape), indexing="ij")
    body = (sum(a**2 for a in axes) < 0.8) * (1.0 + 0.4 * torch.cos(7 * axes[0]) * torch.sin(5 * axes[1] + 3 * axes[2]))
    noise = torch.randn(body.shape, generator=torch.Generator().manual_seed(0))
    return body[None], noise[None]
