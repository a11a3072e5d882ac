# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every metric of image quality must obey."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.protocols import PhantomMetric, PhantomScan, QualityResult, Site, VolumeGeometry

_SHAPE = (72, 64, 16)
_GEOMETRY = VolumeGeometry(
    _SHAPE, (1.0, 1.0, 1.5), ((1.0, 0, 0, -35.5), (0, 1.0, 0, -31.5), (0, 0, 1.5, -11.25), (0, 0, 0, 1.0))
)
_QUESTIONS = ("contrast", "resolution", "noise", "invented")


def check_phantom_metric(make: Callable[[], PhantomMetric]) -> None:
    """Check the laws.

    It says its name, question, method and quantities, and its result has no others. Numbers lie within their
    intervals, curves ascend, pictures are images. A second object gives the same result. What it is given is left as it
    is, and so is the global generator. Reconstructions without any noise are no error, nor is an unknown operator.

    Args:
        make: returns a new metric.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    metric, before = make(), torch.random.get_rng_state()
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", str(metric.name)), f"its name is {metric.name!r}"
    assert metric.question in _QUESTIONS, f"its question is {metric.question!r}, not one of {', '.join(_QUESTIONS)}"
    assert metric.kinds, "it measures no kind of site"
    assert len(metric.method) > 40, "it does not say how it measures"
    for noise in (0.0, 8.0):
        scans = [scan for scan in _scans(noise) if any(site.kind in metric.kinds for site in scan.sites)]
        assert scans, f"the test kit has no phantom with {' or '.join(metric.kinds)}"
        copies = [(scan.volume.clone(), scan.truth.clone()) for scan in scans]
        result, again = metric(scans), make()(scans)
        for scan, (volume, truth) in zip(scans, copies, strict=True):
            assert torch.equal(scan.volume, volume), "a volume was changed"
            assert torch.equal(scan.truth, truth), "a truth was changed"
        _check_result(metric, result)
        assert repr(result.findings) == repr(again.findings), "a second object finds something else"
        if noise:
            found = (*result.findings, *result.curves, *result.pictures)
            assert found or result.warnings, "it finds nothing, and does not say why"
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is used"


def _check_result(metric: PhantomMetric, result: QualityResult) -> None:
    keys = [*(f.key for f in result.findings), *(c.key for c in result.curves), *(p.key for p in result.pictures)]
    for key in keys:
        assert key in metric.quantities, f"{key} is not among its quantities"
    for finding in result.findings:
        inside = not finding.low > finding.value and not finding.high < finding.value
        assert inside, f"{finding.key}: {finding.value} lies outside its interval"
    for curve in result.curves:
        assert len(curve.x) == len(curve.y), f"{curve.key}: x and y differ in length"
        assert bool((np.diff(curve.x) > 0).all()), f"{curve.key}: x does not ascend"
    for picture in result.pictures:
        assert picture.image.ndim == 2, f"{picture.key} is no image"


def _scans(noise: float) -> list[PhantomScan]:
    """Return two noisy copies of a phantom with one site of each kind and several lesions, and of the same without."""
    x, y, z = np.meshgrid(
        *(o + s * np.arange(n) for o, s, n in zip((-35.5, -31.5, -11.25), _GEOMETRY.spacing, _SHAPE, strict=True)),
        indexing="ij",
    )
    plain = np.where(x**2 + y**2 < 30.0**2, 0.0, -1000.0)
    sites = [
        Site("rod", (-14.0, 12.0, 0.0), 6.0, 12.0, 200.0, 2),
        Site("wire", (18.3, 10.2, 0.0), 0.5, 12.0, 900.0, 2),
        Site("bars", (2.0, 22.0, 0.0), 4.0, 12.0, 300.0, 2, 0.25),
        Site("disc", (-20.0, -4.0, 0.0), 2.5, 12.0, 80.0, 2),
        *(
            Site("lesion", (-9.0 + 9.0 * i, -16.0 + 11.0 * j, 0.0), 2.0, 2.0, 80.0, None, name="nodule")
            for i in range(4)
            for j in range(2)
        ),
    ]
    volume = plain.copy()
    for site in sites:
        a, b, c = (v - o for v, o in zip((x, y, z), site.centre, strict=True))
        if site.kind == "bars":
            inside = (abs(a) < 4.0) & (abs(b) < 4.0) & (np.mod((a + 4.0) * site.frequency, 1.0) < 0.5)
        elif site.axis is None:
            inside = a**2 + b**2 + c**2 <= site.radius**2
        else:
            inside = a**2 + b**2 <= max(site.radius, 0.6) ** 2
        volume += site.contrast * inside
    phantoms = [
        ("mixed", volume, plain, tuple(sites), True),
        ("mixed", volume, plain, tuple(sites), False),
        ("uniform", plain, None, (Site("uniform", (0.0, 0.0, 0.0), 24.0, 12.0),), True),
    ]
    scans = []
    generator = torch.Generator().manual_seed(3)
    for realization in range(2):
        for name, with_signals, without, of, present in phantoms:
            truth = _tensor(with_signals if present or without is None else without)
            noisy = truth + noise * torch.randn(truth.shape, generator=generator)
            absent = None if without is None else _tensor(without)
            scans.append(PhantomScan(name, realization, noisy, truth, _GEOMETRY, of, absent, present))
    return scans


def _tensor(volume: np.ndarray) -> Tensor:
    return torch.from_numpy(volume.astype(np.float32))[None]
