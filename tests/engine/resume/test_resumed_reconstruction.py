# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A reconstruction that was interrupted ends with the voxels of one that was not, bit for bit."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume import state_file
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import (
    ConfigError,
    DiffReconError,
    IntegrityError,
    NumericalError,
    PluginError,
    ResourceError,
    ResumeMismatchError,
)
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.protocols import ConsistencyStep, SamplerState

from ...raising import raises
from ..tiny_networks import CORONAL, SCORE, tiny

THICK = {"name": "slice_thickness", "thickness": 3.0}
CT = {"name": "parallel_ct", "views": 9}
MRI = {"name": "cartesian_mri", "acceleration": 3.0, "complex_volume": True}
PNP_HQS = {"name": "pnp_hqs", "steps": 6, "sigma_start": 0.2, "momentum": 0.8}
DDIM = {"name": "ddim", "steps": 6, "sigma_start": 0.5, "eta": 0.85}
ADMM = {"name": "admm", "regularizers": [{"name": "z_tv"}]}
ITERATE = {"name": "admm_iterate", "rho": 0.026, "regularizers": [{"name": "z_tv", "threshold": 0.004}]}
CORRECTOR = {"name": "predictor_corrector", "steps": 6}
ADMM_TV = {"name": "admm_tv", "iterations": 6}


def measured(operator: dict[str, Any]) -> Tensor:
    noise = torch.rand((1, 14, 13, 12), generator=torch.Generator().manual_seed(0))
    volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
    return SimulateMeasurementd(["image"], operator, noise=0.01)({"image": MetaTensor(volume)})["image"]


def inferer(operator: dict[str, Any] = THICK, **options: Any) -> DiffReconInferer:
    arguments: dict[str, Any] = {"sampler": PNP_HQS, "progress": False, "auxiliaries": [CORONAL]}
    arguments |= {"prior": {"name": "perpendicular", "K": 2}}
    return DiffReconInferer(SCORE, operator, **{**arguments, **options})


class Interrupt:
    """Handler that ends a run at a step, as Ctrl-C does, after the number of events that are let pass."""

    def __init__(self, event: StepEvents, count: int) -> None:
        self.event, self.left = event, count

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(self.event, self._count)

    def _count(self, engine: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted(
    maker: DiffReconInferer, scan: Tensor, path: Path, points: Sequence[tuple[StepEvents, int]], every: int = 0
) -> Reconstruction:
    """Reconstruct with an interrupt at each point, and then to the end."""
    for event, count in points:
        with pytest.raises(KeyboardInterrupt):
            maker.reconstruct(
                scan, case="c", handlers=[Interrupt(event, count)], checkpoint=RunCheckpoint(path, every=every)
            )
        assert path.is_file()
    return maker.reconstruct(scan, case="c", checkpoint=RunCheckpoint(path, resume="require", every=every))


@pytest.mark.parametrize(
    ("operator", "options"),
    [
        pytest.param(THICK, {}, id="default"),
        pytest.param(THICK, {"consistency": ADMM}, id="admm"),
        pytest.param(THICK, {"prior": {"name": "perpendicular", "K": 2.7}, "sampler": DDIM}, id="random planes"),
        pytest.param(THICK, {"prior": {"name": "perpendicular", "K": "average"}, "window": (8, 8)}, id="windows"),
        pytest.param(THICK, {"sampler": DDIM, "noise": "slerp"}, id="ddim slerp"),
        pytest.param(THICK, {"sampler": {"name": "heun", "steps": 6, "S_churn": 10.0}}, id="heun with churn"),
        pytest.param(THICK, {"sampler": CORRECTOR, "consistency": ITERATE}, id="DiffusionMBIR"),
        pytest.param(THICK, {"sampler": CORRECTOR, "consistency": {"name": "dps", "zeta": 1.0}}, id="TPDM"),
        pytest.param(THICK, {"sampler": {**PNP_HQS, "start": ADMM_TV}}, id="start at total variation"),
        pytest.param(THICK, {"sampler": ADMM_TV}, id="ADMM-TV"),
        pytest.param(CT, {"sampler": {"name": "sirt", "iterations": 6}}, id="SIRT"),
        pytest.param(CT, {"sampler": DDIM, "consistency": ADMM}, id="CT"),
        pytest.param(MRI, {"sampler": {**PNP_HQS, "sigma_start": "estimate"}}, id="complex MRI"),
        pytest.param(MRI, {"complex": "channels"}, id="complex channels"),
    ],
)
def test_an_interrupted_run_gives_the_same_voxels(
    operator: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    maker, scan = inferer(operator, **options), measured(operator)
    whole = maker.reconstruct(scan, case="c")
    points = [(StepEvents.STEP_COMPLETED, 3), (StepEvents.CONSISTENT, 2)]
    done = interrupted(maker, scan, tmp_path / "checkpoint.pt", points)
    assert torch.equal(done.volume, whole.volume)
    assert done.report.steps == whole.report.steps
    assert len(done.report.steps) == 6
    # The two steps that were interrupted half-way were done again, the others not.
    again = done.report.denoiser_calls - whole.report.denoiser_calls
    assert 0 <= again <= 2 * max(whole.report.denoiser_calls / 5, 1)
    assert done.report.execution["resumed"] == 2
    assert done.report.ladder == whole.report.ladder


@pytest.mark.parametrize("keep", [False, True])
def test_samples_are_gone_on_with(keep: bool, tmp_path: Path) -> None:
    maker = inferer(sampler=DDIM, num_samples=4, keep_samples=keep)
    whole = maker.reconstruct(measured(THICK), case="c")
    points = [(StepEvents.STEP_COMPLETED, 4), (StepEvents.STEP_COMPLETED, 11), (StepEvents.DENOISED, 8)]
    done = interrupted(maker, measured(THICK), tmp_path / "checkpoint.pt", points)
    assert torch.equal(done.volume, whole.volume)
    assert done.spread is not None
    assert whole.spread is not None
    for name in ("std", "std_measured", "std_null"):
        assert torch.equal(getattr(done.spread, name), getattr(whole.spread, name)), name
    assert len(done.spread.samples) == len(whole.spread.samples) == (4 if keep else 0)
    assert done.report.steps == whole.report.steps


def test_what_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scan, maker = tmp_path / "checkpoint.pt", measured(THICK), inferer()
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(
            scan, handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path, every=1)
        )
    before = path.read_bytes()

    def refused(maker: DiffReconInferer, what: str, image: Tensor = scan) -> None:
        with raises(ResumeMismatchError, where="checkpoint.pt") as caught:
            maker.reconstruct(image, checkpoint=RunCheckpoint(path))
        assert re.search(what, caught.value.got)
        assert caught.value.exit_code == 3
        assert path.read_bytes() == before

    refused(inferer(sampler={**PNP_HQS, "steps": 7}), r"config\.sampler\.steps \(6, now 7\)")
    refused(inferer(consistency=ADMM), r"config\.consistency\.name \(conjugate_gradient, now admm\)")
    refused(inferer(seed=5), r"seed \(0, now 5\)")
    refused(inferer(overlap=0.5), r"inferer\.overlap \(0\.25, now 0\.5\)")
    refused(inferer(auxiliaries=[replace(CORONAL, sha256="2" * 64)]), r"weights\.coronal_bundle 1\.2 \(1111")
    refused(maker, r"measurement\.data \(sha256", scan + 1e-3)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.9")
    refused(maker, r"versions\.\S+ \(.*, now 99\.9\)")


def test_another_batch_size_is_allowed_and_noted(tmp_path: Path) -> None:
    path, scan = tmp_path / "checkpoint.pt", measured(THICK)
    whole = inferer().reconstruct(scan, case="c")
    with pytest.raises(KeyboardInterrupt):
        inferer().reconstruct(
            scan, case="c", handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path)
        )
    done = inferer(sw_batch_size=3).reconstruct(scan, case="c", checkpoint=RunCheckpoint(path))
    torch.testing.assert_close(done.volume, whole.volume, rtol=1e-4, atol=1e-3)
    assert done.report.fallbacks == [
        "resumed with sw_batch_size 3 instead of 8: the last bits of the voxels may differ"
    ]
    assert done.report.execution["batch_sizes"] == {"axial": 3, "coronal": 3}


class Wide(nn.Module):
    """A network for which four slices at a time are the most that memory holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.refused = tiny(0), 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if len(x) > 4:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(x, sigma)


def test_batches_that_were_halved_stay_so_for_the_samples_that_follow(tmp_path: Path) -> None:
    wide, path = Wide(), tmp_path / "checkpoint.pt"
    maker = DiffReconInferer(replace(SCORE, network=wide), THICK, sampler=DDIM, num_samples=3, progress=False)
    done = interrupted(maker, measured(THICK), path, [(StepEvents.STEP_COMPLETED, 8)])
    assert wide.refused == 1
    assert done.report.execution["batch_sizes"] == {"axial": 4}
    assert done.report.fallbacks == ["out of memory: slices of the axial plane denoised 4 at a time instead of 8"]


def test_resume_says_what_is_wanted(tmp_path: Path) -> None:
    path, scan, maker = tmp_path / "checkpoint.pt", measured(THICK), inferer()
    with raises(ResumeMismatchError, where="resume", got=None, expected="checkpoint.pt"):
        maker.reconstruct(scan, checkpoint=RunCheckpoint(path, resume="require"))
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(scan, handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path))
    assert maker.reconstruct(scan, checkpoint=RunCheckpoint(path, resume="never")).report.execution["resumed"] == 0
    with raises(ConfigError, where="resume", got="'sometimes'", expected="auto or never or require"):
        RunCheckpoint(path, resume="sometimes")
    with raises(ConfigError, where="checkpoint_every", got="-1"):
        RunCheckpoint(path, every=-1)


@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "other"])
def test_a_damaged_checkpoint_is_never_gone_on_from(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, scan, maker = tmp_path / "checkpoint.pt", measured(THICK), inferer()
    whole = maker.reconstruct(scan)
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(scan, handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path))
    content = bytearray(path.read_bytes())
    if damage == "bit":
        saved = state_file.read_state(path)
        saved["point"]["state"]["x"][0, 0, 0, 0] += 1.0
        torch.save({"sha256": torch.load(path, weights_only=True)["sha256"], "state": saved}, path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "other": b"x" * 900}[damage])
    with raises(IntegrityError, where="checkpoint.pt") as caught:
        maker.reconstruct(scan, checkpoint=RunCheckpoint(path, resume="require"))
    assert caught.value.exit_code == 4
    with caplog.at_level(logging.WARNING):
        done = maker.reconstruct(scan, checkpoint=RunCheckpoint(path))
    assert "checkpoint.pt is damaged: the run starts from scratch" in caplog.text
    assert done.report.execution["resumed"] == 0
    assert torch.equal(done.volume, whole.volume)


def test_noise_that_knows_one_order_has_no_checkpoint(tmp_path: Path) -> None:
    path, scan = tmp_path / "checkpoint.pt", measured(THICK)
    maker = inferer(sampler=DDIM, noise="sequential")
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(
            scan, handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path, every=1)
        )
    assert not path.exists()
    with raises(ResumeMismatchError, where="resume", expected="checkpoint.pt"):
        maker.reconstruct(scan, checkpoint=RunCheckpoint(path, resume="require"))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, scan, maker = tmp_path / "checkpoint.pt", measured(THICK), inferer()
    with pytest.raises(KeyboardInterrupt):
        maker.reconstruct(
            scan, handlers=[Interrupt(StepEvents.STEP_COMPLETED, 3)], checkpoint=RunCheckpoint(path, every=1)
        )
    before = path.read_bytes()

    def full(path: Path, write: Any) -> None:
        def half(temporary: Path) -> None:
            temporary.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        atomic_write(path, half)

    monkeypatch.setattr(state_file, "atomic_write", full)
    done = maker.reconstruct(scan, checkpoint=RunCheckpoint(path, every=1))
    assert "no checkpoint after step 4: the disk is full" in caplog.text
    assert "no checkpoint after step 5: the disk is full" in done.report.fallbacks
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert path.read_bytes() == before
    assert torch.equal(done.volume, maker.reconstruct(scan).volume)


class Breaking(nn.Module):
    """A network that makes something that is no number from a call on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.inner = after, tiny(0)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.after -= 1
        out = self.inner(x, sigma)
        if self.after < 0:
            out[1, 0, 0, 0] = float("nan")
        return out


def test_the_state_before_a_value_that_is_no_number_is_kept(tmp_path: Path) -> None:
    path, scan = tmp_path / "checkpoint.pt", measured(THICK)
    broken = replace(SCORE, network=Breaking(4))
    with pytest.raises(NumericalError) as caught:
        DiffReconInferer(broken, THICK, sampler=PNP_HQS, progress=False).reconstruct(
            scan, checkpoint=RunCheckpoint(path)
        )
    assert caught.value.exit_code == 5
    kept = state_file.read_state(path)["point"]["state"]
    assert kept["step"] == 2
    assert bool(torch.isfinite(kept["x"]).all())


class Rude(ConsistencyStep):
    """Breaks its contract in one way or another."""

    def __init__(self, how: str = "nothing") -> None:
        self.how = how

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        if self.how == "raise":
            raise ValueError("something else")
        if self.how == "write":
            return x0.mul_(0.5)
        return {"shape": x0[:, 1:], "dtype": x0.double(), "nan": x0 * float("nan"), "none": None}[self.how]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("how", "error", "got"),
    [
        ("raise", PluginError, ...),
        ("write", PluginError, None),
        ("shape", PluginError, "float32 (1, 13, 13, 12) on cpu"),
        ("dtype", PluginError, "float64 (1, 14, 13, 12) on cpu"),
        ("none", PluginError, "NoneType"),
        ("nan", NumericalError, None),
    ],
)
def test_a_plugin_that_breaks_its_contract_is_named(
    how: str, error: type[DiffReconError], got: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("monai_diffrecon.engine.recipe.build_consistency", lambda spec: Rude(how))
    path = tmp_path / "checkpoint.pt"
    with raises(error, where="consistency Rude, on_estimate", got=got):
        inferer().reconstruct(measured(THICK), checkpoint=RunCheckpoint(path))
    assert state_file.read_state(path)["point"]["state"]["step"] == 0


def test_intervals_left_to_the_checkpoint_cost_a_hundredth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    checkpoint = RunCheckpoint(tmp_path / "checkpoint.pt")
    checkpoint.open({})
    size = 200_000_000  # one second at the speed that is assumed
    assert not checkpoint.due(1, size)
    now[0] += 99
    assert not checkpoint.due(2, size)
    now[0] += 2
    assert checkpoint.due(3, size)


def test_only_memory_is_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    class Hungry(ConsistencyStep):
        def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
            tries.append(state.step)
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("monai_diffrecon.engine.recipe.build_consistency", lambda spec: Hungry())
    with pytest.raises(ResourceError) as caught:
        inferer(sw_batch_size=4).reconstruct(measured(THICK))
    assert caught.value.exit_code == 6
    assert len(tries) == 3  # 4, 2 and 1 slices at a time; then there is nothing left to give up
