# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Samplers on a Gaussian prior, whose distributions and trajectories are known."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_diffrecon import presets, registry
from monai_diffrecon.consistency.admm import ADMMStep
from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.consistency.none import NoConsistency
from monai_diffrecon.errors import ConfigError, NumericalError, ResumeMismatchError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.noises.slerp import SlerpNoise
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.protocols import ConsistencyStep, Problem, SamplerState, VolumeGeometry
from monai_diffrecon.regularizers.z_tv import ZTV
from monai_diffrecon.samplers.classical.admm_tv import ADMMTV
from monai_diffrecon.samplers.ddim import DDIMSampler
from monai_diffrecon.samplers.heun import HeunSampler
from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler
from monai_diffrecon.testing.dense_operator import DenseOperator
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.sampler_laws import check_sampler, run

from ..raising import raises

GEOMETRY = VolumeGeometry((3, 4, 5))
SHAPE, N = (1, 3, 4, 5), 60
PRESETS = Path(presets.__file__).parent
PRIOR = GaussianPrior()


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem(noise_std: float = 0.0, dtype: torch.dtype = torch.float64) -> Problem:
    A = draw(30, N, seed=0, dtype=dtype)
    truth = 0.5 + 0.25 * draw(N, seed=3, dtype=dtype)
    return Problem(DenseOperator(GEOMETRY, A), A @ truth + noise_std * draw(30, seed=1, dtype=dtype), noise_std)


class Blind(DenseOperator):
    """Measures one voxel of many, for statistics of free samples."""

    def __init__(self, size: int = 20) -> None:
        super().__init__(VolumeGeometry((size,) * 3), torch.ones((1, 1), dtype=torch.float64))

    def _forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1)[:1]

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(self.volume_shape)
        x.reshape(-1)[0] = y[0]
        return x


def free(size: int = 20) -> Problem:
    return Problem(Blind(size), torch.zeros(1, dtype=torch.float64))


class Guided(ConsistencyStep):
    """The gradient of half the squared residual of the clean estimate, through the denoiser (DPS)."""

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = weight

    def guidance(self, x: Tensor, x0: Tensor, state: SamplerState) -> Tensor:
        loss = 0.5 * (self.problem.operator(x0) - self.problem.measurement).abs().square().sum()
        return self.weight * torch.autograd.grad(loss, x)[0]


SAMPLERS = [
    pytest.param(PnPHQSSampler, id="pnp_hqs"),
    pytest.param(lambda: PnPHQSSampler(3, start=ADMMTV(iterations=2), ladder="geometric"), id="pnp_hqs after ADMM-TV"),
    pytest.param(lambda: PnPHQSSampler(3, start="noise", sigma_start="max"), id="pnp_hqs from noise"),
    pytest.param(lambda: PnPHQSSampler(4, momentum=0.6), id="pnp_hqs with momentum"),
    pytest.param(lambda: DDIMSampler(4), id="ddim"),
    pytest.param(lambda: DDIMSampler(3, start="initial", sigma_start="estimate", eta=0.0), id="ddim from the estimate"),
    pytest.param(lambda: HeunSampler(4), id="heun"),
    pytest.param(lambda: HeunSampler(4, S_churn=2.0, start="initial", sigma_start=0.5), id="heun with churn"),
]


@pytest.mark.parametrize("make", SAMPLERS)
@pytest.mark.parametrize("consistency", [NoConsistency, lambda: ADMMStep(ZTV(0.05), rho=0.1), Guided])
def test_laws(make, consistency) -> None:
    check_sampler(make, problem(noise_std=0.1), PRIOR.denoise, consistency)


def test_laws_with_random_turns_and_complex_volumes() -> None:
    prior = PerpendicularPrior(1.5)
    planes = [GaussianPrior(mean=0.4, plane="axial"), GaussianPrior(mean=0.6, plane="coronal")]
    prior.bind(planes, IndependentNoise(5, "case"))
    for make in (PnPHQSSampler, lambda: DDIMSampler(4), lambda: HeunSampler(3, S_churn=1.0)):
        check_sampler(make, problem(0.1, torch.complex128), prior.denoise, ConjugateGradientStep)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_pnp_hqs_is_its_written_recursion(momentum: float) -> None:
    sampler, consistency, given = PnPHQSSampler(5, momentum=momentum), ConjugateGradientStep(), problem(0.1)
    state = run(sampler, given, PRIOR.denoise, ConjugateGradientStep())
    consistency.bind(given)
    x = before = given.operator.initial(given.measurement)
    for sigma in sampler.schedule(state):
        at = SamplerState(x=x, sigma=sigma)
        after = consistency.on_estimate(PRIOR.denoise(x + momentum * (x - before), sigma, at), at)
        x, before = consistency.on_iterate(after, at), x
    torch.testing.assert_close(state.x, x)


@pytest.mark.slow
def test_momentum_gets_further_in_as_many_steps() -> None:
    """At one noise level the recursion is linear, and its fixed point is where very many plain steps end."""

    def after(steps: int, momentum: float) -> Tensor:
        sampler = PnPHQSSampler(steps, sigma_start=0.05, sigma_end=0.05, momentum=momentum)
        return run(sampler, problem(), PRIOR.denoise, ConjugateGradientStep()).x

    end = after(2000, 0.0)
    plain, carried = (float((after(30, momentum) - end).norm()) for momentum in (0.0, 0.6))
    assert carried < 0.4 * plain


def test_deterministic_ddim_draws_from_the_prior() -> None:
    sampler = DDIMSampler(300, eta=0.0, sigma_start=10.0, sigma_end=1e-3)
    x = run(sampler, free(), PRIOR.denoise, NoConsistency()).x
    assert float(x.mean()) == pytest.approx(0.5, abs=4 * 0.25 / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(0.25, rel=0.04)


@pytest.mark.parametrize("eta", [0.5, 0.85, 1.0])
def test_stochastic_ddim_has_the_variance_of_its_recursion(eta: float) -> None:
    """For a Gaussian prior x' is linear in x and n, so its variance follows from the formula step by step."""
    sampler = DDIMSampler(8, eta=eta, sigma_start=2.0, sigma_end=0.05)
    state = run(sampler, free(), PRIOR.denoise, NoConsistency())
    levels = [*sampler.schedule(state), 0.0]
    mean, variance = 0.0, levels[0] ** 2  # begins at pure noise
    for sigma, following in pairwise(levels):
        keep = 0.25**2 / (0.25**2 + sigma**2)
        factor = keep + math.sqrt(1 - eta**2) * following / sigma * (1 - keep)
        mean = 0.5 + factor * (mean - 0.5)
        variance = factor**2 * variance + (eta * following) ** 2
    assert float(state.x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / state.x.numel()))
    assert float(state.x.std()) == pytest.approx(math.sqrt(variance), rel=0.04)


@pytest.mark.parametrize(("eta", "ratio"), [(0.0, 0.98), (0.5, 0.94), (0.85, 0.85), (1.0, 0.69)])
def test_spread_of_many_ddim_steps_is_what_the_documents_say(eta: float, ratio: float) -> None:
    """docs/uncertainty.md: standard deviation over the prior's own, 200 steps from noise."""
    sampler = DDIMSampler(200, eta=eta, sigma_start=10.0, sigma_end=0.01)
    x = run(sampler, free(40), PRIOR.denoise, NoConsistency()).x
    assert float(x.std()) / PRIOR.std == pytest.approx(ratio, abs=0.02)


def spread_after(std: float, start: float, end: float | str) -> float:
    """Spread of samples over that of a Gaussian prior, from a start without spread and noise, in 20 calls of Heun."""
    sampler = HeunSampler(10, start="initial", sigma_start=start, sigma_end=end)
    prior = GaussianPrior(mean=0.0, std=std)
    x = run(sampler, free(30), prior.denoise, NoConsistency(), sigma_min=0.003).x
    return float(x.std()) / std


@pytest.mark.parametrize(
    ("std", "before", "middle", "now"),
    [
        (0.005, 0.45, 0.92, 0.95),
        (0.01, 0.72, 1.02, 1.05),
        (0.05, 0.96, 1.03, 1.05),
        (0.2, 0.71, 0.95, 1.02),
        (0.5, 0.37, 0.71, 0.91),
    ],
)
def test_spread_of_the_preset_posterior_is_what_the_documents_say(
    std: float, before: float, middle: float, now: float
) -> None:
    """docs/uncertainty.md: from 0.2 to 0.01 before, from 0.5 or 1 to the smallest level of the network now."""
    assert spread_after(std, 0.2, 0.01) == pytest.approx(before, abs=0.03)
    assert spread_after(std, 0.5, "min") == pytest.approx(middle, abs=0.03)
    assert spread_after(std, 1.0, "min") == pytest.approx(now, abs=0.03)
    sampler = json.loads((PRESETS / "methods" / "posterior.json").read_text())["sampler"]
    assert (sampler["name"], sampler["sigma_end"]) == ("heun", "min")
    assert [sampler["sigma_start"][family] for family in ("ct", "mri", "image")] == [1.0, 0.5, 1.0]


def test_the_last_level_may_be_the_smallest_of_the_network() -> None:
    for name in ("karras", "geometric"):
        sampler = HeunSampler(4, sigma_start=1.0, sigma_end="min", ladder=name)
        state = begin(sampler, problem(), sigma_min=0.02)
        assert sampler.schedule(state)[-1] == 0.02
    assert begin(PnPHQSSampler(4, sigma_end="min", estimate_factor=1e-9), problem(), sigma_min=0.02).sigma == 0.02
    with raises(ConfigError, where="sampler#sigma_start", got="0.01"):
        begin(DDIMSampler(4, sigma_start=0.01, sigma_end="min"), problem(), sigma_min=0.02)


def test_heun_is_of_second_order_and_ddim_of_first() -> None:
    """The probability flow of the Gaussian prior: x - m scales with sqrt(s^2 + sigma^2)."""
    errors: dict[str, list[float]] = {"heun": [], "ddim": []}
    for name, make in (("heun", HeunSampler), ("ddim", lambda n, **o: DDIMSampler(n, eta=0.0, **o))):
        for steps in (40, 80):
            sampler = make(steps, sigma_start=2.0, sigma_end=0.1)
            noise = IndependentNoise(0, "case")
            sampler.prepare(free(4), sigma_min=1e-3, sigma_max=10.0)
            state = start = sampler.begin(noise, seed=0, case="case")
            for _ in range(steps - 1):  # down to sigma_end; the jump to 0 is Euler's in both
                state = sampler.step(state, PRIOR.denoise, NoConsistency(), noise)
            scale = math.sqrt((0.25**2 + 0.1**2) / (0.25**2 + 2.0**2))
            exact = 0.5 + scale * (start.x - 0.5)
            errors[name].append(float((state.x - exact).abs().max()))
    assert math.log2(errors["heun"][0] / errors["heun"][1]) == pytest.approx(2.0, abs=0.25)
    assert math.log2(errors["ddim"][0] / errors["ddim"][1]) == pytest.approx(1.0, abs=0.2)


def test_heun_with_churn_draws_from_the_prior() -> None:
    sampler = HeunSampler(100, S_churn=30.0, sigma_start=10.0, sigma_end=2e-3)
    x = run(sampler, free(), PRIOR.denoise, NoConsistency()).x
    assert float(x.mean()) == pytest.approx(0.5, abs=4 * 0.25 / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(0.25, rel=0.04)


def test_calls_of_the_network() -> None:
    for make, calls in ((PnPHQSSampler, 5), (DDIMSampler, 5), (HeunSampler, 9)):
        prior = GaussianPrior()
        run(make(5), problem(), prior.denoise, NoConsistency())
        assert prior.calls == calls


@pytest.mark.parametrize("make", [PnPHQSSampler, DDIMSampler, HeunSampler])
def test_ends_consistent_with_the_measurement(make) -> None:
    p = problem()
    start = float(torch.linalg.vector_norm(p.operator(p.operator.initial(p.measurement)) - p.measurement))
    x = run(make(), p, PRIOR.denoise, ConjugateGradientStep(50, tolerance=1e-8)).x
    assert float(torch.linalg.vector_norm(p.operator(x) - p.measurement)) < 1e-5 * start


def test_pnp_hqs_ends_at_the_maximum_a_posteriori() -> None:
    """Noiseless, Gaussian prior, last level far above the prior's width: the nearest solution to the mean."""
    p = problem()
    A = p.operator.matrix
    mean = torch.full((N,), 0.5, dtype=torch.float64)
    expected = mean + torch.linalg.pinv(A) @ (p.measurement - A @ mean)
    sampler = PnPHQSSampler(10, sigma_start=5.0, sigma_end=1.0)
    x = run(sampler, p, PRIOR.denoise, ConjugateGradientStep(100, tolerance=1e-10)).x
    torch.testing.assert_close(x.reshape(-1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [PnPHQSSampler, DDIMSampler, HeunSampler])
def test_guidance_is_subtracted_and_pulls_towards_the_measurement(make) -> None:
    p = problem()
    unpulled, pulled = (run(make(), p, PRIOR.denoise, Guided(weight)).x for weight in (0.0, 0.002))
    residual = [float(torch.linalg.vector_norm(p.operator(x) - p.measurement)) for x in (unpulled, pulled)]
    assert residual[1] < 0.9 * residual[0]
    assert torch.equal(unpulled, run(make(), p, PRIOR.denoise, NoConsistency()).x)


def test_one_guided_step_by_hand() -> None:
    p = problem()
    sampler = PnPHQSSampler(1, start="noise", sigma_start=0.5, sigma_end=0.5)
    guided, plain = (run(sampler, p, PRIOR.denoise, c).x for c in (Guided(0.1), NoConsistency()))
    slope = 0.25**2 / (0.25**2 + 0.5**2)  # the derivative of the denoiser
    expected = plain - 0.1 * slope * p.operator.adjoint(p.operator(plain) - p.measurement)
    torch.testing.assert_close(guided, expected)


class Recorder(ConsistencyStep):
    """Notes the noise level at which each hook is called."""

    def __init__(self) -> None:
        self.estimates: list[float] = []
        self.iterates: list[float] = []

    def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
        self.estimates.append(state.sigma)
        return x0

    def on_iterate(self, x: Tensor, state: SamplerState) -> Tensor:
        self.iterates.append(state.sigma)
        return x


def test_consistency_sees_the_level_of_what_it_is_given() -> None:
    for make in (PnPHQSSampler, DDIMSampler, HeunSampler):
        sampler, recorder = make(3, sigma_start=1.0, sigma_end=0.1), Recorder()
        a, b, c = sampler.schedule(run(sampler, problem(), PRIOR.denoise, recorder))
        assert recorder.estimates == ([a, b, b, c, c] if make is HeunSampler else [a, b, c])
        assert recorder.iterates == ([a, b, c] if make is PnPHQSSampler else [b, c, 0.0])


def begin(sampler, p: Problem, **limits: float) -> SamplerState:
    sampler.prepare(p, **{"sigma_min": 1e-3, "sigma_max": 10.0, **limits})
    return sampler.begin(IndependentNoise(1, "c"), seed=1, case="c")


def test_starts() -> None:
    p = problem()
    initial = p.operator.initial(p.measurement)
    n = IndependentNoise(1, "c").volume(SHAPE, 0, stream="start", dtype=torch.float64)
    assert torch.equal(begin(PnPHQSSampler(), p).x, initial)
    torch.testing.assert_close(begin(DDIMSampler(), p).x, 10.0 * n)
    torch.testing.assert_close(begin(HeunSampler(start="initial", sigma_start=0.3), p).x, initial + 0.3 * n)
    tv = ADMMTV(iterations=3)
    state = begin(PnPHQSSampler(start=tv), p)
    assert torch.equal(state.x, tv.estimate(p.measurement))


def test_the_first_level_is_the_estimated_error_of_the_start() -> None:
    p = problem()
    x1 = p.operator.initial(p.measurement)
    x2 = p.operator.initial(p.operator(x1))
    error = float((x2 - x1)[x1.abs() > 0.05].square().mean().sqrt())
    sampler = PnPHQSSampler(4, estimate_factor=2.0)
    state = begin(sampler, p)
    assert state.sigma == pytest.approx(2.0 * error, rel=1e-9)
    assert sampler.schedule(state) == pytest.approx(tuple(state.memory["sampler"]["ladder"].tolist()))
    assert state.memory["sampler"]["ladder"].dtype == torch.float64
    assert begin(sampler, p, sigma_max=0.02).sigma == pytest.approx(0.02)
    assert begin(PnPHQSSampler(4, sigma_end=9.0), p).sigma == pytest.approx(9.0)
    # The bootstrap measures with noise like the real one's.
    assert begin(sampler, Problem(p.operator, p.measurement, 5.0)).sigma > 1.05 * state.sigma


def test_a_noisy_sinogram_is_simulated_with_any_noise_source() -> None:
    p = problem()
    sampler = PnPHQSSampler(4, estimate_factor=2.0)
    levels = []
    for source in (IndependentNoise, SlerpNoise):
        sampler.prepare(Problem(p.operator, p.measurement, 5.0), sigma_min=1e-3, sigma_max=10.0)
        levels.append(sampler.begin(source(1, "c"), seed=1, case="c").sigma)
    assert levels[1] == pytest.approx(levels[0], rel=0.05)  # the detector's noise is independent for both


def test_faults() -> None:
    p = problem()
    with raises(ConfigError, where="sampler#sigma_end", got="0.01", expected="0.05 to 10"):
        begin(PnPHQSSampler(), p, sigma_min=0.05)
    with raises(ConfigError, where="sampler#sigma_start", got="80"):
        begin(DDIMSampler(sigma_start=80.0), p)
    broken = Problem(p.operator, p.measurement * float("nan"))
    with raises(NumericalError, where="sampler#start"):
        begin(PnPHQSSampler(), broken)
    with raises(ResumeMismatchError, where="sampler DDIMSampler"):
        DDIMSampler().schedule(SamplerState(x=torch.zeros(SHAPE), sigma=1.0))


@pytest.mark.parametrize(
    ("cls", "options", "where", "got"),
    [
        (PnPHQSSampler, {"steps": 0}, "sampler#steps", "0"),
        (PnPHQSSampler, {"steps": True}, "sampler#steps", "True"),
        (PnPHQSSampler, {"steps": 10.0}, "sampler#steps", "10.0"),
        (PnPHQSSampler, {"start": "fbp"}, "sampler#start", "'fbp'"),
        (PnPHQSSampler, {"start": DDIMSampler()}, "sampler#start", "DDIMSampler"),
        (PnPHQSSampler, {"start": "noise"}, "sampler#sigma_start", '"estimate"'),
        (PnPHQSSampler, {"sigma_start": "auto"}, "sampler#sigma_start (or a number)", "'auto'"),
        (PnPHQSSampler, {"sigma_start": 0.001}, "sampler#sigma_start", "0.001"),
        (PnPHQSSampler, {"sigma_end": 0.0}, "sampler#sigma_end", "0.0"),
        (PnPHQSSampler, {"estimate_factor": float("nan")}, "sampler#estimate_factor", "nan"),
        (DDIMSampler, {"ladder": "linear"}, "sampler#ladder", "'linear'"),
        (DDIMSampler, {"ladder_rho": 0}, "sampler#ladder_rho", "0"),
        (DDIMSampler, {"eta": 1.1}, "sampler#eta", "1.1"),
        (HeunSampler, {"S_churn": -1}, "sampler#S_churn", "-1"),
        (HeunSampler, {"S_tmin": 2.0, "S_tmax": 1.0}, "sampler#S_tmax", "1.0"),
        (HeunSampler, {"S_noise": float("inf")}, "sampler#S_noise", "inf"),
    ],
)
def test_wrong_options(cls, options: dict, where: str, got: str | None) -> None:
    with raises(ConfigError, where=where, got=got):
        cls(**options)


def test_a_configuration_names_the_start() -> None:
    for start, kind in (("admm_tv", ADMMTV), ({"name": "admm_tv", "iterations": 2}, ADMMTV), ("noise", str)):
        sampler = registry.create("samplers", "ddim", start=start)
        assert isinstance(sampler.start, kind)
    assert registry.create("samplers", "pnp_hqs").start == "initial"
    with raises(ConfigError, where="sampler#start#iteration"):
        registry.create("samplers", "pnp_hqs", start={"name": "admm_tv", "iteration": 2})


class InPlace(PnPHQSSampler):
    def step(self, state, denoise, consistency, noise):
        state.x.mul_(0.5)
        return super().step(state, denoise, consistency, noise)


class Counter(PnPHQSSampler):
    calls = 0

    def step(self, state, denoise, consistency, noise):
        self.calls += 1
        state = super().step(state, denoise, consistency, noise)
        state.x = state.x * self.calls
        return state


@pytest.mark.parametrize(("cls", "message"), [(InPlace, "changes the state it was given"), (Counter, "ends elsewhere")])
def test_the_law_kit_finds_a_broken_sampler(cls, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sampler(cls, problem(), PRIOR.denoise, NoConsistency)


def test_the_kept_noise_may_be_that_of_the_corrected_estimate() -> None:
    """DiffPIR: ``x' = x0hat + sigma' / sigma (x - x0hat)`` without fresh noise."""
    p = free(4)
    sampler = DDIMSampler(2, eta=0.0, direction="corrected", sigma_start=1.0, sigma_end=0.5)
    sampler.prepare(p, sigma_min=1e-3, sigma_max=10.0)
    noise = IndependentNoise(0)
    state = sampler.begin(noise, seed=0, case="")

    class Halved(ConsistencyStep):
        def on_estimate(self, x0: Tensor, state: SamplerState) -> Tensor:
            return 0.5 * x0

    after = sampler.step(state, lambda x, sigma, state: 0.25 * x, Halved(), noise)
    corrected = 0.125 * state.x
    assert torch.allclose(after.x, corrected + 0.5 * (state.x - corrected))
