# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DiffusionMBIR and TPDM, composed from specs, give the numbers of the published codes.

The golden numbers come from the authors' functions on a 16 x 16 x 16 phantom with an analytic score. The loops below
are written from the papers' algorithms for other sizes, numbers of slices and steps, turns and masks; they share no
code with the package. Their tensors are slices (N, 1, rows, columns), permuted where the published codes permute,
since torch fills a tensor with noise in the order of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.engine.recipe import (
    as_spec,
    build_consistency,
    build_noise,
    build_prior,
    build_sampler,
)
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.protocols import Problem, VolumeGeometry
from monai_diffrecon.testing.gaussian_prior import GaussianPrior

S_MIN, S_MAX, SNR = 0.01, 378.0, 0.16
MEAN, STD = 0.5, 0.25

#: Slices (N, 1, rows, columns) of a base layout -> volume (1, X, Y, Z), and the axis order back.
TO_VOLUME = {"axial": (1, 2, 3, 0), "sagittal": (1, 0, 2, 3)}
TO_SLICES = {"axial": (3, 0, 1, 2), "sagittal": (1, 0, 2, 3)}

MBIR = {
    "name": "published_predictor_corrector",
    "sigma_min": S_MIN,
    "sigma_max": S_MAX,
    "order": "predictor_corrector",
    "time_end": 1e-10,
    "index_rule": "trunc32",
    "langevin_norm": "batch",
    "batch_size": 12,
    "split": "floor_plus_one",
    "carry": "sample",
    "final_mean": False,
}
TPDM = {
    "name": "published_predictor_corrector",
    "sigma_min": S_MIN,
    "sigma_max": S_MAX,
    "order": "corrector_predictor",
    "time_end": 1e-5,
    "langevin_norm": "batch",
    "batch_size": 6,
    "split": "near_equal",
    "carry": "mean",
}


def mbir_ct(rho: float, threshold: float) -> dict[str, Any]:
    tv = {"name": "z_tv", "threshold": threshold, "boundary": "periodic"}
    return {
        "name": "admm_iterate",
        "regularizers": [tv],
        "rho": rho,
        "absolute_rho": True,
        "back_projection": "published",
        "final_sirt": True,
    }


def mbir_mri(rho: float, threshold: float) -> dict[str, Any]:
    tv = {"name": "z_tv", "threshold": threshold, "boundary": "periodic"}
    return {"name": "admm_iterate", "regularizers": [tv], "rho": rho, "absolute_rho": True}


def dps(zeta: float, plane: str, **options: Any) -> dict[str, Any]:
    return {"name": "published_dps", "zeta": zeta, "plane": plane, "norm": "batch", "batch_size": 6, **options}


def reconstruct(
    operator: dict[str, Any],
    truth: Tensor,
    planes: list[str],
    consistency: dict[str, Any],
    sampler: dict[str, Any],
    *,
    prior: dict[str, Any] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return slices (N, 1, rows, columns) of the first plane, from specs as a configuration file has them.

    Args:
        operator: spec.
        truth: slices of the first plane, to measure.
        planes: planes of the analytic networks.
        consistency: spec.
        sampler: spec.
        prior: spec; the slices of the one plane unless given.
        seed: seed of the published generator.
    """
    volume = truth.permute(TO_VOLUME[planes[0]])
    shape = volume.shape
    a = build_operator(operator, VolumeGeometry((shape[1], shape[2], shape[3])))
    noise = build_noise(as_spec("sequential", "noise"), seed, "case")
    score = build_prior(prior or {"name": "slices"})
    score.bind([GaussianPrior(MEAN, STD, plane=p, sigma_min=S_MIN, sigma_max=S_MAX) for p in planes], noise)
    problem = Problem(a, a(volume.contiguous()))
    engine = ReconstructionEngine(problem, score, build_consistency(consistency), build_sampler(sampler), noise)
    return engine.reconstruct(seed=seed, case="case").x.permute(TO_SLICES[planes[0]])


def phantom(slices: int, rows: int, columns: int) -> Tensor:
    """Return blobs (slices, 1, rows, columns) that widen from slice to slice, about the centre of 16 x 16."""
    z, r, c = (torch.arange(float(n)) for n in (slices, rows, columns))
    square = (r[:, None] - 7.5) ** 2 + (c[None, :] - 7.5) ** 2
    return torch.exp(-square[None] / (2 * (2 + 0.3 * z[:, None, None]) ** 2))[:, None]


PHANTOM = phantom(16, 16, 16)
COLUMNS = torch.zeros(16)
COLUMNS[::2] = 1
COLUMNS[7:10] = 1
EVERY_SECOND = {"name": "perpendicular", "K": 2}

#: name -> (arguments of reconstruct, mean, std, and the voxels [0, 0, 0, 0], [2, 0, 7, 8], [3, 0, 4, 11]).
GOLDEN: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "DiffusionMBIR CT": (
        {
            "operator": {"name": "rotation_ct", "views": 8},
            "truth": PHANTOM[:5],
            "planes": ["axial"],
            "consistency": mbir_ct(1.0, 0.004),
            "sampler": {**MBIR, "steps": 20},
        },
        (0.168994, 1.166458, 0.312812, 0.249495, 1.493866),
    ),
    "DiffusionMBIR MRI": (
        {
            "operator": {"name": "cartesian_mri", "mask": COLUMNS.expand(16, 16).tolist()},
            "truth": PHANTOM[:5],
            "planes": ["axial"],
            "consistency": mbir_mri(0.01, 0.5),
            "sampler": {**MBIR, "steps": 20},
        },
        (0.168469, 0.289880, 0.080058, 0.938357, 0.305501),
    ),
    "TPDM unconditional": (
        {
            "operator": {"name": "unconditional"},
            "truth": PHANTOM,
            "planes": ["sagittal", "axial"],
            "prior": EVERY_SECOND,
            "consistency": {"name": "none"},
            "sampler": {**TPDM, "steps": 20},
        },
        (0.500919, 0.222345, 0.488518, 0.544076, 0.690455),
    ),
    "TPDM CT": (
        {
            "operator": {"name": "rotation_ct", "views": 8},
            "truth": PHANTOM,
            "planes": ["axial", "sagittal"],
            "prior": EVERY_SECOND,
            "consistency": dps(0.025, "axial", relative=False),
            "sampler": {**TPDM, "steps": 20},
        },
        (0.493470, 0.219624, 0.458382, 0.060331, 0.835126),
    ),
    "TPDM thick slices": (
        {
            "operator": {"name": "slice_thickness", "thickness": 5.0},
            "truth": PHANTOM.permute(2, 1, 3, 0),
            "planes": ["sagittal", "axial"],
            "prior": EVERY_SECOND,
            "consistency": dps(4.0, "sagittal", noised_measurement=True),
            "sampler": {**TPDM, "steps": 20, "start": "measured", "unseen": "zero"},
        },
        (0.382889, 0.315188, -0.181606, 0.438701, 0.111150),
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_numbers(case: str) -> None:
    arguments, expected = GOLDEN[case]
    x = reconstruct(**arguments)
    got = [x.mean(), x.std(), x[0, 0, 0, 0], x[2, 0, 7, 8], x[3, 0, 4, 11]]
    assert [float(g) for g in got] == pytest.approx(expected, rel=1e-4)


# The published loops.


class Published:
    """What both codes share: the generator, the schedule, an analytic score and one update of each sort."""

    def __init__(self, steps: int, end: float, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.times = torch.linspace(1.0, end, steps)
        self.ladder = torch.exp(torch.linspace(math.log(S_MIN), math.log(S_MAX), steps, dtype=torch.float64)).tolist()
        self.steps = steps

    def noise(self, like: Tensor) -> Tensor:
        return torch.empty_like(like).normal_(generator=self.generator)

    def prior(self, *shape: int) -> Tensor:
        return S_MAX * torch.randn(shape, generator=self.generator)

    def sigma(self, i: int) -> float:
        return S_MIN * (S_MAX / S_MIN) ** float(self.times[i])

    def score(self, x: Tensor, i: int) -> Tensor:
        return (MEAN - x) / (self.sigma(i) ** 2 + STD**2)

    def predictor(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        k = int((self.times * (self.steps - 1)).long()[i])
        below = self.ladder[k - 1] if k > 0 else 0.0
        g2 = self.ladder[k] ** 2 - below**2
        mean = x + g2 * self.score(x, i)
        return mean + math.sqrt(g2) * self.noise(x), mean

    def corrector(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        score, n = self.score(x, i), self.noise(x)
        of_score = sum(float(s.norm()) for s in score) / len(x)
        of_noise = sum(float(s.norm()) for s in n) / len(x)
        e = 2 * (SNR * of_noise / of_score) ** 2
        mean = x + e * score
        return mean + math.sqrt(2 * e) * n, mean


def published_mbir(
    forward: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    truth: Tensor,
    *,
    steps: int,
    rho: float,
    lam: float,
    sirt: bool,
    seed: int = 0,
) -> Tensor:
    """Return DiffusionMBIR's sample: a loop over chunks, then one ADMM iteration with one CG step."""
    code = Published(steps, 1e-10, seed)
    y, count = forward(truth), len(truth)
    size = math.ceil(count / (count // 12 + 1))

    def up(x: Tensor) -> Tensor:
        return torch.stack([x[(k + 1) % count] - x[k] for k in range(count)])

    def up_transposed(v: Tensor) -> Tensor:
        return torch.stack([v[k - 1] - v[k] for k in range(count)])

    x = code.prior(*truth.shape)
    z, w = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(steps):
        chunks = []
        for first in range(0, count, size):
            chunk = x[first : first + size]
            chunk, _ = code.predictor(chunk, i)
            chunk, _ = code.corrector(chunk, i)
            chunks.append(chunk)
        x = torch.cat(chunks)
        r = back(y) + rho * up_transposed(z - w) - back(forward(x)) - rho * up_transposed(up(x))
        h = back(forward(r)) + rho * up_transposed(up(r))
        x = x + (r * r).sum() / (r * h).sum() * r
        v = up(x) + w
        z = torch.sign(v) * torch.clamp(v.abs() - lam / rho, min=0.0)
        w = v - z
    if sirt:
        x = x + back(y - forward(x)) / back(forward(torch.ones_like(x)))
    return x


def published_tpdm(
    truth: Tensor,
    permutation: tuple[int, ...],
    *,
    steps: int,
    K: float,
    zeta: float = 0.0,
    residual: Callable[[Tensor, Tensor, float, Published], Tensor] | None = None,
    measured: Tensor | None = None,
    start: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return TPDM's sample.

    Args:
        truth: slices of the primary plane.
        permutation: how the volume is permuted for the auxiliary plane.
        steps: steps.
        K: an integer, or a fraction for random turns.
        zeta: weight of the guidance.
        residual: of (clean estimate, measured chunk, sigma, code).
        measured: measurement, slices first.
        start: what becomes of the noise before the first step.
        seed: seed.
    """
    code = Published(steps, 1e-5, seed)
    inverse = [permutation.index(d) for d in range(4)]
    x = code.prior(*truth.shape)
    x = x if start is None else start(x)

    def update(stage: str, chunk: Tensor, y: Tensor | None, i: int) -> tuple[Tensor, Tensor]:
        noisy, mean = getattr(code, stage)(chunk, i)
        if y is None or residual is None:
            return noisy, mean
        at = chunk.detach().requires_grad_()
        x0 = at + code.sigma(i) ** 2 * code.score(at, i)
        r = residual(x0, y, code.sigma(i), code)
        (gradient,) = torch.autograd.grad((r.abs() ** 2).sum().sqrt(), at)
        return noisy - zeta * gradient, mean - zeta * gradient

    for i in range(steps):
        whole = isinstance(K, int)
        primary = i % K != K - 1 if whole else bool(torch.rand(1, generator=code.generator) > 1 / K)
        v = x if primary else x.permute(permutation)
        parts = math.ceil(len(v) / 6)
        ys = [None] * parts if measured is None or not primary else list(measured.tensor_split(parts))
        means = []
        for chunk, y in zip(v.tensor_split(parts), ys, strict=True):
            noisy, _ = update("corrector", chunk, y, i)
            _, mean = update("predictor", noisy, y, i)
            means.append(mean)
        x = torch.cat(means)
        if not primary:
            x = x.permute(inverse)
    return x


class Projector:
    """The published projections of slices (N, 1, W, W), by resampling on rotated grids."""

    def __init__(self, width: int, views: int) -> None:
        self.size = math.ceil(math.sqrt(2) * width)
        self.before = self.size // 2 - width // 2
        self.width, self.views = width, views
        self.thetas = [math.pi * k / views for k in range(views)]

    def forward(self, x: Tensor) -> Tensor:
        after = self.size - self.width - self.before
        padded = F.pad(x, (self.before, after, self.before, after))
        views = []
        for t in self.thetas:
            rotation = torch.tensor([[math.cos(t), math.sin(t), 0.0], [-math.sin(t), math.cos(t), 0.0]])
            grid = F.affine_grid(rotation.expand(len(x), 2, 3), list(padded.shape), align_corners=True)
            views.append(F.grid_sample(padded, grid, align_corners=True).sum(2))
        return torch.stack(views, -1)

    def back(self, y: Tensor) -> Tensor:
        at = torch.linspace(-1.0, 1.0, self.size)
        row, column = torch.meshgrid(at, at, indexing="ij")
        total = torch.zeros(len(y), 1, self.size, self.size)
        for k, t in enumerate(self.thetas):
            view = torch.full_like(row, 2 * k / (self.views - 1) - 1)
            grid = torch.stack([view, column * math.cos(t) - row * math.sin(t)], -1)
            total = total + F.grid_sample(y, grid.expand(len(y), *grid.shape), align_corners=True)
        inside = slice(self.before, self.before + self.width)
        return total[..., inside, inside] * math.pi / (2 * self.views)


def random_mask(rows: int, columns: int, seed: int) -> Tensor:
    mask = (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
    mask[rows // 2, columns // 2] = 1
    return mask


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert float(expected.std()) > 0.05
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * max(1.0, scale))


@pytest.mark.parametrize(
    ("slices", "width", "views", "steps", "rho", "seed"),
    [(13, 12, 6, 7, 1.0, 3), (12, 9, 5, 50, 0.3, 1), (7, 11, 3, 50, 1.0, 2), (25, 8, 4, 7, 0.3, 0)],
)
def test_mbir_ct(slices: int, width: int, views: int, steps: int, rho: float, seed: int) -> None:
    truth, projector = phantom(slices, width, width), Projector(width, views)
    expected = published_mbir(
        projector.forward, projector.back, truth, steps=steps, rho=rho, lam=0.004 * rho, sirt=True, seed=seed
    )
    operator = {"name": "rotation_ct", "views": views}
    got = reconstruct(operator, truth, ["axial"], mbir_ct(rho, 0.004), {**MBIR, "steps": steps}, seed=seed)
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("slices", "rows", "columns", "steps", "seed"), [(13, 12, 9, 7, 3), (12, 10, 11, 50, 1), (7, 8, 8, 50, 2)]
)
def test_mbir_mri(slices: int, rows: int, columns: int, steps: int, seed: int) -> None:
    truth, mask = phantom(slices, rows, columns), random_mask(rows, columns, seed)

    def forward(x: Tensor) -> Tensor:
        return mask * torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))

    def back(k: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.ifftshift(k, dim=(-2, -1))).real

    expected = published_mbir(forward, back, truth, steps=steps, rho=0.05, lam=0.05 * 0.1, sirt=False, seed=seed)
    operator = {"name": "cartesian_mri", "mask": mask.tolist()}
    got = reconstruct(operator, truth, ["axial"], mbir_mri(0.05, 0.1), {**MBIR, "steps": steps}, seed=seed)
    assert_same(got, expected)


@pytest.mark.parametrize("K", [2, 3, 2.7])
@pytest.mark.parametrize(("shape", "steps"), [((13, 7, 12), 7), ((12, 13, 7), 50)])
def test_tpdm_unconditional(shape: tuple[int, int, int], steps: int, K: float) -> None:
    truth = torch.zeros(shape).unsqueeze(1)
    expected = published_tpdm(truth, (3, 1, 0, 2), steps=steps, K=K, seed=4)
    got = reconstruct(
        {"name": "unconditional"},
        truth,
        ["sagittal", "axial"],
        {"name": "none"},
        {**TPDM, "steps": steps},
        prior={"name": "perpendicular", "K": K},
        seed=4,
    )
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("slices", "width", "views", "steps", "K"), [(13, 8, 4, 7, 2), (7, 12, 6, 50, 2.7), (12, 9, 5, 7, 3)]
)
def test_tpdm_ct(slices: int, width: int, views: int, steps: int, K: float) -> None:
    truth, projector = phantom(slices, width, width), Projector(width, views)
    expected = published_tpdm(
        truth,
        (2, 1, 3, 0),
        steps=steps,
        K=K,
        zeta=0.025,
        residual=lambda x0, y, *_: projector.forward(x0) - y,
        measured=projector.forward(truth),
    )
    got = reconstruct(
        {"name": "rotation_ct", "views": views},
        truth,
        ["axial", "sagittal"],
        dps(0.025, "axial", relative=False),
        {**TPDM, "steps": steps},
        prior={"name": "perpendicular", "K": K},
    )
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("slices", "rows", "columns", "steps", "K"), [(13, 8, 11, 7, 2), (12, 7, 9, 50, 2.7), (7, 12, 10, 7, 3)]
)
def test_tpdm_mri(slices: int, rows: int, columns: int, steps: int, K: float) -> None:
    """The published transform is not normalized: an orthonormal one needs the weight times sqrt(rows columns)."""
    truth, mask, zeta = phantom(slices, rows, columns), random_mask(rows, columns, 5), 0.02

    def forward(x: Tensor) -> Tensor:
        return mask * torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))

    expected = published_tpdm(
        truth,
        (2, 1, 3, 0),
        steps=steps,
        K=K,
        zeta=zeta,
        residual=lambda x0, y, *_: forward(x0) - y,
        measured=forward(truth),
    )
    got = reconstruct(
        {"name": "cartesian_mri", "mask": mask.tolist()},
        truth,
        ["axial", "sagittal"],
        dps(zeta * math.sqrt(rows * columns), "axial", relative=False),
        {**TPDM, "steps": steps},
        prior={"name": "perpendicular", "K": K},
    )
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("shape", "factor", "steps", "K"),
    [((13, 8, 12), 5, 7, 2), ((7, 9, 13), 3, 50, 2.7), ((12, 7, 14), 5, 7, 3), ((12, 7, 8), 2, 50, 2)],
)
def test_tpdm_thick_slices(shape: tuple[int, int, int], factor: int, steps: int, K: float) -> None:
    """Groups of voxels along Z in an orthonormal basis whose first vector is constant; a remainder is left out."""
    truth = phantom(*shape)
    whole = shape[2] // factor * factor
    basis = torch.eye(factor, dtype=torch.float64)
    basis[:, 0] = 1.0
    basis = torch.linalg.qr(basis)[0]
    basis = (basis * torch.sign(basis[0, 0])).float()
    torch.testing.assert_close(basis[:, 0], torch.full((factor,), factor**-0.5))
    mask = torch.zeros(whole)
    mask[::factor] = 1.0

    def decouple(v: Tensor) -> Tensor:
        return (v[..., :whole].unflatten(-1, (-1, factor)) @ basis).flatten(-2)

    def couple(v: Tensor) -> Tensor:
        groups = (v.unflatten(-1, (-1, factor)) @ basis.T).flatten(-2)
        return F.pad(groups, (0, shape[2] - whole))

    repeated = truth[..., :whole].unflatten(-1, (-1, factor)).mean(-1).repeat_interleave(factor, -1)
    repeated = F.pad(repeated, (0, shape[2] - whole))

    def start(n: Tensor) -> Tensor:
        return couple(mask * decouple(repeated) + (1 - mask) * decouple(n))

    def residual(x0: Tensor, y: Tensor, sigma: float, code: Published) -> Tensor:
        n = code.noise(x0)  # laid out as the iterate is: the golden numbers say so
        target = decouple(y) + sigma * n[..., :whole]
        return couple(mask * (decouple(x0) - target))

    expected = published_tpdm(
        truth,
        (3, 1, 0, 2),
        steps=steps,
        K=K,
        zeta=2.0,
        residual=residual,
        measured=repeated,
        start=start,
    )
    got = reconstruct(
        {"name": "slice_thickness", "thickness": float(factor)},
        truth,
        ["sagittal", "axial"],
        dps(2.0, "sagittal", noised_measurement=True),
        {**TPDM, "steps": steps, "start": "measured", "unseen": "zero"},
        prior={"name": "perpendicular", "K": K},
    )
    assert_same(got, expected)
