# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The same seed gives the same voxels, whatever else the process does; another seed or case gives others."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor

from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.noises.slerp import SlerpNoise
from monai_diffrecon.protocols import NoiseSource

from .tiny_networks import CORONAL, SCORE

THICK = {"name": "slice_thickness", "thickness": 3.0}
SIMULATE = SimulateMeasurementd(["image"], THICK, noise=0.01)
DDIM = {"name": "ddim", "steps": 4, "sigma_start": 0.5, "eta": 0.85}
HEUN = {"name": "heun", "steps": 4, "S_churn": 10.0}
STOCHASTIC = [
    pytest.param({"sampler": DDIM}, id="ddim"),
    pytest.param({"sampler": DDIM, "noise": "slerp"}, id="ddim slerp"),
    pytest.param({"sampler": HEUN}, id="heun"),
    pytest.param({"sampler": HEUN, "noise": "slerp"}, id="heun slerp"),
    pytest.param({"prior": {"name": "perpendicular", "K": 2.7}}, id="planes by chance"),
    pytest.param({"num_samples": 2, "noise_std": 0.1}, id="samples"),
]


def scan(seed: int) -> MetaTensor:
    noise = torch.rand((1, 14, 13, 12), generator=torch.Generator().manual_seed(seed))
    return MetaTensor(500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1))


def measured(seed: int = 0) -> Tensor:
    return torch.as_tensor(SIMULATE({"image": scan(seed)})["image"])


def inferer(**options: Any) -> DiffReconInferer:
    arguments: dict[str, Any] = {"sampler": DDIM, "progress": False, "auxiliaries": [CORONAL]}
    arguments |= {"prior": {"name": "perpendicular", "K": 2}}
    return DiffReconInferer(SCORE, THICK, **{**arguments, **options})


def voxels(case: str = "a", **options: Any) -> Tensor:
    return inferer(**options).reconstruct(measured(), case=case).volume


def evaluated(batches: Iterable[Any], output: Path) -> dict[str, Tensor]:
    """Return case -> volume of what a loader yields."""
    volumes: dict[str, Tensor] = {}
    evaluator = ReconstructionEvaluator(
        "cpu", batches, SCORE.network, inferer(), str(output), track=False, checkpoint_every=0
    )
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: volumes.update({e.state.output["case"]: e.state.output["pred"].as_tensor()}),
    )
    evaluator.run()
    return volumes


def loader(names: Sequence[str], workers: int = 0) -> DataLoader:
    cases = [{"image": scan(ord(name)), "case": name} for name in names]
    return DataLoader(Dataset(cases, SIMULATE), batch_size=1, num_workers=workers)


def global_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_nearly_equal(a: Tensor, b: Tensor) -> None:
    """Compare within 1e-4 of the volume's range: sums in another order differ in their last bits."""
    extent = float(b.max() - b.min())
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-4 * extent)


@pytest.mark.parametrize("options", STOCHASTIC)
def test_one_seed_gives_one_volume_and_touches_no_global_generator(options: dict[str, Any]) -> None:
    first = voxels(**options)
    for draw in (torch.rand, np.random.rand, random.seed):  # what anything else in the process may do
        draw(5)
    before = global_states()
    second = voxels(**options)
    assert global_states() == before
    assert torch.equal(second, first)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(99)
    assert torch.equal(voxels(**options), first)


@pytest.mark.parametrize("options", STOCHASTIC)
def test_another_seed_or_case_gives_other_noise(options: dict[str, Any]) -> None:
    first = voxels(**options)
    for other in (voxels(seed=1, **options), voxels(case="b", **options)):
        assert float((other - first).abs().max()) > 1e-3 * float(first.max() - first.min())


def test_the_order_of_cases_does_not_matter(tmp_path: Path) -> None:
    forth = evaluated(loader("ab"), tmp_path / "forth")
    back = evaluated(loader("ba"), tmp_path / "back")
    alone = evaluated(loader("b"), tmp_path / "alone")
    assert list(forth) == list(back)[::-1] == ["a", "b"]
    for name in "ab":
        assert torch.equal(forth[name], back[name])
    assert torch.equal(forth["b"], alone["b"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12, of any fork
def test_workers_do_not_matter(tmp_path: Path) -> None:
    here, there = evaluated(loader("abc"), tmp_path / "0"), evaluated(loader("abc", workers=2), tmp_path / "2")
    assert list(here) == list(there) == ["a", "b", "c"]
    for name, volume in here.items():
        assert torch.equal(volume, there[name])


def test_an_evaluator_touches_no_global_generator(tmp_path: Path) -> None:
    # A list of batches: torch's own DataLoader draws one number of the global generator when it begins.
    batches = list(loader("ab"))
    before = global_states()
    evaluated(batches, tmp_path)
    assert global_states() == before


@pytest.mark.parametrize("window", [None, (8, 8)])
@pytest.mark.parametrize("noise", ["independent", "slerp"])
def test_slices_a_network_call_change_the_last_bits_only(noise: str, window: tuple[int, int] | None) -> None:
    volumes = {size: voxels(noise=noise, window=window, sw_batch_size=size) for size in (1, 3, 8, 64)}
    for volume in volumes.values():
        assert_nearly_equal(volume, volumes[1])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_threads_change_the_last_bits_only() -> None:
    with threads(1):
        one = voxels()
    with threads(2):
        two, again = voxels(), voxels()
    assert torch.equal(two, again)
    assert_nearly_equal(two, one)


@pytest.mark.parametrize("source", [IndependentNoise, SlerpNoise])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_noise_does_not_depend_on_what_was_drawn_before(source: type[NoiseSource], dtype: torch.dtype) -> None:
    shape = (1, 5, 6, 7)
    fresh, used = source(3, "c"), source(3, "c")
    used.volume((1, 9, 9, 9), 0)
    used.uniform(4, stream="plane")
    for step in (4, 1):
        used.volume(shape, step, stream="churn", dtype=dtype)
    assert torch.equal(used.volume(shape, 2, dtype=dtype), fresh.volume(shape, 2, dtype=dtype))
    assert used.uniform(2, stream="plane") == source(3, "c").uniform(2, stream="plane")
    keys = [(3, "c", 2, "sampler"), (4, "c", 2, "sampler"), (3, "d", 2, "sampler"), (3, "c", 1, "sampler")]
    keys.append((3, "c", 2, "churn"))
    drawn = [source(seed, case).volume(shape, step, stream=stream) for seed, case, step, stream in keys]
    for index, volume in enumerate(drawn):
        assert not any(torch.equal(volume, other) for other in drawn[:index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_a_slice_of_noise_depends_on_its_index_only(dtype: torch.dtype) -> None:
    short = IndependentNoise(3, "c").volume((1, 5, 6, 12), 2, dtype=dtype)
    long = IndependentNoise(3, "c").volume((1, 5, 6, 20), 2, dtype=dtype)
    assert torch.equal(long[..., :12], short)
    assert len({tuple(s.flatten().tolist()) for s in long.unbind(-1)}) == 20
