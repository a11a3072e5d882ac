# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Batch, loss, schedule, clipping and precision of a denoising training."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.training.autocast_inferer import AutocastInferer
from monai_diffrecon.training.denoising_batch import DenoisingBatch
from monai_diffrecon.training.denoising_loss import DenoisingLoss
from monai_diffrecon.training.handlers import EpochCounter, GradientClip, MovingAverage, TrapezoidSchedule


def test_noise_has_the_level_that_the_batch_says() -> None:
    clean = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy, target, arguments, options = DenoisingBatch(0.01, 1.0)(clean)
    sigma = target["sigma"]
    assert arguments == ()
    assert torch.equal(options["sigma"], sigma)
    assert torch.equal(target["clean"], clean)
    assert 0.01 <= float(sigma.min()) < 0.05
    assert 0.3 < float(sigma.max()) <= 1.0
    # Log-uniform: the median is the geometric mean of both ends.
    assert float(sigma.log().mean()) == pytest.approx(math.log(0.1), abs=0.4)
    torch.testing.assert_close((noisy - clean).std(dim=(1, 2, 3)), sigma, rtol=0.1, atol=0)


def test_the_noise_follows_the_iteration() -> None:
    batch, clean, drawn = DenoisingBatch(seed=1), torch.zeros(2, 1, 4, 4), []
    engine = Engine(lambda engine, _: drawn.append(batch(clean)[0]))
    batch.attach(engine)
    engine.run([0, 0, 0], max_epochs=1)
    fresh = DenoisingBatch(seed=1)
    fresh.iteration = 3
    assert torch.equal(fresh(clean)[0], drawn[2])
    assert not torch.equal(drawn[1], drawn[2])
    other = DenoisingBatch(seed=2)
    other.iteration = 3
    assert not torch.equal(other(clean)[0], drawn[2])


def test_levels_can_be_log_normal_within_the_range() -> None:
    sigma = DenoisingBatch(0.005, 20.0, log_mean=-1.0, log_std=1.5)(torch.zeros(4000, 1, 1, 1))[1]["sigma"]
    assert float(sigma.log().mean()) == pytest.approx(-1.0, abs=0.1)
    assert float(sigma.log().std()) == pytest.approx(1.5, rel=0.05)
    narrow = DenoisingBatch(0.1, 0.3, log_std=1.5)(torch.zeros(100, 1, 1, 1))[1]["sigma"]
    assert (float(narrow.min()), float(narrow.max())) == (pytest.approx(0.1), pytest.approx(0.3))


@pytest.mark.parametrize("levels", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_noise_levels_must_rise(levels: tuple[float, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        DenoisingBatch(*levels)
    assert (caught.value.where, caught.value.got) == ("train#prepare_batch", f"{levels[0]}, {levels[1]}")


def test_the_loss_can_have_the_weight_of_edm() -> None:
    target = {"clean": torch.zeros(2, 1, 4, 4), "sigma": torch.tensor([0.1, 2.0])}
    loss = DenoisingLoss(sigma_data=0.5)(torch.ones(2, 1, 4, 4), target)
    weights = [(s**2 + 0.5**2) / (s * 0.5) ** 2 for s in (0.1, 2.0)]  # Karras et al. 2022, table 1
    assert float(loss) == pytest.approx(sum(weights) / 2, rel=1e-5)


def test_the_loss_weighs_each_slice_by_its_level() -> None:
    clean = torch.zeros(2, 1, 4, 4)
    pred = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.5)])
    sigma = torch.tensor([0.1, 1.0])
    loss = DenoisingLoss(exponent=1.5)(pred, {"clean": clean, "sigma": sigma})
    assert float(loss) == pytest.approx((0.01 / 0.1**1.5 + 0.25) / 2)
    assert float(DenoisingLoss()(clean, {"clean": clean, "sigma": sigma})) == 0.0


def test_the_learning_rate_rises_holds_and_falls() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, rates = TrapezoidSchedule(optimizer, total=20, warmup=4, decay=5), []
    engine = Engine(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    schedule.attach(engine)
    engine.run([0] * 20, max_epochs=1)
    expected = [0.125, 0.25, 0.375, *[0.5] * 12, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rates == pytest.approx(expected)
    assert schedule.factor(21) == 0.0
    assert TrapezoidSchedule(optimizer, total=20, warmup=4).factor(21) == 1.0


def test_gradients_are_clipped_and_short_ones_left() -> None:
    network = nn.Linear(3, 1, bias=False)
    engine = SimpleNamespace(network=network)
    for given, expected in ((torch.tensor([[3.0, 0.0, 4.0]]), 0.5), (torch.tensor([[0.1, 0.0, 0.0]]), 0.1)):
        network.weight.grad = given.clone()
        GradientClip(0.5)(engine)
        assert float(network.weight.grad.norm()) == pytest.approx(expected, rel=1e-4)
        assert torch.nn.functional.cosine_similarity(network.weight.grad, given).item() == pytest.approx(1)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_of_the_forward_pass(precision: str, dtype: torch.dtype) -> None:
    network = nn.Conv2d(1, 2, 3)
    assert AutocastInferer(precision)(torch.rand(1, 1, 8, 8), network).dtype == dtype
    with pytest.raises(ConfigError) as caught:
        AutocastInferer("float8")
    assert (caught.value.where, caught.value.got) == ("train#inferer#precision", "'float8'")


def test_the_dataset_is_told_its_epoch() -> None:
    dataset, seen = SimpleNamespace(epoch=None), []
    engine = Engine(lambda *_: seen.append(dataset.epoch))
    EpochCounter(dataset).attach(engine)
    engine.run([0, 0], max_epochs=3)
    assert seen == [0, 0, 1, 1, 2, 2]


def momenta(start: int, iterations: int) -> list[float]:
    """Return the momentum at each iteration of a training that goes on after ``start`` iterations."""
    average, seen = MovingAverage(nn.Linear(1, 1), momentum=0.01, momentum_warmup=0.2, warmup_iters=10), []
    engine = Engine(lambda *_: None)

    @engine.on(Events.STARTED)
    def _restore(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = start // 4, start

    average.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.ema_momentum))
    engine.run([0] * 4, max_epochs=(start + iterations) // 4)
    return seen


def test_the_average_warms_up_once() -> None:
    whole = momenta(0, 16)
    assert whole[0] > whole[5] > whole[9] == pytest.approx(0.01)
    assert momenta(8, 8) == whole[8:]


def test_the_average_follows_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, momentum=0.25)
    before = float(average.ema_model.weight)

    def move(*_: object) -> None:
        with torch.no_grad():
            network.weight.add_(1.0)

    engine = Engine(move)
    average.attach(engine)
    engine.run([0], max_epochs=1)
    assert float(average.ema_model.weight) == pytest.approx(before + 0.25)
