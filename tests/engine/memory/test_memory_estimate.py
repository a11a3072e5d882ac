# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run's memory, what it is made of, and the warning before a run."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.memory import machine_memory, memory_estimate
from monai_diffrecon.engine.memory.machine_memory import PeakMemory, available_memory, resident_memory
from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate, estimate_memory, network_memory
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler

from ..tiny_networks import SCORE

SLICES = {"name": "slice_thickness", "thickness": 4.0, "target_spacing": 1.0}
SAMPLER = {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.2, "sigma_end": 0.05}


def inferer(network: nn.Module | None = None, **options: Any) -> DiffReconInferer:
    score = SCORE if network is None else replace(SCORE, network=network)
    return DiffReconInferer(score, progress=False, **({"operator": SLICES, "sampler": SAMPLER} | options))


def thick(edge: int = 16) -> MetaTensor:
    y = torch.rand(1, edge, edge, edge // 4, generator=torch.Generator().manual_seed(0))
    return MetaTensor(y, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is set back through /proc")
def test_estimate_is_near_the_measured_peak() -> None:
    """What the run adds, within a factor of 2."""
    # In a process of its own: memory that earlier tests left to the allocator would be used again, and not counted.
    code = f"from {__name__} import _estimated_and_grown; print(*_estimated_and_grown())"
    root = Path(__file__).parents[3]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, timeout=220)
    estimated, grown = map(float, said.stdout.split())
    assert 0.5 <= estimated / grown <= 2.0, (estimated, grown)


def _estimated_and_grown() -> tuple[float, float]:
    """Volumes so large that the allocator keeps none of them."""
    operator = SliceThickness(VolumeGeometry((208, 208, 208)), thickness=4.0)
    problem = Problem(operator, torch.rand(operator.measurement_shape, generator=torch.Generator().manual_seed(0)))
    prior = SlicesPrior()
    prior.bind([BatchedPlaneDenoiser(DirectDenoiser(SCORE.network), "axial")])
    consistency, sampler = ConjugateGradientStep(2), PnPHQSSampler(2, sigma_start=0.2, sigma_end=0.05, momentum=0.8)
    engine = ReconstructionEngine(problem, prior, consistency, sampler, IndependentNoise(0))
    estimate = estimate_memory(problem, network_memory(SCORE.network, operator.volume_shape[1:], batch_size=8))
    peak = PeakMemory()
    engine.reconstruct(seed=0, case="")
    measured = peak.gigabytes()
    assert measured is not None
    return estimate.total - estimate.base, measured * 1e9 - estimate.base


def test_parts_follow_the_problem() -> None:
    small, large = (inferer(sw_batch_size=2).memory_estimate(thick(edge)) for edge in (16, 32))
    assert small.measurement == 4 * 16 * 16 * 4
    for part in ("measurement", "volumes"):
        assert getattr(large, part) == 8 * getattr(small, part)
    assert 8 <= small.volumes / (4 * 16**3) <= 14  # as counted in runs
    assert large.network == 4 * small.network
    assert inferer(sw_batch_size=4).memory_estimate(thick()).network == 2 * small.network
    assert small.total - small.base > small.volumes + small.network
    assert not small.devices


def test_volumes_of_samples_and_gradients_are_added() -> None:
    sampler = {"name": "heun", "steps": 3, "sigma_start": 0.2, "sigma_end": 0.05}
    one, four, kept = (
        inferer(sampler=sampler, num_samples=n, keep_samples=keep).memory_estimate(thick())
        for n, keep in ((1, False), (4, False), (4, True))
    )
    assert one.volumes < four.volumes == kept.volumes - 4 * 4 * 16**3
    guided = inferer(sampler=sampler, consistency={"name": "dps"}).memory_estimate(thick())
    assert guided.network > one.network


def test_a_classical_method_calls_no_network() -> None:
    assert inferer(sampler="cubic").memory_estimate(thick()).network == 0


def test_activations_follow_width_slices_and_windows() -> None:
    narrow, wide = (nn.Conv2d(1, width, 3) for width in (8, 64))
    shape = (10, 20, 30)
    assert network_memory(wide, shape, batch_size=2) == 8 * network_memory(narrow, shape, batch_size=2)
    assert network_memory(narrow, shape, batch_size=2) >= 4 * 2 * 8 * 20 * 30
    windowed = network_memory(narrow, shape, batch_size=2, window=(10, 20))
    assert 3 * windowed == network_memory(narrow, shape, batch_size=2)
    assert network_memory(narrow, shape, batch_size=900) == network_memory(narrow, shape, batch_size=30)


def test_complex_volumes_and_tables_of_the_operator_count() -> None:
    maps = torch.full((2, 16, 16, 4), 0.5**0.5, dtype=torch.complex64)
    operator = CartesianMRI(VolumeGeometry((16, 16, 4)), coil_maps=maps, complex_volume=True)
    y = torch.zeros(operator.measurement_shape, dtype=torch.complex64)
    found = estimate_memory(Problem(operator, y))
    assert found.measurement == 8 * y.numel()
    assert 8 <= found.volumes / (8 * 16 * 16 * 4) <= 14
    assert found.operator >= 8 * maps.numel()


class Elsewhere(nn.Module):
    """A network with its weight on a device that cannot compute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 1, 1, 1, device="meta"), requires_grad=False)


def test_memory_of_the_networks_device_is_apart() -> None:
    there = inferer(Elsewhere(), volume_device="cpu").memory_estimate(thick())
    assert there.devices == {"meta": there.network}
    assert there.total - there.base < there.volumes + 10**8


def test_volumes_on_the_networks_device_take_no_memory_of_the_host() -> None:
    here, there = inferer().memory_estimate(thick()), inferer(Elsewhere()).memory_estimate(thick())
    assert there.devices == {"meta": there.network + there.volumes + 2 * there.measurement + there.operator}
    assert here.total - here.base - (there.total - there.base) == here.network + here.volumes + here.measurement


def test_warning_says_what_is_missing() -> None:
    estimate = MemoryEstimate(10**9, 0, 0, 0, 0, total=3 * 10**9, devices={"cuda": 5 * 10**8})
    assert estimate.check({"cpu": 2 * 10**9, "cuda": 5 * 10**8}) == []
    (line,) = estimate.check({"cpu": 10**9, "cuda": None})
    assert line == "memory may be insufficient: the run needs roughly 2.00 GB more, and 1.00 GB are free"
    (line,) = estimate.check({"cpu": None, "cuda": 10**8})
    assert line.startswith("memory of cuda may be insufficient")
    assert estimate.check(10**12) == []
    assert len(estimate.lines()) == 2
    assert all("roughly" in line for line in estimate.lines())
    assert estimate.summary() == "3.00 GB and 0.50 GB of cuda"


@pytest.mark.parametrize(("free", "warnings"), [(10**12, 0), (None, 0), (10**6, 1)])
def test_a_run_warns_when_memory_may_not_suffice(
    free: int | None, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: free)
    report = inferer().reconstruct(thick(), case="one").report
    said = [record for record in caplog.records if "memory may be insufficient" in record.message]
    assert len(said) == warnings
    assert all(record.levelno == logging.WARNING and "case one" in record.message for record in said)
    assert not any("memory" in notice for notice in report.notices)  # the machine is no property of the scan


def test_memory_of_process_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**7 < resident_memory() < psutil.virtual_memory().total
    free = available_memory()
    assert free is not None
    assert 0 < free < psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine_memory, "_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    limit.write_text(f"{resident_memory() + 10**6}\n")
    assert available_memory() == pytest.approx(10**6, abs=10**6)
    limit.write_text("1000\n")
    assert available_memory() == 0
