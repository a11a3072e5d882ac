# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The inferer with its networks on another device, which computes nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem import posed_case
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import VolumeGeometry

from ..engine.tiny_networks import SCORE
from .meta_gpu import GPU, meta_gpu

SLICES = {"name": "slice_thickness", "thickness": 4.0, "target_spacing": 1.0}


class Devices:
    """Handler that notes where operator, measurement and volume are after each step."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        problem, recon = engine.problem, engine.state.recon
        tensors = [problem.measurement, recon.x, *problem.operator.buffers()]
        self.seen.append({t.device.type for t in tensors})


def inferer(operator: Any = SLICES, sampler: str = "heun", **options: Any) -> DiffReconInferer:
    spec = {"name": sampler, "steps": 3, "sigma_start": 0.2, "sigma_end": 0.05}
    return DiffReconInferer(SCORE, operator=operator, sampler=spec, progress=False, **options)


def network() -> nn.Module:
    return copy.deepcopy(SCORE.network).to(GPU)


def thick() -> MetaTensor:
    y = torch.rand(1, 8, 8, 2, generator=torch.Generator().manual_seed(0))
    return MetaTensor(y, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize(("option", "where"), [({}, "meta"), ({"volume_device": "cpu"}, "cpu")])
def test_volumes_are_where_the_networks_are_or_where_the_option_says(option: dict[str, str], where: str) -> None:
    devices = Devices()
    with meta_gpu():
        done = inferer(handlers=[devices], **option).reconstruct(thick(), network())
    assert devices.seen == [{where}] * 3
    assert done.volume.device.type == "cpu"
    assert done.report.execution["device"] == "meta"
    assert done.report.execution.get("volume_device") == (where if option else None)


def test_the_volumes_of_a_call_are_where_the_inputs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def read(measurement: torch.Tensor) -> torch.Tensor:
        given.append(measurement.device.type)
        return thick()  # what is read from this device is ones, not a scan

    monkeypatch.setattr(posed_case, "on_cpu", read)
    with meta_gpu():
        batch = thick()[None]
        volume = inferer()(batch, network())
        assert (volume.device.type, tuple(volume.shape)) == ("cpu", (1, 1, 8, 8, 8))
        assert inferer()(batch.to(GPU), SCORE.network).device.type == "meta"
    assert given == ["cpu", "meta"]


def test_device_moves_the_networks() -> None:
    devices = Devices()
    own = copy.deepcopy(SCORE.network)
    with meta_gpu():
        inferer(device="meta", handlers=[devices]).reconstruct(thick(), own)
    assert devices.seen == [{"meta"}] * 3
    assert {p.device.type for p in own.parameters()} == {"meta"}


def test_an_operator_that_was_given_is_put_back() -> None:
    own = SliceThickness(VolumeGeometry((8, 8, 8)), thickness=4.0)
    own.register_buffer("extra", torch.ones(3), persistent=False)
    devices = Devices()
    with meta_gpu():
        inferer(own, handlers=[devices]).reconstruct(thick(), network())
    assert devices.seen == [{"meta"}] * 3
    assert own.extra.device.type == "cpu"


def test_a_run_resumes_on_the_device(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    class Interrupt(Devices):
        def __call__(self, engine: Any) -> None:
            super().__call__(engine)
            if engine.state.recon.step == 2:
                raise StopError

    with meta_gpu():
        kept = RunCheckpoint(tmp_path / "state.pt", every=1)
        with pytest.raises(StopError):
            inferer(sampler="pnp_hqs", handlers=[Interrupt()]).reconstruct(thick(), network(), checkpoint=kept)
        devices = Devices()
        again = RunCheckpoint(tmp_path / "state.pt", every=1)
        done = inferer(sampler="pnp_hqs", handlers=[devices]).reconstruct(thick(), network(), checkpoint=again)
    assert devices.seen == [{"meta"}] * 2  # the second step and the third
    assert done.report.execution["resumed"] == 1


class Fails(nn.Module):
    """A network that runs out of memory at its 20th call: with eight slices one by one, in Heun's second step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.left = network(), 20

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.as_tensor(self.inner(x, sigma))


def test_the_next_sample_starts_on_the_device_again() -> None:
    devices = Devices()
    options: dict[str, Any] = {"num_samples": 2, "sw_batch_size": 1, "handlers": [devices]}
    with meta_gpu():
        inferer(**options).reconstruct(thick(), Fails())
    assert devices.seen == [{"meta"}, {"cpu"}, {"cpu"}, {"meta"}, {"meta"}, {"meta"}]
