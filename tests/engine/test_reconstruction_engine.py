# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The engine and the handlers that attach to it, on a Gaussian prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.engine.handlers.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.handlers.preview_pictures import PreviewPictures
from monai_diffrecon.engine.handlers.progress_bar import ProgressBar
from monai_diffrecon.engine.handlers.step_metrics import StepMetrics
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine, StepEvents
from monai_diffrecon.errors import ConfigError, NumericalError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.priors.slices import SlicesPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, Sampler, SamplerState, ScorePrior, VolumeGeometry
from monai_diffrecon.samplers.classical.initial import InitialEstimate
from monai_diffrecon.samplers.ddim import DDIMSampler
from monai_diffrecon.samplers.heun import HeunSampler
from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

from ..raising import raises

OPERATOR = SliceThickness(VolumeGeometry((12, 11, 12)), thickness=3.0)


def problem() -> Problem:
    truth = 0.5 + 0.25 * torch.randn(OPERATOR.volume_shape, generator=torch.Generator().manual_seed(0))
    return Problem(OPERATOR, OPERATOR(truth))


def engine(
    sampler: Sampler, consistency: ConsistencyStep | None = None, prior: ScorePrior | None = None
) -> ReconstructionEngine:
    if prior is None:
        prior = SlicesPrior()
        prior.bind([GaussianPrior()])
    return ReconstructionEngine(problem(), prior, consistency or ConjugateGradientStep(), sampler, IndependentNoise(0))


class Diary:
    """Handler that notes every event in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def attach(self, engine: Any) -> None:
        for event in (Events.STARTED, Events.COMPLETED, *StepEvents):
            engine.add_event_handler(event, lambda _, name=event.value: self.lines.append(name))
        engine.add_event_handler(StepEvents.STEP_COMPLETED, lambda e: self.steps.append(e.state.recon.step))


@pytest.mark.parametrize("sampler", [PnPHQSSampler(3), DDIMSampler(3)])
def test_events_fire_in_order(sampler: Sampler) -> None:
    run, diary = engine(sampler), Diary()
    diary.attach(run)
    run.reconstruct(seed=0, case="")
    assert diary.lines == ["started", *["denoised", "corrected", "consistent", "step_completed"] * 3, "completed"]
    assert diary.steps == [1, 2, 3]
    assert run.denoiser_calls == 3


def test_the_residual_is_that_of_the_operator_as_the_step_has_it() -> None:
    other = SliceThickness(OPERATOR.geometry, thickness=3.0, profile="gaussian")

    class Refining(ConjugateGradientStep):
        def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
            self._problem = Problem(other, self.problem.measurement)
            return x0

    run = engine(PnPHQSSampler(2), Refining())
    run.reconstruct(seed=0, case="")
    x, y = run.iterate(), run.problem.measurement
    assert run.residual_norm() == other.residual_norm(x, y) != OPERATOR.residual_norm(x, y)


def test_a_second_order_sampler_denoises_twice_a_step_but_the_last() -> None:
    run, diary = engine(HeunSampler(3)), Diary()
    diary.attach(run)
    run.reconstruct(seed=0, case="")
    assert diary.lines.count("denoised") == run.denoiser_calls == 5
    assert diary.lines.count("step_completed") == 3


def test_every_network_of_an_average_counts() -> None:
    planes = [GaussianPrior(plane="axial"), GaussianPrior(plane="coronal")]
    prior = PerpendicularPrior(K="average")
    prior.bind(planes)
    run = engine(PnPHQSSampler(4), prior=prior)
    run.reconstruct(seed=0, case="")
    assert run.denoiser_calls == 8 == sum(plane.calls for plane in planes)


def test_handlers_see_the_estimate_and_the_iterate() -> None:
    run, seen = engine(PnPHQSSampler(2)), []
    run.add_event_handler(StepEvents.DENOISED, lambda e: seen.append((e.state.recon.sigma, e.state.estimate)))
    last = run.reconstruct(seed=0, case="x")
    assert [sigma for sigma, _ in seen] == pytest.approx(list(run.ladder))
    assert last.case == "x"
    assert last.x.shape == seen[-1][1].shape == OPERATOR.volume_shape
    assert not last.x.requires_grad
    assert run.start_seconds > 0
    assert 0 < run.denoiser_seconds < 60


class Finisher(ConsistencyStep):
    """Adds 1 to the result, and notes when."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_result(self, x: Tensor, state: SamplerState) -> Tensor:
        assert not torch.is_grad_enabled()
        self.steps.append(state.step)
        return x + 1.0


def test_the_result_is_corrected_once_after_the_last_step() -> None:
    finisher = Finisher()
    run = engine(DDIMSampler(4), finisher)
    state = run.reconstruct(seed=0, case="")
    plain = engine(DDIMSampler(4), NoConsistency()).reconstruct(seed=0, case="")
    assert finisher.steps == [4]
    torch.testing.assert_close(state.x, plain.x + 1.0)
    assert run.recon is state


def test_a_classical_method_takes_no_step() -> None:
    run, diary = (
        ReconstructionEngine(problem(), None, ConjugateGradientStep(), InitialEstimate(), IndependentNoise(0)),
        Diary(),
    )
    diary.attach(run)
    last = run.reconstruct(seed=0, case="")
    torch.testing.assert_close(last.x, OPERATOR.initial(run.problem.measurement))
    assert diary.lines == []
    assert run.ladder == ()


def test_the_ladder_must_be_known_to_all_networks() -> None:
    prior = PerpendicularPrior()
    prior.bind([GaussianPrior(sigma_max=1.0), GaussianPrior(plane="coronal", sigma_max=0.2)])
    with raises(ConfigError, where="sampler#sigma_start", got="0.5"):
        engine(PnPHQSSampler(sigma_start=0.5), prior=prior).reconstruct(seed=0, case="")


def test_the_residual_falls_and_is_kept() -> None:
    run, metrics = engine(DDIMSampler(6, eta=0.0, sigma_start=1.0)), StepMetrics()
    metrics.attach(run)
    run.reconstruct(seed=0, case="")
    assert [row["step"] for row in metrics.history] == [1, 2, 3, 4, 5, 6]
    assert [row["sigma"] for row in metrics.history] == list(run.ladder)
    assert metrics.history[-1]["residual"] == run.state.metrics["residual"] < 1e-2
    assert metrics.history[0]["residual"] > 10 * metrics.history[-1]["residual"]


def test_metrics_at_every_second_step_and_the_last() -> None:
    run, metrics = engine(PnPHQSSampler(5)), StepMetrics(every=2)
    metrics.attach(run)
    run.reconstruct(seed=0, case="")
    assert [row["step"] for row in metrics.history] == [2, 4, 5]


class Broken(GaussianPrior):
    """A network that breaks at its third call."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        out = super().__call__(x, sigma)
        if self.calls == 3:
            out[0, 1, 2, 3] = float("nan")
        return out


class Overflow(ConsistencyStep):
    """A consistency step that diverges at once."""

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        return x0 / 0.0


def test_the_guard_names_step_and_prior() -> None:
    prior = SlicesPrior()
    prior.bind([Broken()])
    run = engine(PnPHQSSampler(5), prior=prior)
    NonFiniteGuard().attach(run)
    with raises(NumericalError, where="prior SlicesPrior") as caught:
        run.reconstruct(seed=0, case="")
    assert "step 3" in caught.value.what
    assert caught.value.exit_code == 5


def test_the_guard_names_the_consistency_step() -> None:
    run = engine(PnPHQSSampler(5), Overflow())
    NonFiniteGuard().attach(run)
    with raises(NumericalError, where="consistency Overflow, on_estimate") as caught:
        run.reconstruct(seed=0, case="")
    assert "step 1" in caught.value.what


def test_preview_pictures(tmp_path: Path) -> None:
    run = engine(PnPHQSSampler(5))
    PreviewPictures(str(tmp_path / "preview"), every=2).attach(run)
    run.reconstruct(seed=0, case="")
    names = sorted(path.name for path in (tmp_path / "preview").iterdir())
    assert names == ["step_0002.png", "step_0004.png", "step_0005.png"]


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    run, bar = engine(PnPHQSSampler(3)), ProgressBar("case", disable=False)
    StepMetrics().attach(run)
    bar.attach(run)
    run.reconstruct(seed=0, case="")
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "sigma=0.010" in shown
    assert "residual=" in shown
    assert bar.bar is None


def test_a_failure_passes_through_the_progress_bar() -> None:
    prior = SlicesPrior()
    prior.bind([Broken()])
    run, bar = engine(PnPHQSSampler(5), prior=prior), ProgressBar(disable=True)
    NonFiniteGuard().attach(run)
    bar.attach(run)
    with pytest.raises(NumericalError):
        run.reconstruct(seed=0, case="")
    assert bar.bar is None


@pytest.mark.parametrize("sampler", [PnPHQSSampler(2, momentum=0.5), DDIMSampler(2)])
def test_a_step_has_the_iterate_unless_it_says_that_it_reads_none(sampler: Sampler) -> None:
    """The iterate is released only by a sampler that needs it no more; a subclass has to say it anew."""
    seen: list[str] = []

    class Reader(ConjugateGradientStep):
        def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
            seen.append(state.x.device.type)
            return super().on_estimate(x0, state)

    class Blind(Reader):
        reads_iterate = False

    volumes = []
    for step in (Reader(), Blind()):
        run = engine(sampler, step)
        run.add_event_handler(StepEvents.CORRECTED, lambda e: seen.append(e.state.recon.x.device.type))
        volumes.append(run.reconstruct(seed=0, case="").x)
    assert torch.equal(*volumes)
    released = "meta" if isinstance(sampler, PnPHQSSampler) else "cpu"
    assert seen == ["cpu", "cpu"] * 2 + [released, "cpu"] * 2
    assert Reader.reads_iterate
    assert not ConjugateGradientStep.reads_iterate
