# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run's memory, and what it is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_diffrecon.bundle import ScoreNetwork
from monai_diffrecon.engine import memory_estimate
from monai_diffrecon.engine.allocation_trace import AllocationTrace
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.machine_memory import available_memory, peak_memory, resident_memory
from monai_diffrecon.engine.memory_estimate import MemoryEstimate, estimate_memory, memory_warnings

#: A run in a process of its own: the estimate before it, and the peak after it.
PROGRAM = """
import json, sys
import torch
from monai.data import MetaTensor
from monai_diffrecon.bundle import load_score_network
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.machine_memory import peak_memory, resident_memory
from monai_diffrecon.engine.memory_estimate import estimate_memory
root, edge, batch, options = json.loads(sys.argv[1])
inferer = DiffReconInferer(load_score_network(root), sw_batch_size=batch, progress=False, **options)
geometry = torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64))
y = MetaTensor(torch.rand(1, edge, edge, edge // 4), affine=geometry)
estimate = estimate_memory(inferer, y)
before = resident_memory()
inferer.reconstruct(y)
print(json.dumps({**vars(estimate), "measured": peak_memory(), "before": before}))
"""


def score(network: nn.Module | None = None) -> ScoreNetwork:
    return ScoreNetwork(
        name="test",
        version="0.1.0",
        network=Pooled() if network is None else network,
        plane="axial",
        spacing=(1.0, 1.0),
        denoiser={"name": "direct", "sigma_min": 0.001, "sigma_max": 2.0},
        intensity={"map": "percentile", "q": 99.0},
        sha256="0" * 64,
    )


class Pooled(nn.Module):
    """Takes eight times the memory of its input."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x.repeat(1, 8, 1, 1).mean(dim=1, keepdim=True)


def inferer(network: nn.Module | None = None, **options: Any) -> DiffReconInferer:
    chosen: dict[str, Any] = {
        "operator": {"name": "slice_thickness", "thickness": 4.0, "target_spacing": 1.0},
        "sampler": {"name": "annealed", "steps": 3, "sigma_start": 0.2, "sigma_end": 0.05},
    }
    return DiffReconInferer(score(network), progress=False, **(chosen | options))


def thick(edge: int = 16) -> MetaTensor:
    y = torch.rand(1, edge, edge, edge // 4, generator=torch.Generator().manual_seed(0))
    return MetaTensor(y, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    ("edge", "batch", "options"),
    [
        (96, 32, {}),
        (160, 8, {"consistency": {"name": "admm", "regularizers": [{"name": "z_tv"}], "cg_iterations": 2}}),
    ],
    ids=["network", "volumes"],
)
def test_estimate_is_near_the_measured_peak(
    edge: int, batch: int, options: dict[str, Any], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """Of the whole within 30 %, as users see it; of what the run itself adds within a factor of 2."""
    root = make_bundle(tmp_path / "bundle")
    chosen = {
        "operator": {"name": "slice_thickness", "thickness": 4.0, "target_spacing": 1.0},
        "sampler": {"name": "annealed", "steps": 2, "sigma_start": 0.2, "sigma_end": 0.05},
        **options,
    }
    arguments = json.dumps([str(root), edge, batch, chosen])
    done = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["approximate"]
    assert 0.7 <= found["total"] / found["measured"] <= 1.3, found
    grown = found["measured"] - found["before"]
    assert 0.5 <= (found["total"] - found["before"]) / grown <= 2.0, found


def test_parts_follow_the_problem() -> None:
    small, large = (estimate_memory(inferer(sw_batch_size=2), thick(edge)) for edge in (16, 32))
    assert not small.approximate
    assert small.measurement == 4 * 16 * 16 * 4
    assert large.measurement == 8 * small.measurement
    assert large.volumes == pytest.approx(8 * small.volumes, rel=0.1)
    # Eight copies of the batch, and its mean.
    assert small.network == pytest.approx(4 * 2 * 16 * 16 * 9, rel=0.05)
    assert estimate_memory(inferer(sw_batch_size=4), thick()).network == pytest.approx(2 * small.network, rel=0.05)


def test_posterior_and_guidance_are_tried_too() -> None:
    sampler = {"name": "heun", "steps": 3, "sigma_start": 0.2, "sigma_end": 0.05}
    one, four, kept = (
        estimate_memory(inferer(sampler=sampler, num_samples=n, keep_samples=keep), thick(32))
        for n, keep in ((1, False), (4, False), (4, True))
    )
    volume = 4 * 32**3
    assert one.volumes + volume < four.volumes <= kept.volumes - 2 * volume
    guided = estimate_memory(inferer(sampler=sampler, consistency={"name": "dps"}), thick(32))
    assert not guided.approximate
    assert guided.volumes > one.volumes / 2


def test_trial_leaves_no_trace() -> None:
    """Nothing of the tensors without numbers is kept, and no handler of the user's is called."""

    class Handler:
        def attach(self, engine: Any) -> None:
            raise AssertionError("called in a trial")

    reconstructing, y = inferer(), thick()
    before = reconstructing.reconstruct(y).volume
    state = torch.get_rng_state()
    tried = inferer(handlers=[Handler()])
    assert not estimate_memory(tried, y).approximate
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(reconstructing.reconstruct(y).volume, before)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


class Weighted(nn.Module):
    """Pooled, with a weight on a device that cannot compute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1, device="meta"), requires_grad=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (x * self.weight).mean(dim=1, keepdim=True)


def test_memory_of_the_networks_device_is_apart() -> None:
    """The device is not needed for it: here none can compute."""
    here, there = estimate_memory(inferer(Pooled()), thick(32)), estimate_memory(inferer(Weighted()), thick(32))
    assert not there.approximate
    assert list(there.devices) == ["meta"]
    assert there.devices["meta"] == pytest.approx(there.network, rel=0.2)
    assert there.network == pytest.approx(here.network, rel=0.05)
    assert there.total <= here.total + 10**7


class Outside(nn.Module):
    """A network that leaves torch, and cannot do without numbers."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().copy())


def test_what_cannot_be_tried_is_estimated_by_a_rule() -> None:
    found = estimate_memory(inferer(Outside()), thick())
    assert found.approximate
    assert found.total > found.base > 0
    assert "roughly" in found.lines()[0]


def test_warning_says_what_is_missing() -> None:
    estimate = MemoryEstimate(10**9, 0, 0, 0, 0, total=3 * 10**9, devices={"cuda": 5 * 10**8})
    assert estimate.check({"cpu": 2 * 10**9, "cuda": 5 * 10**8}) == []
    (line,) = estimate.check({"cpu": 10**9, "cuda": None})
    assert line == "memory may not suffice: the run will take about 2.00 GB more, 1.00 GB are free"
    (line,) = estimate.check({"cpu": None, "cuda": 10**8})
    assert line.startswith("memory of cuda may not suffice")
    assert estimate.check(10**12) == []
    assert len(estimate.lines()) == 2
    assert estimate.summary() == "3.00 GB and 0.50 GB of cuda"


def test_nobody_is_warned_with_plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def count(*args: Any) -> None:
        tried.append(True)

    monkeypatch.setattr(memory_estimate, "trial", count)
    for free, warnings in ((10**12, 0), (None, 0), (10**6, 1)):
        monkeypatch.setattr(memory_estimate, "available_memory", lambda device, free=free: free)
        assert len(memory_warnings(inferer(), thick())) == warnings
    assert tried == [True]


def test_tensors_are_counted_while_they_live() -> None:
    held = torch.zeros(1000, 1000)
    trace = AllocationTrace(heap_factor=1.0)
    with trace:
        a = held + 1
        view = a[10:]
        a = a * 2
        assert trace.live["cpu"] == 8_000_000  # the view keeps the first
        del view
        assert trace.live["cpu"] == 4_000_000
        a.add_(held)
        ladder = torch.linspace(1.0, 0.0, 5)
        assert ladder.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert (float(a.norm()), bool(torch.isfinite(a).all()), bool((a < 0).any())) == (1.0, True, False)
        with trace.call():
            (a @ a).relu()
    assert trace.peak["cpu"] == 12_000_000
    assert trace.call_peak == 8_000_000
    assert trace.resident == pytest.approx(12_000_000, rel=1e-3)
    assert not held.any()


def test_memory_of_process_and_machine() -> None:
    free = available_memory()
    if sys.platform == "linux":
        assert free is not None
        assert free > 0
    assert 0 < resident_memory() <= peak_memory()
