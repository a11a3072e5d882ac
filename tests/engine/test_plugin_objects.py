# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins handed to the inferer as instances and as classes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.consistency.admm import ADMMStep
from monai_diffrecon.consistency.dps import DPSStep
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine, StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import ConfigError, PluginError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.samplers.classical.admm_tv import ADMMTV
from monai_diffrecon.samplers.ddim import DDIMSampler
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

from .tiny_networks import SCORE

GEOMETRY = VolumeGeometry((8, 7, 12))
OPERATOR = SliceThickness(GEOMETRY, thickness=3.0)
SCAN = MetaTensor(
    OPERATOR(torch.rand(OPERATOR.volume_shape, generator=torch.Generator().manual_seed(3))),
    affine=torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])),
)
NAMED: dict[str, Any] = {
    "operator": {"name": "slice_thickness", "thickness": 3.0},
    "prior": "slices",
    "consistency": {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.02}]},
    "sampler": {"name": "ddim", "steps": 3, "sigma_start": 0.5, "start": {"name": "admm_tv", "iterations": 2}},
    "noise": "independent",
}
DDIM = {"steps": 3, "sigma_start": 0.5}


class Mine(DDIMSampler):
    """A sampler that is in no package."""


class Thick(SliceThickness):
    """An operator that is in no package."""


def run(**given: Any) -> Reconstruction:
    return DiffReconInferer(SCORE, **{**NAMED, **given}, progress=False).reconstruct(SCAN)


@pytest.fixture(scope="module")
def named() -> Tensor:
    return run().volume


@pytest.mark.parametrize(
    "given",
    [
        {"operator": OPERATOR},
        {"operator": SliceThickness},
        {"operator": Thick},
        {"operator": {"name": Thick, "thickness": 3.0}},
        {"prior": SlicesPrior()},
        {"prior": SlicesPrior},
        {"consistency": ADMMStep([ZTV(0.02)])},
        {"consistency": {"name": "admm", "regularizers": [ZTV(0.02)]}},
        {"sampler": DDIMSampler(3, sigma_start=0.5, start=ADMMTV(iterations=2))},
        {"sampler": {"name": "ddim", **DDIM, "start": ADMMTV(iterations=2)}},
        {"sampler": {"name": Mine, **DDIM, "start": {"name": ADMMTV, "iterations": 2}}},
        {"noise": IndependentNoise(0, "")},
        {"noise": IndependentNoise},
    ],
    ids=lambda given: str(given)[:40],
)
def test_an_object_gives_what_its_name_gives(given: dict[str, Any], named: Tensor) -> None:
    assert torch.equal(run(**given).volume, named)


def test_the_record_names_an_object_and_one_notice_says_what_that_means(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = run(sampler={"name": "ddim", **DDIM, "start": ADMMTV()}, consistency=ADMMStep(ZTV())).report
    options = json.loads(json.dumps(report.options))
    assert options["consistency"] == {"name": "monai_diffrecon.consistency.admm:ADMMStep"}
    assert options["sampler"] == {
        "name": "ddim",
        **DDIM,
        "start": {"name": "monai_diffrecon.samplers.classical.admm_tv:ADMMTV"},
    }
    (notice,) = [text for text in report.notices if "given as an object" in text]
    assert "ADMMStep" in notice
    assert "ADMMTV" in notice
    assert sum(notice in message for message in caplog.messages) == 1


def test_a_registered_class_is_as_good_as_its_name() -> None:
    report = run(prior=SlicesPrior, sampler={"name": DDIMSampler, **DDIM}).report
    assert report.options["prior"] == {"name": "monai-diffrecon:slices"}
    assert report.options["sampler"] == {"name": "monai-diffrecon:ddim", **DDIM}
    assert [text for text in report.notices if "object" in text] == []
    assert [text for text in run(sampler={"name": Mine, **DDIM}).report.notices if "Mine" in text]


def test_a_run_of_an_object_is_not_taken_for_another_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    first, second = (DiffReconInferer(SCORE, **{**NAMED, "sampler": Mine(4, eta=e)}, progress=False) for e in (0, 1))
    assert first.identity(SCAN) == first.identity(SCAN)
    assert first.identity(SCAN) != second.identity(SCAN)
    checkpoint = RunCheckpoint(tmp_path / "run.ckpt", every=1)
    first.reconstruct(SCAN, checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == []
    named = DiffReconInferer(SCORE, **NAMED, progress=False)
    named.reconstruct(SCAN, checkpoint=RunCheckpoint(tmp_path / "run.ckpt", every=1))
    assert list(tmp_path.iterdir()) != []


@pytest.mark.parametrize(
    "geometry", [VolumeGeometry((8, 7, 12), (1.0, 1.0, 0.9)), VolumeGeometry((8, 7, 12), (1.2, 1.0, 1.0))]
)
def test_an_operator_of_another_volume_is_refused(geometry: VolumeGeometry) -> None:
    operator = SliceThickness(geometry, thickness=3 * geometry.spacing[2])
    with pytest.raises(ConfigError) as caught:
        run(operator=operator)
    assert caught.value.where == "operator"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "error", "where"),
    [
        ({"sampler": ZTV()}, ConfigError, "sampler"),
        ({"sampler": ZTV}, PluginError, "sampler"),
        ({"prior": ZTV()}, ConfigError, "prior"),
        ({"sampler": {"name": Mine, "step": 3}}, ConfigError, "sampler#step"),
        ({"sampler": {"name": Mine(3), "steps": 3}}, ConfigError, "sampler"),
        ({"sampler": {"name": "ddim", "start": ZTV()}}, ConfigError, "sampler#start"),
        ({"sampler": 3}, ConfigError, "sampler"),
        ({"sampler": int}, ConfigError, "sampler"),
    ],
)
def test_what_is_no_such_plugin_is_refused(given: dict[str, Any], error: type[Exception], where: str) -> None:
    with pytest.raises(error) as caught:
        run(**given)
    assert caught.value.where == where  # type: ignore[attr-defined]


def test_an_instance_serves_several_inferers() -> None:
    sampler = Mine(3, sigma_start=0.5)
    scores = (SCORE, replace(SCORE, name="other"))
    runs = [DiffReconInferer(score, **{**NAMED, "sampler": sampler}, progress=False) for score in scores]
    first, second = (each.reconstruct(SCAN).volume for each in runs)
    assert torch.equal(first, second)


class Blurred(ADMMStep):
    """A step with every hook, which counts in an object of its caller's."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__([ZTV(0.02)])
        self.calls = calls

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        self.calls.append(state.step)
        return super().on_estimate(x0, state)


def test_an_instance_stays_as_it_is() -> None:
    """Neither the run nor what it binds can be seen in it, nor in the plugins it holds."""
    calls: list[int] = []
    step, sampler, prior = Blurred(calls), Mine(3, sigma_start=0.5, start=ADMMTV()), SlicesPrior()
    held = [step, step.regularizers[0], sampler, sampler.start, prior]
    before = [dict(vars(plugin)) for plugin in held]
    given: dict[str, Any] = {"consistency": step, "sampler": sampler, "prior": prior}
    first, second = run(**given), run(**given)
    assert torch.equal(first.volume, second.volume)
    assert [vars(plugin) for plugin in held] == before
    assert type(step) is Blurred
    assert calls == [0, 1, 2] * 2


def test_an_instance_serves_two_engines_at_the_same_time() -> None:
    """Step by step in turn, on two measurements; each is what it is alone."""
    step, sampler = Blurred([]), Mine(3, sigma_start=0.5)
    problems = [Problem(OPERATOR, OPERATOR(torch.full(OPERATOR.volume_shape, v))) for v in (0.3, 0.6)]

    def engine(problem: Problem, step: ADMMStep, sampler: Mine) -> ReconstructionEngine:
        prior = SlicesPrior()
        prior.bind([GaussianPrior()])
        return ReconstructionEngine(problem, prior, step, sampler, IndependentNoise(0))

    alone = [engine(p, Blurred([]), Mine(3, sigma_start=0.5)).reconstruct(seed=0, case="").x for p in problems]
    first, second = (engine(problem, step, sampler) for problem in problems)
    found: dict[int, Tensor] = {}

    def other(e: Any) -> None:
        if e.state.recon.step == 1:
            found[1] = second.reconstruct(seed=0, case="").x

    first.add_event_handler(StepEvents.STEP_COMPLETED, other)
    found[0] = first.reconstruct(seed=0, case="").x
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], alone[1])


def test_guidance_is_asked_for_only_where_there_is_one() -> None:
    for step, guided in ((Blurred([]), False), (DPSStep(), True)):
        prior = SlicesPrior()
        prior.bind([GaussianPrior()])
        problem = Problem(OPERATOR, OPERATOR(torch.ones(OPERATOR.volume_shape)))
        engine = ReconstructionEngine(problem, prior, step, Mine(3), IndependentNoise(0))
        assert (type(engine.consistency).guidance is not ConsistencyStep.guidance) == guided
        assert isinstance(engine.consistency, type(step))
