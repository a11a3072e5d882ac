# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Precision, batch size and facts of a device, with what a GPU would say about itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_diffrecon.engine.devices import precision
from monai_diffrecon.engine.devices.placement import device_facts, indexed, state_on
from monai_diffrecon.engine.devices.precision import fast_bfloat16, resolved_precision, tf32
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.memory.batch_size import chosen_batch_size
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import SamplerState

from ..engine.tiny_networks import SCORE
from ..raising import raises

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")
SLICES = {"name": "slice_thickness", "thickness": 4.0, "target_spacing": 1.0}


def processor(path: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    """Pretend to run on a processor with these flags."""
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse2\n")
    monkeypatch.setattr(precision, "_CPUINFO", path)


def inferer(**options: object) -> DiffReconInferer:
    sampler = {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.2, "sigma_end": 0.05}
    return DiffReconInferer(SCORE, operator=SLICES, sampler=sampler, progress=False, **options)


def thick() -> MetaTensor:
    y = torch.rand(1, 8, 8, 4, generator=torch.Generator().manual_seed(0))
    return MetaTensor(y, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize(("flags", "chosen"), [("amx_tile amx_bf16", "bfloat16"), ("avx512_bf16", "float32")])
def test_auto_is_bfloat16_on_a_processor_with_amx(
    flags: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(tmp_path / "cpuinfo", monkeypatch, flags)
    assert resolved_precision("auto", CPU) == chosen
    explicit, auto = inferer(precision=chosen), inferer(precision="auto")
    assert auto.identity(thick()) == explicit.identity(thick())
    one, other = explicit.reconstruct(thick()), auto.reconstruct(thick())
    assert torch.equal(one.volume, other.volume)
    assert other.report.inferer["precision"] == chosen


def test_auto_on_a_system_that_does_not_say_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "none")
    assert not fast_bfloat16(CPU)
    assert resolved_precision("auto", torch.device("meta")) == "float32"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")])
def test_auto_on_a_gpu_asks_its_capability(
    capability: tuple[int, int], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert resolved_precision("auto", CUDA) == chosen
    assert asked == [CUDA]


def test_tf32_is_refused_without_a_gpu() -> None:
    assert resolved_precision("tf32", CUDA) == "tf32"
    with raises(ConfigError, where="inferer#precision", got="tf32 on cpu") as caught:
        inferer(precision="tf32").reconstruct(thick())
    assert "\n" not in str(caught.value)
    assert caught.value.mend


def test_settings_of_the_process_are_restored() -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with tf32(True):
        assert settings() == ("high", True)
        with tf32(False):
            assert settings() == ("highest", False)
        assert settings() == ("high", True)
    assert settings() == before


def test_a_run_forbids_tf32_while_it_lasts() -> None:
    seen: list[bool] = []

    class Watch:
        def attach(self, engine: object) -> None:
            seen.append(torch.backends.cudnn.allow_tf32)

    before = torch.backends.cudnn.allow_tf32
    inferer(handlers=[Watch()]).reconstruct(thick())
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("device", "count", "height", "width", "limit", "size"),
    [
        (CPU, 256, 256, 256, None, 8),
        (CUDA, 256, 256, 256, None, 64),  # 2^22 / 2^16
        (CUDA, 100, 256, 256, None, 50),  # two batches, not 64 and 36
        (CUDA, 6, 256, 256, None, 6),
        (CUDA, 256, 2048, 2048, None, 8),  # one would fill 2^22
        (CUDA, 256, 256, 256, 10, 10),  # 26 batches of 10, the last one of 6
        (CUDA, 256, 256, 256, 0, 1),
        (CUDA, 181, 217, 181, None, 91),  # 106 fit, so two batches
    ],
)
def test_batches(device: torch.device, count: int, height: int, width: int, limit: int | None, size: int) -> None:
    assert chosen_batch_size(device, count, height, width, limit) == size


def test_batches_of_their_own_choice_on_a_cpu_are_the_default() -> None:
    default, auto = inferer().reconstruct(thick()), inferer(sw_batch_size="auto").reconstruct(thick())
    assert torch.equal(default.volume, auto.volume)
    assert auto.report.execution["batch_sizes"] == {"axial": 8}
    assert auto.report.inferer["sw_batch_size"] == "auto"
    with raises(ConfigError, where="inferer#sw_batch_size", got="'most'"):
        inferer(sw_batch_size="most")


def test_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    facts = device_facts(CUDA, "tf32")
    assert facts.pop("cudnn") == torch.backends.cudnn.version()
    assert facts == {"device_name": "GPU 1", "capability": "9.0", "tf32": True, "cudnn_deterministic": False}
    assert device_facts(CPU, "float32") == {}
    assert indexed("cuda:1") == CUDA
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert indexed("cuda") == CUDA


def test_a_record_of_the_cpu_has_no_new_keys() -> None:
    execution = inferer().reconstruct(thick()).report.execution
    assert execution["device"] == "cpu"
    assert not {"volume_device", "device_name", "tf32"} & execution.keys()


def test_a_state_read_from_a_file_goes_to_the_device() -> None:
    state = SamplerState(torch.ones(1, 2, 3, 4).transpose(1, 2), 0.1, step=2, memory={"a": {"b": torch.ones(2)}})
    moved = state_on(state, "meta")
    assert moved.x.device.type == moved.memory["a"]["b"].device.type == "meta"
    assert moved.x.stride() == state.x.stride()
    assert (moved.step, moved.sigma) == (2, 0.1)
    assert state.x.device.type == state.memory["a"]["b"].device.type == "cpu"
