# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every noise source must obey."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_diffrecon.protocols import NoiseSource
from monai_diffrecon.slabs import cut

_SHAPE = (1, 6, 5, 8)

#: Statistics are over so many volumes; neighbouring slices may be alike, so voxels alone are not enough.
_VOLUMES = 60


def check_noise(make: Callable[..., NoiseSource]) -> None:
    """Check the laws.

    Volumes have the shape and type asked for, mean 0 and variance 1 (complex ones in each component), and are finite;
    they depend on seed, case, step and stream, are the same for a second object of the same key, and do not depend on
    the order of asking. A slab has the numbers that it has in the volume. Noise of a measurement has any number of
    axes, and independent samples. Uniform numbers lie within 0 and 1, spread over that range, and depend on the same.
    The global generator is left alone.

    A source with ``resumable = False`` is excused from the order of asking, and from depending on the case: a second
    object must give the same numbers when it is asked the same in the same order.

    Args:
        make: returns a new source for ``seed`` and ``case``, which it takes by name.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    before = torch.random.get_rng_state()
    _check_volumes(make)
    _check_moments(make)
    _check_uniform(make)
    _check_measurements(make)
    _check_slabs(make)
    if make(seed=3, case="a").resumable:
        _check_order(make)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is used"


def _check_volumes(make: Callable[..., NoiseSource]) -> None:
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):

        def first(
            seed: int = 3, case: str = "a", step: int = 2, stream: str = "one", dtype: torch.dtype = dtype
        ) -> Tensor:
            return make(seed=seed, case=case).volume(_SHAPE, step, stream=stream, dtype=dtype)

        n = first()
        assert n.shape == torch.Size(_SHAPE), f"the shape is {tuple(n.shape)}, asked was {_SHAPE}"
        assert n.dtype == dtype, f"the type is {n.dtype}, asked was {dtype}"
        assert bool(torch.isfinite(_real(n)).all()), "not finite"
        assert torch.equal(first(), n), "a second object of the same key gives other numbers"
        assert not torch.equal(first(seed=4), n), "does not depend on the seed"
        source = make(seed=3, case="a")
        source.volume(_SHAPE, 2, stream="one", dtype=dtype)
        assert not torch.equal(source.volume(_SHAPE, 3, stream="one", dtype=dtype), n), "does not depend on the step"
        source = make(seed=3, case="a")
        source.volume(_SHAPE, 2, stream="one", dtype=dtype)
        assert not torch.equal(source.volume(_SHAPE, 2, stream="two", dtype=dtype), n), "does not depend on the stream"
        if source.resumable:
            assert not torch.equal(first(case="b"), n), "does not depend on the case"


def _check_moments(make: Callable[..., NoiseSource]) -> None:
    for dtype in (torch.float32, torch.complex64):
        source = make(seed=3, case="a")
        volumes = torch.stack([_real(source.volume(_SHAPE, step, dtype=dtype)) for step in range(_VOLUMES)])
        parts = (volumes,) if not dtype.is_complex else (volumes[..., 0], volumes[..., 1])
        for part in parts:
            mean, variance = float(part.mean()), float(part.var())
            assert abs(mean) < 0.1, f"the mean is {mean:.3f} for {dtype}"
            assert abs(variance - 1.0) < 0.15, f"the variance is {variance:.3f} for {dtype}"


def _check_uniform(make: Callable[..., NoiseSource]) -> None:
    def draw(seed: int = 3, stream: str = "one") -> list[float]:
        source = make(seed=seed, case="a")
        return [source.uniform(step, stream=stream) for step in range(400)]

    numbers = draw()
    assert all(0.0 <= u <= 1.0 for u in numbers), "a uniform number leaves 0 to 1"
    mean = sum(numbers) / len(numbers)
    spread = sum((u - mean) ** 2 for u in numbers) / len(numbers)
    assert abs(mean - 0.5) < 0.08, f"the mean of the uniform numbers is {mean:.3f}"
    assert abs(spread - 1.0 / 12.0) < 0.02, f"the variance of the uniform numbers is {spread:.3f}"
    assert draw() == numbers, "a second object of the same key gives other uniform numbers"
    assert draw(seed=4) != numbers, "the uniform numbers do not depend on the seed"
    source = make(seed=3, case="a")
    assert source.uniform(7, stream="one") == source.uniform(7, stream="one"), (
        "a uniform number changes when asked again"
    )
    assert source.uniform(7, stream="one") != source.uniform(7, stream="two"), "uniform: does not depend on the stream"


def _check_measurements(make: Callable[..., NoiseSource]) -> None:
    """Measurements have any number of axes, and neighbours on none of them are alike."""
    for shape, dtype in (((400,), torch.float32), ((9, 8, 7), torch.float32), ((2, 3, 6, 5, 4), torch.complex64)):
        n = make(seed=3, case="a").measurement(shape, 2, stream="one", dtype=dtype)
        assert n.shape == torch.Size(shape), f"a measurement's noise has shape {tuple(n.shape)}, asked was {shape}"
        assert n.dtype == dtype, f"a measurement's noise has type {n.dtype}, asked was {dtype}"
        again = make(seed=3, case="a").measurement(shape, 2, stream="one", dtype=dtype)
        assert torch.equal(again, n), "a second object of the same key gives other noise of a measurement"
        for axis in range(len(shape)):
            a, b = (
                _real(part).flatten()
                for part in (n.narrow(axis, 0, shape[axis] - 1), n.narrow(axis, 1, shape[axis] - 1))
            )
            alike = abs(float((a * b).mean()))
            assert alike < 0.35, f"neighbours on axis {axis} of a measurement's noise are alike: {alike:.2f}"


def _check_slabs(make: Callable[..., NoiseSource]) -> None:
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        n = make(seed=3, case="a").volume(_SHAPE, 2, stream="one", dtype=dtype)
        for dim in (1, 2, 3):
            for slab in cut(dim, _SHAPE[dim], 3):
                got = make(seed=3, case="a").slab(_SHAPE, 2, slab, stream="one", dtype=dtype)
                same = got.dtype == dtype and torch.equal(got, slab.of(n))
                assert same, f"slices {slab.first} to {slab.end - 1} along axis {dim} are not those of the volume"


def _check_order(make: Callable[..., NoiseSource]) -> None:
    keys = [(step, stream) for step in (0, 1, 5) for stream in ("one", "two")]
    forward, backward = make(seed=3, case="a"), make(seed=3, case="a")
    volumes = {key: forward.volume(_SHAPE, key[0], stream=key[1]) for key in keys}
    numbers = {key: forward.uniform(key[0], stream=key[1]) for key in keys}
    for key in reversed(keys):
        assert backward.uniform(key[0], stream=key[1]) == numbers[key], "uniform: depends on the order of asking"
        again = backward.volume(_SHAPE, key[0], stream=key[1])
        assert torch.equal(again, volumes[key]), "depends on the order of asking"


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
