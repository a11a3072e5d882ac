# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections of ellipses against their exact line integrals, and filtered back-projection of a Shepp-Logan head."""

from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.numerics.ct.joseph import Rays
from monai_diffrecon.operators._sparse_projector import SparseProjector
from monai_diffrecon.operators.fan_ct import FanCT
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.protocols import VolumeGeometry

#: Value, centre, half axes and angle (degrees) of the ellipses, in halves of the image (Shepp and Logan 1974, with the
#: contrasts of Toft 1996).
HEAD = [
    (1.0, 0.0, 0.0, 0.69, 0.92, 0.0),
    (-0.8, 0.0, -0.0184, 0.6624, 0.874, 0.0),
    (-0.2, 0.22, 0.0, 0.11, 0.31, -18.0),
    (-0.2, -0.22, 0.0, 0.16, 0.41, 18.0),
    (0.1, 0.0, 0.35, 0.21, 0.25, 0.0),
    (0.1, 0.0, 0.1, 0.046, 0.046, 0.0),
    (0.1, 0.0, -0.1, 0.046, 0.046, 0.0),
    (0.1, -0.08, -0.605, 0.046, 0.023, 0.0),
    (0.1, 0.0, -0.605, 0.023, 0.023, 0.0),
    (0.1, 0.06, -0.605, 0.023, 0.046, 0.0),
]
ELLIPSE = [(1.0, 0.2, -0.25, 0.45, 0.3, 25.0)]


def image_of(ellipses: list[tuple[float, ...]], n: int) -> torch.Tensor:
    """Return the ellipses as an image (1, n, n, 1), each pixel the mean of 8 x 8 samples."""
    at = ((np.arange(8 * n) + 0.5) / (8 * n) - 0.5) * 2
    image = np.zeros((8 * n, 8 * n))
    for value, cx, cy, a, b, degrees in ellipses:
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        dx, dy = at[:, None] - cx, at[None] - cy
        image += value * (((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2 <= 1)
    return torch.from_numpy(image.reshape(n, 8, n, 8).mean(axis=(1, 3))).float().reshape(1, n, n, 1)


def integrals_of(ellipses: list[tuple[float, ...]], half: float, rays: Rays) -> torch.Tensor:
    """Return the exact line integrals (V, D, 1) along rays (Kak and Slaney 1988, section 3.1), in mm."""
    total = np.zeros(rays.offset.shape)
    for value, cx, cy, a, b, degrees in ellipses:
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        along_a, along_b = rays.cos * cos + rays.sin * sin, rays.sin * cos - rays.cos * sin
        squared = (a * half * along_a) ** 2 + (b * half * along_b) ** 2
        shifted = rays.offset - half * (cx * rays.cos + cy * rays.sin)
        total += value * 2 * a * b * half**2 / squared * np.sqrt(np.maximum(squared - shifted**2, 0.0))
    return torch.from_numpy(total).float().unsqueeze(-1)


def rays_of(operator: SparseProjector) -> Rays:
    """Return the rays of an operator, written down anew: a parallel one's by its angles, a fan's from source to bin."""
    bins = operator.measurement_shape[1]
    b = np.deg2rad(np.array(operator.degrees))[:, None]
    if isinstance(operator, ParallelCT):
        at = (np.arange(bins) - (bins - 1) / 2) * operator.detector_spacing + operator.detector_offset
        return Rays(*np.broadcast_arrays(np.cos(b), np.sin(b), at[None]))
    fan = operator.fan
    at = (np.arange(bins) - (bins - 1) / 2) * fan.detector_spacing + fan.detector_offset
    along, across = np.full(bins, fan.detector_distance), at
    if fan.curved:
        along, across = (fan.detector_distance * f(at / fan.detector_distance) for f in (np.cos, np.sin))
    dx = across * np.cos(b) - along * np.sin(b)
    dy = across * np.sin(b) + along * np.cos(b)
    length = np.hypot(dx, dy)
    source = fan.source_distance * np.sin(b), -fan.source_distance * np.cos(b)
    return Rays(dy / length, -dx / length, (source[0] * dy - source[1] * dx) / length)


def psnr(got: torch.Tensor, true: torch.Tensor) -> float:
    return float(-10 * torch.log10((got - true).square().mean()))


def make(kind: str, n: int, spacing: float, **options: Any) -> SparseProjector:
    geometry = VolumeGeometry((n, n, 1), (spacing, spacing, 1.0))
    if kind == "parallel":
        return ParallelCT(geometry, **options)
    return FanCT(geometry, source_distance=570.0, detector_distance=1040.0, detector=kind, **options)


@pytest.fixture(scope="module", autouse=True)
def _no_cache() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIFFRECON_CACHE_DIR", "off")
        yield


@pytest.mark.parametrize("kind", ["parallel", "flat", "curved"])
@pytest.mark.parametrize("offset", [0.0, 40.3])
def test_projections_of_an_ellipse(kind: str, offset: float) -> None:
    """Exact line integrals of a tilted ellipse off the centre; the error shrinks with the pixels."""
    errors = []
    for n in (32, 64, 128):
        options = {"views": 12, "arc": 360.0, "first_angle": 7.0, "detectors": 150, "detector_spacing": 2.0}
        operator = make(kind, n, 192.0 / n, detector_offset=offset, **options)
        exact = integrals_of(ELLIPSE, 96.0, rays_of(operator))
        assert float(exact.max()) > 50.0
        error = operator(image_of(ELLIPSE, n)) - exact
        errors.append(float(error.square().mean().sqrt() / exact.square().mean().sqrt()))
    assert errors[2] < 0.016
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


SCANS: dict[str, tuple[str, dict[str, Any]]] = {
    "parallel": ("parallel", {}),
    "parallel, full circle, quarter offset": ("parallel", {"arc": 360.0, "detector_offset": 0.25}),
    "parallel, half detector": ("parallel", {"arc": 360.0, "detectors": 264, "detector_offset": -100.0}),
    "flat": ("flat", {}),
    "curved": ("curved", {}),
    "flat, quarter offset": ("flat", {"detector_offset": 0.25 * 1040.0 / 570.0}),
    "flat, half detector": ("flat", {"detectors": 300, "detector_offset": 200.0}),
    "curved, half detector": ("curved", {"detectors": 300, "detector_offset": -200.0}),
    "flat, short scan": ("flat", {"arc": 217.5}),
    "curved, short scan": ("curved", {"arc": 217.5, "first_angle": 70.0}),
    "flat, longer than short": ("flat", {"arc": 280.0, "first_angle": -30.0}),
}


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    return image_of(HEAD, 256)


#: Where the operator's own sinogram is tried too: its views are built once, which takes most of the time.
OWN = ("parallel", "flat", "curved, short scan")


@pytest.mark.slow
@pytest.mark.parametrize("scan", SCANS)
def test_fbp_of_a_shepp_logan_head(scan: str, head: torch.Tensor) -> None:
    """360 views at 256 x 256: above 30 dB from the exact sinogram and from the operator's own, for values in [0, 1]."""
    kind, options = SCANS[scan]
    # A pixel-driven back-projection needs no matrix: rebuilt views are none until they are used.
    limit = {} if scan == "parallel" else {"memory_limit_gb": 0.1}
    operator = make(kind, 256, 1.0, views=360, **limit, **options)
    sinograms = [integrals_of(HEAD, 128.0, rays_of(operator)), *([operator(head)] if scan in OWN else [])]
    for sinogram in sinograms:
        got = operator.initial(sinogram)
        assert psnr(got, head) > 30.0
        inside = got[0, 100:156, 70:100, 0]
        assert float(inside.mean()) == pytest.approx(float(head[0, 100:156, 70:100, 0].mean()), abs=0.005)


def test_a_limited_angle_is_worse_but_to_scale(head: torch.Tensor) -> None:
    """Below 180 degrees plus the fan all rays count the same: the middle keeps its mean, the image is not right."""
    operator = make("flat", 256, 1.0, views=200, arc=200.0, memory_limit_gb=0.1)
    got = operator.initial(integrals_of(HEAD, 128.0, rays_of(operator)))
    assert 20.0 < psnr(got, head) < 30.0
    assert float(got[0, 64:192, 64:192].mean()) == pytest.approx(float(head[0, 64:192, 64:192].mean()), abs=0.01)
