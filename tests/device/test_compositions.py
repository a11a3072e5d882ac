# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Compositions of all plugins run with everything on a GPU, and wait for it rarely.

A composition is one plugin of each kind. Every operator meets every sampler and every consistency step, and every
plugin is in one with each of its configurations: mismatches come from one plugin, or from what one hands to another.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.engine.devices.placement import problem_on
from monai_diffrecon.engine.handlers.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.complex_plane_denoiser import ComplexPlaneDenoiser
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine, StepEvents
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.protocols import PlaneDenoiser, Problem

from ..test_laws_of_all_plugins import CONFIGURATIONS, GEOMETRY, Network
from .meta_gpu import GPU, MetaGPU, meta_gpu

KINDS = ("operators", "denoisers", "priors", "consistency", "samplers", "noises")
#: What stands for a kind where another one varies.
DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "operators": ("slice_thickness", {"thickness": 1.8}),
    "denoisers": ("direct", {}),
    "priors": ("slices", {}),
    "consistency": ("conjugate_gradient", {}),
    "samplers": ("pnp_hqs", {"steps": 2}),
    "noises": ("independent", {}),
}
#: (kind, name) -> why a plugin cannot be run on a GPU that computes nothing.
NOT_RUN = {("operators", "noncartesian_mri"): "finufft and cufinufft are given addresses of numbers"}
#: Operators that compute on the host -> why. Their measurements and volumes are copied there and back.
ON_HOST = {"cone_beam_ct": "RTK projects arrays of the host"}
#: Most synchronisations and uploads a step, outside of conjugate gradients.
SYNCS, UPLOADS = 5, 6
#: Further uploads of a complex volume: matrices of the mean that makes its phase smooth, and of the local power.
OF_THE_PHASE = 9

Chosen = dict[str, tuple[str, dict[str, Any]]]


def plugins(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return all registered plugins of a kind that can run, each with all its configurations."""
    names = [info.name for info in registry.available(kind) if (kind, info.name) not in NOT_RUN]
    return [(name, options) for name in names for options in CONFIGURATIONS.get((kind, name), [])]


def first_of(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return all plugins of a kind, each with its first configuration."""
    return list({name: (name, options) for name, options in reversed(plugins(kind))}.values())


def compositions(operator: tuple[str, dict[str, Any]]) -> list[Chosen]:
    """Return compositions of an operator with every sampler and every consistency step; the others take turns."""
    others = {kind: first_of(kind) for kind in KINDS if kind != "operators"}
    turn = [name for name, _ in first_of("operators")].index(operator[0])
    found = []
    for i, sampler in enumerate(others["samplers"]):
        chosen = {kind: options[(i + turn) % len(options)] for kind, options in others.items()}
        found.append({**chosen, "operators": operator, "samplers": sampler})
    return found[:2] if operator[0] in ON_HOST else found  # these compute, and take their time


def engine_of(chosen: Chosen, device: torch.device) -> ReconstructionEngine:
    """Return an engine with operator, measurement and network on a device."""

    def make(kind: str, **given: Any) -> Any:
        name, options = chosen[kind]
        return registry.create(kind, name, **{**given, **options})

    operator = make("operators", geometry=GEOMETRY)
    y = torch.ones(operator.measurement_shape, dtype=torch.complex64 if operator.complex_measurement else torch.float32)
    prior, noise = make("priors"), make("noises", seed=0, case="")
    planes: list[PlaneDenoiser] = []
    for plane in ("axial", "coronal", "sagittal")[: 1 if prior.max_planes == 1 else 3]:
        inner = BatchedPlaneDenoiser(make("denoisers", network=Network().eval().to(device)), plane, batch_size=4)
        complex_volume = operator.complex_volume
        planes.append(ComplexPlaneDenoiser(inner, "phase", GEOMETRY.spacing) if complex_volume else inner)
    prior.observe(operator)
    prior.bind(planes, noise)
    problem = problem_on(Problem(operator, y, 0.05 if y.numel() else 0.0), device)
    engine = ReconstructionEngine(problem, prior, make("consistency"), make("samplers"), noise)
    for handler in (NonFiniteGuard(), StepMetrics()):
        handler.attach(engine)
    return engine


class Costs:
    """Handler that checks what each step but the first waits for and uploads."""

    def __init__(self, gpu: MetaGPU, chosen: Chosen) -> None:
        self.gpu, self.chosen = gpu, chosen
        self.on_host = chosen["operators"][0] in ON_HOST
        self.uploads = UPLOADS

    def attach(self, engine: Any) -> None:
        self.uploads += OF_THE_PHASE if engine.problem.operator.complex_volume else 0
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if engine.recon.step and not self.on_host and "memory_limit_gb" not in self.chosen["operators"][1]:
            assert self.gpu.syncs.total() <= SYNCS, (self.chosen, self.gpu.syncs)
            assert self.gpu.uploads.total() <= self.uploads, (self.chosen, self.gpu.uploads)
        self.gpu.clear()


def failure(chosen: Chosen, device: torch.device) -> type[Exception] | None:
    """Return the type of error that a composition ends with on a device; None for none."""
    try:
        engine_of(chosen, device).reconstruct(seed=0, case="")
    except DiffReconError as error:
        return type(error)
    return None


def check(chosen: Chosen) -> bool:
    """Run a composition on the GPU; return whether it ran. What ends with an error does so on the CPU too."""
    with meta_gpu() as gpu:
        try:
            engine = engine_of(chosen, GPU)
            Costs(gpu, chosen).attach(engine)
            x = engine.reconstruct(seed=0, case="").x
        except DiffReconError as error:
            ended: Exception | None = error
        else:
            ended = None
            assert x.device == GPU, chosen
    if ended is not None and failure(chosen, torch.device("cpu")) is not type(ended):
        raise AssertionError(f"only on a GPU, with {chosen}") from ended
    return ended is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("operator", first_of("operators"), ids=lambda operator: operator[0])
def test_every_sampler_and_consistency_step_on_the_device(operator: tuple[str, dict[str, Any]]) -> None:
    ran = [check(chosen) for chosen in compositions(operator)]
    assert sum(ran) >= len(ran) / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_configuration_on_the_device(kind: str) -> None:
    for plugin in plugins(kind):
        check({**DEFAULTS, kind: plugin})


def test_operators_of_the_host_return_to_the_device() -> None:
    """Also fails when an entry of the table is no longer needed."""
    for name in ON_HOST:
        with meta_gpu() as gpu:
            operator = registry.create("operators", name, geometry=GEOMETRY, **CONFIGURATIONS["operators", name][0])
            y = operator(torch.ones(operator.volume_shape, device=GPU))
            assert operator.adjoint(y).device == operator.initial(y).device == y.device == GPU
            assert gpu.syncs.total() == 3
            assert gpu.uploads.total() >= 3


@pytest.mark.parametrize(("kind", "name"), NOT_RUN)
def test_what_is_not_run_cannot_be(kind: str, name: str) -> None:
    """Also fails when an entry of the table is no longer needed."""
    chosen = {**DEFAULTS, kind: (name, CONFIGURATIONS[kind, name][0])}
    with meta_gpu(), pytest.raises(Exception):  # noqa: B017, PT011
        engine_of(chosen, GPU).reconstruct(seed=0, case="")


def test_a_mismatch_is_found() -> None:
    """What a plugin keeps on the host and adds to a volume on the device."""
    with meta_gpu(), pytest.raises(RuntimeError, match="on the GPU and on the host"):
        torch.ones(3, device=GPU) + torch.ones(3)


def test_reads_and_uploads_are_counted() -> None:
    with meta_gpu() as gpu:
        x = torch.as_tensor([1.0, 2.0], device=GPU)
        assert float(x.sum()) == 1.0
        assert x.cpu().tolist() == [1.0, 1.0]
        x[0] = 2.0
    assert (gpu.syncs.total(), gpu.uploads.total()) == (2, 1)
