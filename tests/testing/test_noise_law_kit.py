# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The law kit finds noise sources that are wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.testing.noise_laws import check_noise


def volume(*key: str, factor: float = 1.0, offset: float = 0.0, channel: bool = False) -> Any:
    """Return a method whose numbers depend on a part of the key only."""

    def method(
        self: Any, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        parts = {"seed": self.seed, "case": self.case, "step": step, "stream": stream}
        n = factor * keyed_normal(shape, dtype, *(parts[k] for k in key)) + offset
        return torch.cat([n, n]) if channel else n

    return method


ALL = ("seed", "case", "step", "stream")


def memory_of_its_own(
    self: Any, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
) -> Tensor:
    self.asked = getattr(self, "asked", 0) + 1
    return keyed_normal(shape, dtype, self.seed, self.case, stream, step, self.asked)


def of_the_global_generator(
    self: Any, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
) -> Tensor:
    torch.rand(1)
    return volume(*ALL)(self, shape, step, stream=stream, dtype=dtype)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"volume": volume("case", "step", "stream")}, "depend on the seed"),
        ({"volume": volume("seed", "step", "stream")}, "depend on the case"),
        ({"volume": volume("seed", "case", "stream")}, "depend on the step"),
        ({"volume": volume("seed", "case", "step")}, "depend on the stream"),
        ({"volume": volume(*ALL, factor=1.2)}, "the variance is"),
        ({"volume": volume(*ALL, offset=0.2)}, "the mean is"),
        ({"volume": volume(*ALL, factor=float("nan"))}, "not finite"),
        ({"volume": volume(*ALL, channel=True)}, "the shape is"),
        ({"volume": lambda s, *a, dtype, **k: IndependentNoise.volume(s, *a, **k)}, "the type is"),
        ({"volume": memory_of_its_own}, "order of asking"),
        ({"volume": of_the_global_generator}, "global generator"),
        ({"uniform": lambda s, step, *, stream: 0.5}, "variance of the uniform"),
        ({"uniform": lambda s, step, *, stream: 2 * IndependentNoise.uniform(s, step, stream=stream)}, "leaves 0 to 1"),
        ({"uniform": lambda s, step, *, stream: IndependentNoise.uniform(s, step, stream="one")}, "on the stream"),
    ],
)
def test_a_wrong_source_is_found(methods: dict[str, Any], message: str) -> None:
    check_noise(IndependentNoise)
    with torch.random.fork_rng(), pytest.raises(AssertionError, match=message):
        check_noise(type("Broken", (IndependentNoise,), methods))


def test_a_source_that_is_not_resumable_is_excused_from_the_order_and_the_case() -> None:
    check_noise(type("Ordered", (IndependentNoise,), {"volume": memory_of_its_own, "resumable": False}))
    old_name = {"volume": memory_of_its_own, "ordered": True}
    check_noise(type("Ordered", (IndependentNoise,), old_name))
    keyed = {"volume": volume("seed", "step", "stream")}
    check_noise(type("Ordered", (IndependentNoise,), {**keyed, "resumable": False}))
    with pytest.raises(AssertionError, match="on the case"):
        check_noise(type("Keyed", (IndependentNoise,), keyed))
