# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A reconstruction on a GPU is that of a CPU, can be interrupted, and gives way when memory runs out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_diffrecon import DiffReconInferer
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.transforms import SimulateMeasurementd

from ..engine.tiny_networks import CORONAL, SCORE, tiny

SHAPE = (1, 40, 36, 32)
COILS = torch.randn((2, *SHAPE[1:]), generator=torch.Generator().manual_seed(5), dtype=torch.complex64)
THICK: dict[str, Any] = {"name": "slice_thickness", "thickness": 4.0}
PNP_HQS: dict[str, Any] = {"name": "pnp_hqs", "steps": 4, "sigma_start": 0.2, "momentum": 0.8}
DDIM: dict[str, Any] = {"name": "ddim", "steps": 4, "sigma_start": 0.5, "eta": 0.85}
ADMM = {"name": "admm", "regularizers": [{"name": "z_tv"}]}
#: Task -> its operator and the options of the inferer.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "z-super-resolution": (THICK, {}),
    "z-super-resolution, ADMM": (THICK, {"consistency": ADMM, "prior": {"name": "perpendicular", "K": "average"}}),
    "sparse-view CT": ({"name": "parallel_ct", "views": 20}, {"sampler": DDIM}),
    "limited-angle CT": ({"name": "parallel_ct", "views": 20, "arc": 120.0}, {"consistency": ADMM}),
    "fan-beam CT": ({"name": "fan_ct", "views": 20, "source_distance": 100.0, "detector_distance": 150.0}, {}),
    "2D MRI": ({"name": "cartesian_mri", "acceleration": 3.0, "complex_volume": True}, {}),
    "2D MRI of coils": ({"name": "cartesian_mri", "acceleration": 3.0, "coil_maps": COILS}, {}),
    "3D MRI": ({"name": "cartesian_mri_3d", "acceleration": 3.0, "complex_volume": True}, {"complex": "channels"}),
    "guided": (THICK, {"sampler": DDIM, "consistency": {"name": "dps", "zeta": 1.0}}),
    "predictor-corrector": (THICK, {"sampler": {"name": "predictor_corrector", "steps": 4}}),
    "classical": ({"name": "parallel_ct", "views": 20}, {"sampler": {"name": "admm_tv", "iterations": 6}}),
}


def measured(operator: dict[str, Any]) -> Tensor:
    noise = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    volume = 500 * nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
    return SimulateMeasurementd(["image"], operator, noise=0.01)({"image": MetaTensor(volume)})["image"]


def on(score: ScoreNetwork, device: str, seed: int) -> ScoreNetwork:
    return replace(score, network=tiny(seed).to(device))


def inferer(device: str, operator: dict[str, Any] = THICK, **options: Any) -> DiffReconInferer:
    arguments: dict[str, Any] = {"sampler": PNP_HQS, "prior": {"name": "perpendicular", "K": 2}, "progress": False}
    arguments |= {"auxiliaries": [on(CORONAL, device, 1)], "device": device, "precision": "float32"}
    return DiffReconInferer(on(SCORE, device, 0), operator, **{**arguments, **options})


def assert_same(found: Tensor, wanted: Tensor, tolerance: float = 1e-3) -> None:
    assert bool(torch.isfinite(wanted).all())
    error = float((found.cpu() - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance, f"relative error {error:.2g}"


@pytest.mark.parametrize("task", TASKS)
def test_a_task_gives_the_volume_of_the_cpu(task: str, device: str) -> None:
    operator, options = TASKS[task]
    scan = measured(operator)
    wanted = inferer("cpu", operator, **options).reconstruct(scan, case="c")
    found = inferer(device, operator, **options).reconstruct(scan, case="c")
    assert_same(found.volume, wanted.volume)
    assert found.report.denoiser_calls == wanted.report.denoiser_calls
    again = inferer(device, operator, **options).reconstruct(scan, case="c")
    assert_same(again.volume, found.volume.cpu(), 1e-5)


def test_monai_s_own_call_with_a_batch_on_the_device(device: str) -> None:
    scan = measured(THICK)
    maker = inferer(device)
    volumes = maker(MetaTensor(scan)[None].to(device), maker.score.network)
    wanted = inferer("cpu").reconstruct(scan)
    assert_same(torch.as_tensor(volumes)[0], wanted.volume)


@pytest.mark.parametrize("options", [{}, {"sampler": DDIM}, {"consistency": ADMM}], ids=["default", "ddim", "admm"])
def test_an_interrupted_run_gives_the_same_bits(options: dict[str, Any], device: str, tmp_path: Path) -> None:
    scan, path = measured(THICK), tmp_path / "checkpoint.pt"
    whole = inferer(device, **options).reconstruct(scan, case="c")

    class Interrupt:
        steps = 0

        def attach(self, engine: Any) -> None:
            engine.add_event_handler(StepEvents.STEP_COMPLETED, self.count)

        def count(self, engine: Any) -> None:
            self.steps += 1
            if self.steps == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inferer(device, **options).reconstruct(scan, case="c", handlers=[Interrupt()], checkpoint=RunCheckpoint(path))
    assert path.is_file()
    done = inferer(device, **options).reconstruct(scan, case="c", checkpoint=RunCheckpoint(path, resume="require"))
    assert torch.equal(done.volume, whole.volume)
    assert done.report.execution["resumed"] == 1


def test_windows_on_a_plane_larger_than_they_are(device: str) -> None:
    scan = measured(THICK)
    wanted = inferer("cpu", window=(16, 16)).reconstruct(scan, case="c")
    found = inferer(device, window=(16, 16)).reconstruct(scan, case="c")
    assert found.report.network_calls > found.report.denoiser_calls
    assert_same(found.volume, wanted.volume)


class Hungry(nn.Module):
    """A network that takes 256 MiB a slice beside its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny(0)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        extra = torch.zeros(len(x), 1 << 26, device=x.device)
        return self.inner(x, sigma) + extra[:, :1, None, None]


def test_memory_that_runs_out_halves_the_batches(device: str) -> None:
    scan = measured(THICK)
    wanted = inferer("cpu").reconstruct(scan, case="c")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min((torch.cuda.memory_reserved() + 3 * 2**29) / total, 1.0))
    try:
        maker = inferer(device, sw_batch_size=16)
        maker.score = replace(SCORE, network=Hungry().eval().requires_grad_(False).to(device))
        found = maker.reconstruct(scan, case="c")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert found.report.fallbacks
    assert found.report.execution["batch_sizes"]["axial"] < 16
    assert_same(found.volume, wanted.volume)
