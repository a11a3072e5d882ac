# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What executes the networks is a plugin, and part of a run that has another one than PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.executed_network import ExecutedNetwork, executed
from monai_diffrecon.errors import ConfigError, PluginError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.protocols import Measurement, Runtime, VolumeGeometry
from monai_diffrecon.runtimes import TorchRuntime
from monai_diffrecon.testing import check_runtime

from ..tiny_networks import CORONAL, SCORE

OPERATOR = {"name": "slice_thickness", "thickness": 3.0}
SOURCE = """
    from monai_diffrecon.protocols import Runtime

    class Halved(Runtime):
        API_VERSION = 1

        def load(self, network, *, precision):
            return lambda *inputs, **named: 0.5 * network(*inputs, **named)
"""


class Counting(Runtime):
    """Counts calls, and computes no gradients."""

    calls = 0

    def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
        def call(*inputs: Tensor, **named: Tensor) -> Tensor:
            self.calls += 1
            with torch.no_grad():
                done: Tensor = network(*inputs, **named)
            return done

        return call


def measurement() -> Tensor:
    thick = torch.rand((1, 10, 9, 4), generator=torch.Generator().manual_seed(0))
    return to_tensor(Measurement(thick, VolumeGeometry((10, 9, 12)), OPERATOR))


def inferer(**options: Any) -> DiffReconInferer:
    sampler = {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.3}
    return DiffReconInferer(SCORE, OPERATOR, **{"sampler": sampler, **options})


def test_torch_is_the_default_and_says_nothing() -> None:
    runs = [inferer(), inferer(runtime="torch"), inferer(runtime={"name": "monai-diffrecon:torch"})]
    volumes = [run.reconstruct(measurement(), case="a").volume for run in runs]
    identities = [run.identity(measurement(), "a") for run in runs]
    assert torch.equal(volumes[0], volumes[1])
    assert torch.equal(volumes[0], volumes[2])
    assert identities[0] == identities[1] == identities[2]
    assert not [key for key in identities[0] if "runtime" in key]
    assert executed(TorchRuntime(), SCORE.network, precision="float32") is SCORE.network


def test_another_runtime_executes_every_call_of_every_network() -> None:
    runtime = Counting()
    options: dict[str, Any] = {"prior": "perpendicular", "auxiliaries": [CORONAL]}
    plain = inferer(**options).reconstruct(measurement(), case="a")
    other = inferer(runtime=runtime, **options).reconstruct(measurement(), case="a")
    assert torch.equal(other.volume, plain.volume)
    assert runtime.calls > 2
    assert runtime.calls >= plain.report.denoiser_calls


def test_it_is_part_of_the_identity(install: Callable[..., None], tmp_path: Path) -> None:
    install("acme-halved", "runtimes", {"halved": "Halved"}, SOURCE)
    (tmp_path / "acme_halved-2.1.dist-info" / "METADATA").write_text("Name: acme-halved\nVersion: 2.1\n")
    plain, other = inferer(), inferer(runtime="halved")
    identity = other.identity(measurement(), "a")
    assert identity["config.runtime.name"] == '"halved"'
    assert identity["versions.acme-halved"] == '"2.1"'
    assert not torch.equal(
        plain.reconstruct(measurement(), case="a").volume, other.reconstruct(measurement(), case="a").volume
    )
    # Without a network it takes no part.
    classical = inferer(runtime="halved", sampler="cubic", consistency="none")
    assert "config.runtime.name" not in classical.identity(measurement(), "a")


def test_the_network_s_own_multiple_and_weights_are_found() -> None:
    network = executed(Counting(), SCORE.network, precision="float32")
    assert isinstance(network, ExecutedNetwork)
    assert network.multiple == getattr(SCORE.network, "multiple", 1)
    assert [p.data_ptr() for p in network.parameters()] == [p.data_ptr() for p in SCORE.network.parameters()]


def test_guidance_needs_gradients() -> None:
    guided: dict[str, Any] = {"consistency": "dps", "sampler": {"name": "ddim", "steps": 2}}
    with pytest.raises(ConfigError) as caught:
        inferer(runtime=Counting(), **guided)
    assert caught.value.where == "runtime"
    inferer(runtime="torch", **guided)
    inferer(runtime=Counting(), consistency="dps", sampler="cubic")  # which never calls the network


@pytest.mark.parametrize(("option", "value"), [("precision", "bfloat16"), ("device", "meta")])
def test_what_it_does_not_know_is_refused_before_the_first_step(option: str, value: str) -> None:
    runtime = Counting()
    with pytest.raises(ConfigError) as caught:
        inferer(runtime=runtime, **{option: value}).check(measurement())
    assert caught.value.where == f"inferer#{option}"
    assert caught.value.got == value
    assert runtime.calls == 0


def test_weights_on_a_device_that_it_does_not_know_are_refused() -> None:
    score = replace(SCORE, network=nn.Conv2d(1, 1, 1, device="meta"))
    with pytest.raises(ConfigError) as caught:
        executed(Counting(), score.network, precision="float32")
    assert caught.value.got == "meta"


def test_unknown_names_are_one_line() -> None:
    with pytest.raises(PluginError) as caught:
        inferer(runtime="tensorrt")
    assert caught.value.where == "runtime"


def test_the_laws_can_fail() -> None:
    class Overwriting(Runtime):
        def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
            kept: dict[Any, Tensor] = {}

            def call(*inputs: Tensor, **named: Tensor) -> Tensor:
                with torch.no_grad():
                    done = network(*inputs, **named)
                return kept.setdefault(done.shape, done).copy_(done)

            return call

    class Coarse(Runtime):
        def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
            return lambda *inputs, **named: network(*inputs, **named).detach() * 1.001

    class Attached(Counting):
        differentiable = True

    check_runtime(Counting())
    for runtime, word in ((Overwriting(), "earlier"), (Coarse(), "differ"), (Attached(), "differentiable")):
        with pytest.raises(AssertionError, match=word):
            check_runtime(runtime)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler uses what torch has deprecated
def test_a_compiled_network_computes_the_same() -> None:
    plain = inferer(sw_batch_size=12).reconstruct(measurement(), case="a").volume
    compiled = inferer(sw_batch_size=12, runtime={"name": "torch", "compile": True})  # one shape
    done = compiled.reconstruct(measurement(), case="a")
    assert float((done.volume - plain).abs().max()) < 1e-4 * float(plain.abs().max())
    assert done.report.options["runtime"]["compile"] is True
    assert "config.runtime.compile" in compiled.identity(measurement(), "a")


def test_a_network_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*inputs: Tensor, **named: Tensor) -> Tensor:
        raise torch._dynamo.exc.BackendCompilerFailed("inductor", RuntimeError("no C++ compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda network, **options: compiled)
    with pytest.raises(ConfigError) as caught:
        inferer(runtime={"name": "torch", "compile": True}).reconstruct(measurement(), case="a")
    assert caught.value.where == "runtime#compile"
    assert "\n" not in str(caught.value)


def test_a_compiled_network_has_no_gradients() -> None:
    sampler = {"name": "ddim", "steps": 1}
    with pytest.raises(ConfigError) as caught:
        inferer(runtime={"name": "torch", "compile": True}, consistency="dps", sampler=sampler)
    assert caught.value.where == "runtime"
    with pytest.raises(ConfigError) as caught:
        TorchRuntime(compile="yes")  # type: ignore[arg-type]
    assert caught.value.where == "runtime#compile"
