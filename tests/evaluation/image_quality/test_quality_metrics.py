# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The metrics of image quality, on reconstructions whose contrast, noise, blur and errors are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from monai_diffrecon.evaluation.image_quality.measures.null_space import split_by_operator
from monai_diffrecon.evaluation.image_quality.metrics.detectability import Detectability
from monai_diffrecon.evaluation.image_quality.metrics.false_lesions import FalseLesions
from monai_diffrecon.evaluation.image_quality.metrics.lesion_survival import LesionSurvival
from monai_diffrecon.evaluation.image_quality.metrics.noise_power import NoisePowerMetric
from monai_diffrecon.evaluation.image_quality.metrics.null_space import NullSpace
from monai_diffrecon.evaluation.image_quality.metrics.ring_correlation import RingCorrelationMetric
from monai_diffrecon.evaluation.image_quality.metrics.transfer import LinePairs, PointTransfer, TaskTransfer
from monai_diffrecon.evaluation.image_quality.phantoms.lesions import lesions
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import Phantom, centred_grid
from monai_diffrecon.evaluation.image_quality.phantoms.technical import contrast_detail, line_pairs, rods, uniform, wire
from monai_diffrecon.protocols import Finding, PhantomScan, QualityResult, VolumeGeometry
from monai_diffrecon.testing.dense_operator import DenseOperator

GRID = centred_grid((96, 96, 16), (1.0, 1.0, 1.0))
NODULES = [{"kind": "nodule", "diameter": 4.0, "contrast": 40.0}, {"kind": "nodule", "diameter": 6.0, "contrast": 80.0}]


def scan(
    phantom: Phantom, volume: np.ndarray, realization: int = 0, *, present: bool = True, **further: Any
) -> PhantomScan:
    """A reconstruction of a phantom."""
    without = torch.from_numpy(phantom.without)[None]
    truth = torch.from_numpy(phantom.volume)[None] if present else without
    tensor = torch.from_numpy(volume.astype(np.float32))[None]
    return PhantomScan("it", realization, tensor, truth, phantom.geometry, phantom.sites, without, present, **further)


def white(std: float, seed: int, shape: tuple[int, ...] = GRID.shape) -> np.ndarray:
    """White noise."""
    return std * np.random.default_rng(seed).normal(size=shape)


def number(result: QualityResult, key: str, **setting: Any) -> Finding:
    """The finding of a key and a setting."""
    (found,) = (f for f in result.findings if f.key == key and setting.items() <= f.setting.items())
    return found


@pytest.fixture(scope="module")
def nodules() -> Phantom:
    return lesions(GRID, "CT", lesions=NODULES, background="plain", seed=0)


def test_lesion_survival_is_the_part_that_is_kept(nodules: Phantom) -> None:
    """Half of all contrast, and the same with noise within the interval."""
    half = nodules.without + 0.5 * (nodules.volume - nodules.without)
    result = LesionSurvival()([scan(nodules, half), scan(nodules, nodules.without, present=False)])
    for lesion in NODULES:
        found = number(result, "lesion_contrast", diameter=lesion["diameter"])
        assert found.value == pytest.approx(0.5, abs=1e-4)
        assert found.n > 5
    noisy = LesionSurvival()(
        [scan(nodules, half + white(20.0, 1)), scan(nodules, nodules.without + white(20.0, 2), present=False)]
    )
    for lesion in NODULES:
        found = number(noisy, "lesion_contrast", diameter=lesion["diameter"])
        assert found.low < 0.5 < found.high
        assert 0.01 < found.high - found.low < 0.4
    (picture,) = noisy.pictures
    assert picture.reference is not None
    assert picture.image.shape == picture.reference.shape
    assert len(picture.columns) == len(NODULES)


def test_lesion_survival_of_discs_and_of_a_single_scan() -> None:
    discs = contrast_detail(GRID, "CT", diameters=[6.0], contrasts=[30.0, 60.0])
    result = LesionSurvival()([scan(discs, discs.volume), scan(discs, discs.without, present=False)])
    assert {f.setting["contrast"] for f in result.findings} == {30.0, 60.0}
    assert all(f.value == pytest.approx(1.0, abs=1e-4) for f in result.findings)
    assert LesionSurvival()([scan(discs, discs.volume)]).findings == ()


def test_detectability_falls_with_noise_and_needs_places(nodules: Phantom) -> None:
    values = []
    for std in (10.0, 60.0, 320.0):
        scans = [
            scan(nodules, volume + white(std, 10 * realization + present), realization, present=bool(present))
            for realization in range(2)
            for present, volume in ((1, nodules.volume), (0, nodules.without))
        ]
        found = number(Detectability()(scans), "cho_auc", diameter=4.0)
        assert found.low <= found.value <= found.high
        values.append(found.value)
    assert values[0] > 0.97
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.75
    few = replace_sites(nodules, 6)
    result = Detectability()([scan(few, few.volume), scan(few, few.without, present=False)])
    assert not result.findings
    assert result.warnings


def test_detectability_is_the_analytic_one() -> None:
    """An ideal observer of a disc in white noise: d' = sqrt(sum s^2) / sigma; the channels lose little of it."""
    discs = contrast_detail(GRID, "CT", diameters=[6.0], contrasts=[20.0])
    std = 55.0
    scans = [
        scan(discs, volume + white(std, 10 * realization + present), realization, present=bool(present))
        for realization in range(12)
        for present, volume in ((1, discs.volume), (0, discs.without))
    ]
    found = number(Detectability()(scans), "cho_d_prime")
    one = (discs.volume - discs.without)[:, :, 8]
    ideal = math.sqrt(float((one**2).sum()) / len(discs.sites)) / std
    assert 0.85 * ideal < found.value < 1.05 * ideal
    assert found.low < ideal


def replace_sites(phantom: Phantom, count: int) -> Phantom:
    """A phantom with some of its sites."""
    return replace(phantom, sites=phantom.sites[:count])


def test_false_lesions_are_counted(nodules: Phantom) -> None:
    """Balls that are not there count from half of the contrast on; a deficit does not count for a bright lesion."""
    error = nodules.volume - nodules.without  # as if all lesions had been invented
    count = len(nodules.sites)
    result = FalseLesions()([scan(nodules, nodules.without + error, present=False)])
    rate = number(result, "false_lesions", diameter=4.0).value
    even = (nodules.without > -1).sum() / 1e5  # per 100 cm^3
    assert 0.7 * count / even < rate < 2.5 * count / even
    for part in (0.3, -1.0):
        weak = FalseLesions()([scan(nodules, nodules.without + part * error * (error <= 40.0), present=False)])
        assert number(weak, "false_lesions", diameter=4.0, contrast=40.0).value == 0.0
    assert FalseLesions()([scan(nodules, nodules.volume)]).findings == ()


def test_an_exact_reconstruction_has_no_false_lesion(nodules: Phantom) -> None:
    result = FalseLesions()([scan(nodules, nodules.without, present=False)])
    assert all(finding.value == 0.0 for finding in result.findings)


@pytest.fixture(scope="module")
def dense() -> DenseOperator:
    geometry = VolumeGeometry((6, 5, 4))
    return DenseOperator(geometry, torch.randn((70, 120), generator=torch.Generator().manual_seed(0)))


def test_the_null_space_is_that_of_the_singular_vectors(dense: DenseOperator) -> None:
    x = torch.randn(dense.volume_shape, generator=torch.Generator().manual_seed(1))
    split = split_by_operator(x, dense)
    expected = (torch.linalg.pinv(dense.matrix.double()) @ (dense.matrix.double() @ x.reshape(-1).double())).reshape(
        x.shape
    )
    assert torch.allclose(split.measured.double(), expected, atol=2e-3)
    assert torch.allclose(split.measured + split.null, x, atol=1e-6)
    assert float(torch.linalg.vector_norm(dense(split.null))) < 2e-3 * float(torch.linalg.vector_norm(dense(x)))
    share = float(((x.double() - expected) ** 2).sum() / (x.double() ** 2).sum())
    assert split.null_energy == pytest.approx(share, abs=1e-3)


def test_a_known_null_space_component_is_found(dense: DenseOperator) -> None:
    """An error of 3 in the row space and of 4 in the null space."""
    _, _, rows = torch.linalg.svd(dense.matrix.double())
    within = rows[:70].T @ torch.randn(70, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    outside = rows[70:].T @ torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    error = 3 * within / within.norm() + 4 * outside / outside.norm()
    truth = torch.zeros(dense.volume_shape)
    measured = PhantomScan(
        "it", 0, truth + error.reshape(truth.shape).float(), truth, dense.geometry, (), None, False, dense
    )
    result = NullSpace()([measured])
    root = math.sqrt(truth.numel())
    assert number(result, "measured_rmse").value * root == pytest.approx(3.0, rel=5e-3)
    assert number(result, "null_rmse").value * root == pytest.approx(4.0, rel=5e-3)
    assert NullSpace()([replace(measured, operator=None)]).warnings


def test_noise_power_of_white_noise_and_of_a_fixed_pattern() -> None:
    phantom = uniform(GRID, "CT")
    pattern = 7.0 * np.sign(np.sin(np.arange(96)))[:, None, None] * np.ones(GRID.shape)
    scans = [scan(phantom, phantom.volume + pattern + white(5.0, seed), seed) for seed in range(3)]
    result = NoisePowerMetric()(scans)
    assert number(result, "noise_std").value == pytest.approx(5.0, rel=0.01)
    assert number(result, "noise_along_z").value == pytest.approx(0.0, abs=0.03)
    assert number(result, "noise_variation").value < 0.03
    assert number(result, "bias_std").value == pytest.approx(7.0, rel=0.02)
    (nps,) = (c for c in result.curves if c.key == "nps")
    assert np.median(nps.y[2:]) == pytest.approx(25.0, rel=0.05)


def test_noise_that_is_smooth_or_uneven_is_told() -> None:
    phantom = uniform(GRID, "CT")
    noises = [white(1.0, seed) for seed in range(3)]
    smooth = [gaussian_filter1d(gaussian_filter(n, (1.5, 1.5, 0)), 1.0, axis=2) for n in noises]
    ramp = np.linspace(0.5, 1.5, 96)[:, None, None]
    results = [
        NoisePowerMetric()([scan(phantom, phantom.volume + 100 * n, i) for i, n in enumerate(of)])
        for of in (noises, smooth, [n * ramp for n in noises])
    ]
    plain, blotchy, uneven = results
    assert number(blotchy, "noise_mean_frequency").value < 0.5 * number(plain, "noise_mean_frequency").value
    # White noise filtered by a Gaussian of sigma 1 along z: neighbours correlate by exp(-1/4).
    assert number(blotchy, "noise_along_z").value == pytest.approx(math.exp(-0.25), abs=0.05)
    region = ramp[30:65]  # the square in the disc, less half a window
    inside = region.std() / region.mean()
    assert number(uneven, "noise_variation").value == pytest.approx(inside, rel=0.15)
    # Noise that all slices share is noise, and no pattern.
    alike = [100 * np.repeat(white(1.0, seed, (96, 96, 1)), 16, axis=2) for seed in range(4)]
    shared = NoisePowerMetric()([scan(phantom, phantom.volume + n, i) for i, n in enumerate(alike)])
    assert number(shared, "noise_std").value == pytest.approx(100.0, rel=0.05)
    assert number(shared, "noise_along_z").value == pytest.approx(1.0)
    assert number(shared, "bias_std").value < 25.0
    single = NoisePowerMetric()([scan(phantom, phantom.volume + 100 * noises[0])])
    assert number(single, "noise_std").value == pytest.approx(100.0, rel=0.02)
    assert single.warnings
    assert not [f for f in single.findings if f.key == "bias_std"]
    none = NoisePowerMetric()([scan(phantom, phantom.volume, i) for i in range(2)])
    assert not none.findings
    assert none.warnings


def blurred(volume: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur within axial slices."""
    return gaussian_filter(volume.astype(float), (sigma, sigma, 0))


def half_of(sigma: float) -> float:
    """The frequency that a Gaussian blur transfers by half, 1/mm; sigma in mm."""
    return math.sqrt(math.log(2) / 2) / (math.pi * sigma)


def test_task_transfer_of_a_known_blur() -> None:
    """What the pixels themselves blur is divided out by comparison with the phantom's own transfer."""
    phantom = rods(GRID, "CT", contrasts=[100.0, -300.0], diameter=22.0)
    result = TaskTransfer()([scan(phantom, blurred(phantom.volume, 1.4) + white(2.0, 1))])
    # The phantom's pixels are means over 1 mm: their own transfer at the frequency is a sinc.
    for contrast in (100.0, -300.0):
        found = number(result, "ttf_50", contrast=contrast).value
        ideal = half_of(math.sqrt(1.4**2 + 1 / 12))
        assert found == pytest.approx(ideal, rel=0.03)
        assert number(result, "rod_contrast", contrast=contrast).value == pytest.approx(1.0, abs=0.03)


def test_task_transfer_of_a_faint_rod_is_refused() -> None:
    phantom = rods(GRID, "CT", contrasts=[5.0], diameter=22.0)
    result = TaskTransfer()([scan(phantom, phantom.volume + white(60.0, 1))])
    assert not [f for f in result.findings if f.key == "ttf_50"]
    assert not result.curves
    assert result.warnings


def test_point_transfer_of_a_known_blur() -> None:
    phantom = wire(GRID, "CT")
    result = PointTransfer()([scan(phantom, blurred(phantom.volume, 1.3))])
    ideal = half_of(math.sqrt(1.3**2 + 1 / 12))
    assert number(result, "mtf_50").value == pytest.approx(ideal, rel=0.04)
    assert number(result, "mtf_10").value > number(result, "mtf_50").value


def test_line_pairs_of_a_known_blur() -> None:
    phantom = line_pairs(GRID, "CT", frequencies=[0.2, 0.25, 0.4, 0.6])
    result = LinePairs()([scan(phantom, blurred(phantom.volume, 0.8) + white(20.0, 2))])
    exact = LinePairs()([scan(phantom, phantom.volume)])
    lost = LinePairs()([scan(phantom, blurred(phantom.volume, 4.0))])
    assert exact.warnings  # 0.6 is beyond the voxels
    for frequency in (0.2, 0.25, 0.4):
        assert number(lost, "line_pairs", frequency=frequency).value < 0.02
        assert number(exact, "line_pairs", frequency=frequency).value == pytest.approx(1.0, abs=1e-6)
        transfer = math.exp(-2 * (math.pi * 0.8 * frequency) ** 2)
        assert number(result, "line_pairs", frequency=frequency).value == pytest.approx(transfer, abs=0.02)


def test_ring_correlation_with_itself_and_with_a_blurred_copy(nodules: Phantom) -> None:
    textured = lesions(GRID, "CT", lesions=NODULES, seed=0)
    exact = RingCorrelationMetric()([scan(textured, textured.volume)])
    assert number(exact, "frc_early").value == 0.0
    (curve,) = exact.curves
    assert np.allclose(curve.y, 1.0)
    noisy = RingCorrelationMetric()([scan(textured, blurred(textured.volume, 2.0) + white(20.0, 3))])
    assert number(noisy, "frc_resolution").value > 1.5 * number(exact, "frc_resolution").value
    assert number(noisy, "frc_early").value > 0.3


def test_what_never_falls_below_half_has_an_open_end() -> None:
    phantom = wire(GRID, "CT", contrast=3000.0)
    result = PointTransfer()([scan(phantom, phantom.volume)])
    found = number(result, "mtf_50")
    assert found.value == found.low == pytest.approx(0.5, abs=0.05)
    assert found.high == math.inf
    noisy = PointTransfer()([scan(phantom, phantom.volume + white(900.0, 1))])
    assert not noisy.findings
    assert noisy.warnings


def test_phantoms_are_not_pooled(nodules: Phantom) -> None:
    half = nodules.without + 0.5 * (nodules.volume - nodules.without)
    scans = [scan(nodules, nodules.volume), scan(nodules, nodules.without, present=False)]
    scans += [replace(one, phantom="other") for one in (scan(nodules, half), scans[1])]
    result = LesionSurvival()(scans)
    assert number(result, "lesion_contrast", diameter=4.0, phantom="it").value == pytest.approx(1.0, abs=1e-4)
    assert number(result, "lesion_contrast", diameter=4.0, phantom="other").value == pytest.approx(0.5, abs=1e-4)


def test_the_null_space_of_real_images_by_a_complex_operator() -> None:
    """A projection: the parts are orthogonal, and the null part measures nothing real."""
    geometry = VolumeGeometry((6, 5, 4))
    matrix = torch.randn((50, 120), generator=torch.Generator().manual_seed(4), dtype=torch.complex64)
    operator = DenseOperator(geometry, matrix)
    x = torch.randn((1, 6, 5, 4), generator=torch.Generator().manual_seed(5))
    split = split_by_operator(x, operator)
    rows = torch.cat([matrix.real, matrix.imag]).double()
    expected = (torch.linalg.pinv(rows) @ (rows @ x.reshape(-1).double())).reshape(x.shape)
    assert torch.allclose(split.measured.double(), expected, atol=3e-2)
    assert float((split.measured * split.null).sum()) == pytest.approx(0.0, abs=0.05)
