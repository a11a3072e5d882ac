# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO computes what PyTorch computes, or says that it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffrecon_openvino.openvino_runtime import OpenVINORuntime
from monai_diffrecon import DiffReconInferer, registry
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.errors import ConfigError, NumericalError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.networks import BiasFreeUNet
from monai_diffrecon.protocols import Measurement, VolumeGeometry
from monai_diffrecon.testing import check_runtime

GEOMETRY = VolumeGeometry((18, 15, 12))


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)


def reconstruct(**options: Any) -> Any:
    score = ScoreNetwork(
        name="tiny",
        version="1",
        network=tiny(),
        plane="axial",
        spacing=(1.0, 1.0),
        denoiser={"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0},
        intensity={"map": "percentile", "q": 99.5},
        sha256="0" * 64,
    )
    operator = {"name": "slice_thickness", "thickness": 3.0}
    thick = torch.rand((1, 18, 15, 4), generator=torch.Generator().manual_seed(0))
    measurement = to_tensor(Measurement(thick, GEOMETRY, operator))
    options = {"sampler": {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.3}, **options}
    inferer = DiffReconInferer(score, operator, **options)
    return inferer.reconstruct(measurement, case="case"), inferer.identity(measurement, "case")


def test_laws_of_the_product_s_own_network() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny()

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return self.network(x, timesteps)

    check_runtime(OpenVINORuntime(), Named())


@pytest.mark.parametrize("batch", [5, 8])
def test_a_reconstruction_is_that_of_torch(batch: int) -> None:
    plain, identity = reconstruct(sw_batch_size=batch)
    fast, other = reconstruct(sw_batch_size=batch, runtime="openvino")
    assert torch.allclose(fast.volume, plain.volume, atol=1e-4 * float(plain.volume.abs().max()))
    assert fast.report.denoiser_calls == plain.report.denoiser_calls
    assert not [key for key in identity if "runtime" in key]
    assert other["config.runtime.name"] == '"openvino"'
    assert "versions.diffrecon-openvino" in other


def test_nothing_is_reported_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino.tools.ovc.telemetry_utils as telemetry

    monkeypatch.setattr(telemetry, "init_telemetry_class", lambda *_, **__: pytest.fail("telemetry is set up"))
    call = OpenVINORuntime().load(tiny(), precision="float32")
    call(torch.rand(1, 1, 8, 8), torch.ones(1))


def test_guidance_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        reconstruct(runtime="openvino", consistency="dps", sampler={"name": "ddim", "steps": 2})
    assert caught.value.where == "runtime"


@pytest.mark.parametrize(("option", "value"), [("precision", "float16"), ("device", "meta")])
def test_what_it_does_not_know_is_refused(option: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reconstruct(runtime="openvino", **{option: value})
    assert caught.value.where == f"inferer#{option}"


def test_another_result_than_that_of_torch_is_refused() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return x * level.reshape(-1, 1, 1, 1) * (1.001 if torch.jit.is_tracing() else 1.0)

    with pytest.raises(NumericalError) as caught:
        OpenVINORuntime().load(Fickle(), precision="float32")(torch.rand(2, 1, 8, 8), torch.ones(2))
    assert caught.value.where == "runtime"


def test_a_network_that_cannot_be_converted_is_one_line() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            raise ValueError("two\nlines")

    with pytest.raises(ConfigError) as caught:
        OpenVINORuntime().load(Strange(), precision="float32")(torch.rand(2, 1, 8, 8), torch.ones(2))
    assert caught.value.where == "runtime"
    assert "\n" not in str(caught.value)


def test_it_is_found_by_name() -> None:
    assert isinstance(registry.create("runtimes", "openvino"), OpenVINORuntime)
