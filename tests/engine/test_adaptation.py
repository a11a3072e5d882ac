# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A network that is wrong for a scan learns from the scan's own measurement."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.engine.adaptation import last_weights
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.operators import CartesianMRI, CartesianMRI3D, ParallelCT
from monai_diffrecon.protocols import Measurement

from ..raising import raises
from .resume.test_resumed_reconstruction import Interrupt
from .test_self_validation import GEOMETRY, SPECS, scan, smooth_object
from .tiny_networks import CORONAL, SCORE


class Scaled(nn.Module):
    """The local mean times a weight, which is 1 for a network that fits."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
        self.last = nn.Conv2d(1, 1, 1, bias=False)
        self.first.weight.data.fill_(1 / 9)
        self.last.weight.data.fill_(weight)
        self.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.last(self.first(x))


class Plain(nn.Module):
    """Has no weights."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 0.9 * x


ADAPTATION = {"steps": 25, "learning_rate": 0.01, "layers": 0.05}


def maker(name: str, network: nn.Module, **options: Any) -> DiffReconInferer:
    sampler = {"name": "pnp_hqs", "steps": 4, "sigma_start": 0.2}
    consistency = {"name": "conjugate_gradient", "gamma": 0.3}
    given: dict[str, Any] = {"sampler": sampler, "consistency": consistency, "adaptation": ADAPTATION}
    return DiffReconInferer(replace(SCORE, network=network), SPECS[name], progress=False, **{**given, **options})


@pytest.mark.parametrize("name", ["points", "views"])
def test_a_wrong_network_is_mended(name: str) -> None:
    truth, y = scan(name, 0.02)
    network = Scaled(0.7)
    before, after = (maker(name, network, adaptation=a).reconstruct(y, case="a") for a in (None, ADAPTATION))
    errors = [float((done.volume - truth).square().mean().sqrt()) for done in (before, after)]
    assert errors[1] < 0.7 * errors[0]
    said = after.report.options["adaptation"]
    assert said["mixes"] == [0.0, 0.1, 0.3, 1.0]
    assert said["chosen"] == said["mixes"][said["residuals"].index(min(said["residuals"]))] > 0.0
    assert "weights" not in said
    assert after.report.inferer["adaptation"] == {"held_out": 0.2, "slices": 24, "patch": 6, **ADAPTATION}
    assert "adaptation" not in before.report.inferer
    # The bundle's own network is as it was.
    assert float(network.last.weight) == pytest.approx(0.7)
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())


def test_the_same_bits_again_and_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = scan("points", 0.02)
    inferer = maker("points", Scaled(0.7))
    whole = inferer.reconstruct(y, case="a")
    assert torch.equal(inferer.reconstruct(y, case="a").volume, whole.volume)
    path = tmp_path / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        inferer.reconstruct(
            y, case="a", handlers=[Interrupt(StepEvents.STEP_COMPLETED, 2)], checkpoint=RunCheckpoint(path, every=1)
        )
    monkeypatch.setattr("monai_diffrecon.engine.adaptation._found", lambda *given: pytest.fail("adapted again"))
    done = inferer.reconstruct(y, case="a", checkpoint=RunCheckpoint(path, resume="require"))
    assert torch.equal(done.volume, whole.volume)
    assert done.report.options["adaptation"] == whole.report.options["adaptation"]


def test_a_network_that_gets_no_better_stays(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = scan("points", 0.02)
    residuals = iter([0.5, 0.5, float("inf"), 0.6])
    monkeypatch.setattr("monai_diffrecon.engine.adaptation.held_out_residual", lambda *given: next(residuals))
    done = maker("points", Scaled(1.0)).reconstruct(y, case="a")
    assert done.report.options["adaptation"]["residuals"] == [0.5, 0.5, None, 0.6]
    assert done.report.options["adaptation"]["chosen"] == 0.0
    assert torch.equal(done.volume, maker("points", Scaled(1.0), adaptation=None).reconstruct(y, case="a").volume)
    assert any("stay as they are" in line for line in caplog.messages)


def test_the_network_of_the_caller_and_of_another_plane() -> None:
    """Thick coronal slices are apart in axial slices; the network of axial slices learns, the other does not."""
    _, y = scan("slices", 0.02)
    auxiliaries = [replace(CORONAL, network=Scaled(1.0))]
    network, prior = Scaled(0.7), {"name": "perpendicular", "K": 2}
    options = {"auxiliaries": auxiliaries, "prior": prior, "flips": True}
    done = maker("slices", Scaled(0.2), **options).reconstruct(y, network, case="a")
    assert done.report.options["adaptation"]["chosen"] > 0.0
    assert float(network.last.weight) == pytest.approx(0.7)
    assert float(auxiliaries[0].network.last.weight) == 1.0


def test_a_complex_volume() -> None:
    operator = {"name": "cartesian_mri", "acceleration": 2.0, "complex_volume": True}
    y = CartesianMRI(GEOMETRY, acceleration=2.0, complex_volume=True)(smooth_object() * torch.exp(torch.tensor(0.3j)))
    tensor = to_tensor(Measurement(y, GEOMETRY, operator=operator))
    done = maker("points", Scaled(0.7)).reconstruct(tensor, case="a")
    assert done.report.options["adaptation"]["chosen"] > 0.0


def test_last_weights_by_the_order_of_the_call() -> None:
    """The layer that is registered first is called last."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict(
                OrderedDict(late=nn.Linear(3, 3), early=nn.Linear(3, 3), middle=nn.Linear(3, 3))
            )

        def forward(self, x: Tensor) -> Tensor:
            for name in ("early", "middle", "late"):
                x = self.layers[name](x)
            return x

    network = Crossed()

    def names(share: float) -> list[str]:
        return list(last_weights(network, lambda: network(torch.ones(1, 3)), share))

    late, middle = ([f"layers.{name}.{own}" for own in ("weight", "bias")] for name in ("late", "middle"))
    assert names(0.1) == late
    assert names(0.5) == [*late, *middle]
    assert len(names(1.0)) == 6


@pytest.mark.parametrize(
    ("adaptation", "where"),
    [
        ("yes", "inferer#adaptation"),
        ({"rate": 1.0}, "inferer#adaptation"),
        ({"steps": 0}, "inferer#adaptation#steps"),
        ({"learning_rate": -1.0}, "inferer#adaptation#learning_rate"),
        ({"layers": 0.0}, "inferer#adaptation#layers"),
        ({"held_out": 0.8}, "inferer#adaptation#held_out"),
    ],
)
def test_wrong_options_are_refused(adaptation: Any, where: str) -> None:
    with raises(ConfigError, where=where):
        maker("points", Scaled(1.0), adaptation=adaptation)


def test_what_cannot_be_adapted_is_refused() -> None:
    operator = {"name": "cartesian_mri_3d", "acceleration": 2.0}
    y = to_tensor(Measurement(CartesianMRI3D(GEOMETRY, acceleration=2.0)(smooth_object()), GEOMETRY, operator=operator))
    with raises(ConfigError, where="inferer#adaptation"):  # slices are coupled
        maker("points", Scaled(1.0)).reconstruct(y)
    _, thick = scan("slices", 0.0)
    with raises(ConfigError, where="inferer#adaptation"):  # no network of a plane whose slices are apart
        DiffReconInferer(
            replace(CORONAL, network=Scaled(1.0)), SPECS["slices"], progress=False, adaptation=True
        ).reconstruct(thick)
    _, y = scan("points", 0.0)
    with raises(ConfigError, where="inferer#adaptation"):  # nothing to learn
        maker("points", Plain()).reconstruct(y)
    few = {"name": "parallel_ct", "views": 3}
    y = to_tensor(Measurement(ParallelCT(GEOMETRY, views=3)(smooth_object()), GEOMETRY, operator=few))
    with raises(InputError, where="inferer#adaptation"):
        maker("views", Scaled(1.0)).reconstruct(y)
