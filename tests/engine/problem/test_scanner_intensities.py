# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What scanners do to intensities, with the networks that are shipped, on a part of the example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.bundle.score_network import load_auxiliaries, load_score_network
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.measured_operator import plane_notice
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Measurement, VolumeGeometry

ROOT = Path(__file__).parents[3]
SAMPLER = {"name": "pnp_hqs", "steps": 8, "sigma_start": 0.3, "sigma_end": 0.03, "momentum": 0.8}
PLANES = {"name": "perpendicular", "K": 5, "primary": ["coronal", "sagittal"], "share": {"sagittal": "coronal"}}
MRI = {"name": "cartesian_mri", "mask_type": "poisson", "acceleration": 4}
AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])

Reconstruct = Callable[..., Reconstruction]


@pytest.fixture(scope="module")
def thin() -> Tensor:
    return read_volume(ROOT / "examples/colin27_t1.nii.gz")[0][:, 66:114, 84:132, 84:104].clone()


@pytest.fixture(scope="module")
def thick(thin: Tensor) -> Tensor:
    return averaged(thin)


@pytest.fixture(scope="module")
def reconstruct() -> Reconstruct:
    root = ROOT / "bundles/brain_mr_t1_axial"
    score = load_score_network(root)
    auxiliaries = load_auxiliaries("auto", score, root)

    def run(scan: Tensor, unit: str = "arbitrary", **options: Any) -> Reconstruction:
        given: dict[str, Any] = {
            "operator": "slice_thickness",
            "prior": PLANES,
            "consistency": {"name": "conjugate_gradient", "correlation": 0.7},
            "sampler": SAMPLER,
            "auxiliaries": auxiliaries,
            "progress": False,
        }
        if not isinstance(scan, MetaTensor):
            scan = to_tensor(Measurement(scan, geometry_of(scan.shape[1:], AFFINE), unit=unit))
        return DiffReconInferer(score, **{**given, **options}).reconstruct(scan)

    return run


@pytest.fixture(scope="module")
def usual(reconstruct: Reconstruct, thick: Tensor) -> Tensor:
    return reconstruct(thick).volume


def averaged(volume: Tensor) -> Tensor:
    return volume.reshape(*volume.shape[:3], -1, 5).mean(-1)


def psnr(volume: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    error = (volume - truth).square()
    return float(10 * torch.log10(255**2 / (error if where is None else error[where]).mean()))


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "shift"), [(1.0, -1024.0), (1.0, 60.0), (1e3, 3e5), (2e-2, -1.9)])
def test_shifted_and_scaled_magnitudes_come_out_shifted_and_scaled(
    reconstruct: Reconstruct, thin: Tensor, thick: Tensor, usual: Tensor, gain: float, shift: float
) -> None:
    done = reconstruct(gain * thick + shift)
    assert psnr((done.volume - shift) / gain, thin) == pytest.approx(psnr(usual, thin), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("value", [32767.0, 1e6, -32768.0, 0.0])
@pytest.mark.parametrize("part", [0.0, 1e-3])
def test_outliers_stay_where_they_were_measured(
    reconstruct: Reconstruct, thin: Tensor, thick: Tensor, usual: Tensor, value: float, part: float
) -> None:
    count = max(1, round(part * thick.numel()))
    bad = torch.zeros(thick.numel(), dtype=torch.bool)
    bad[torch.randperm(thick.numel(), generator=torch.Generator().manual_seed(5))[:count]] = True
    bad = bad.view(thick.shape)
    done = reconstruct(torch.where(bad, torch.tensor(value), thick))
    elsewhere = ~bad.repeat_interleave(5, dim=3)
    assert psnr(done.volume, thin, elsewhere) == pytest.approx(psnr(usual, thin, elsewhere), abs=0.2)
    torch.testing.assert_close(averaged(done.volume)[bad], torch.full((count,), value), rtol=1e-3, atol=1.0)
    if abs(value) > 1e3:
        assert any(f"{count} of {thick.numel()}" in line for line in done.report.notices)


def test_a_background_amid_the_tissue_is_told(reconstruct: Reconstruct, thick: Tensor) -> None:
    brain = thick - 100.0
    brain[:, :12] = 0.0
    (line,) = reconstruct(brain).report.notices
    assert "background of 0" in line


def test_clean_scans_have_no_notice(reconstruct: Reconstruct, thick: Tensor) -> None:
    assert reconstruct(thick).report.notices == ()


@pytest.mark.parametrize("operator", [{"name": "slice_thickness", "thickness": 5.0}, MRI])
def test_magnitudes_are_not_negative_and_the_measurement_is_kept(
    reconstruct: Reconstruct, thin: Tensor, operator: dict[str, Any]
) -> None:
    # A bright shell in nothing: cubic interpolation and undersampling both overshoot.
    volume = torch.zeros_like(thin)
    volume[:, 8:28, 8:28, 6:14] = 1000.0
    volume[:, 14:22, 14:22, 8:12] = 0.0
    measured, a = simulate(volume, geometry_of(volume.shape[1:]), Simulation(operator))
    done = reconstruct(to_tensor(measured), operator=operator, prior=PLANES | {"primary": "axial"})
    execution = done.report.execution
    assert float(done.volume.min()) >= 0.0
    assert 0.0 < execution["negative_voxels"] < 1.0
    residual = torch.linalg.vector_norm(a(done.volume) - measured.data) / torch.linalg.vector_norm(measured.data)
    assert float(residual) == pytest.approx(execution["residual_after"], rel=0.05, abs=1e-6)
    assert execution["residual_after"] < max(1.05 * execution["residual_before"], 2e-3)


def test_values_below_zero_stay_where_no_magnitudes_were_measured(reconstruct: Reconstruct, thick: Tensor) -> None:
    done = reconstruct(thick - 1024.0)
    assert float(done.volume.max()) < 0.0
    assert "negative_voxels" not in done.report.execution


def test_ct_is_refused_by_a_network_of_mr(reconstruct: Reconstruct, thick: Tensor) -> None:
    ct = torch.full_like(thick, -1000.0)
    ct[:, 6:30, 6:30] = 40.0
    for unit in ("arbitrary", "HU"):
        with pytest.raises(InputError) as caught:
            reconstruct(ct, unit)
        assert caught.value.where == "bundle brain_mr_t1_axial"
    with pytest.raises(InputError) as caught:
        reconstruct(to_tensor(Measurement(thick, geometry_of(thick.shape[1:], AFFINE), header={"Modality": "CT"})))
    assert (caught.value.expected, caught.value.got) == ("MR", "CT")
    classical = reconstruct(ct, "HU", sampler="cubic").volume  # has no network
    assert float(classical[:, 18, 18, 10]) == pytest.approx(40.0, abs=1e-2)


def test_measurements_of_mostly_negative_values_are_refused(reconstruct: Reconstruct, thin: Tensor) -> None:
    for operator in (MRI, {"name": "parallel_ct", "views": 12}):
        measured, _ = simulate(thin - 300.0, geometry_of(thin.shape[1:]), Simulation(operator))
        with pytest.raises(InputError) as caught:
            reconstruct(to_tensor(replace(measured, simulated=True)), operator=operator)
        assert caught.value.expected == "magnitudes of 0 or more"


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["brain_mr_t1_axial", "body_ct_axial"])
@pytest.mark.parametrize("sampler", ["initial", "sirt", {"name": "admm_tv", "threshold": 1e-4}])
def test_classical_estimates_of_a_disc_know_no_bundle(bundle: str, sampler: Any) -> None:
    """Line integrals of a disc of value 1 and radius 20 mm by hand: ``2 sqrt(r^2 - s^2)``."""
    geometry = VolumeGeometry((64, 64, 1), (1.0, 1.0, 1.0))
    operator = ParallelCT(geometry, views=180)
    views, bins, _ = operator.measurement_shape
    s = (torch.arange(bins) - (bins - 1) / 2) * operator.detector_spacing
    y = (2 * (400.0 - s.square()).clamp_min(0.0).sqrt())[:, None].expand(operator.measurement_shape).contiguous()
    spec = {"name": "parallel_ct", "views": views}
    scan = to_tensor(Measurement(y, geometry, operator=spec))
    score = load_score_network(ROOT / "bundles" / bundle)
    volume = DiffReconInferer(score, spec, sampler=sampler, progress=False).reconstruct(scan).volume
    x = torch.arange(64) - 31.5
    radius = (x[:, None].square() + x.square()).sqrt()
    assert float(volume[0, :, :, 0][radius < 16].mean()) == pytest.approx(1.0, abs=0.02)
    assert float(volume[0, :, :, 0][(radius > 24) & (radius < 31)].mean()) == pytest.approx(0.0, abs=0.02)


def test_a_sinogram_without_a_unit_is_refused_by_a_window(thin: Tensor) -> None:
    measured, _ = simulate(thin / 255, geometry_of(thin.shape[1:]), Simulation({"name": "parallel_ct", "views": 16}))
    score = load_score_network(ROOT / "bundles/body_ct_axial")
    inferer = DiffReconInferer(score, "parallel_ct", sampler=SAMPLER, spacing_tolerance=1.0, progress=False)
    with pytest.raises(InputError) as caught:
        inferer.reconstruct(to_tensor(measured))
    assert caught.value.where == "bundle body_ct_axial, diffrecon#intensity"


@pytest.mark.parametrize(
    ("planes", "thick_axis", "told"),
    [(["axial"], 2, True), (["coronal"], 2, False), (["axial", "coronal"], 2, False), (["coronal"], 1, True)],
)
def test_a_plane_that_sees_nothing_of_the_thick_axis_is_told(planes: list[str], thick_axis: int, told: bool) -> None:
    plane = {2: "axial", 1: "coronal"}[thick_axis]
    thick_slices = SliceThickness(VolumeGeometry((20, 20, 20)), thickness=5.0, plane=plane)
    assert (plane_notice(thick_slices, planes) is not None) is told
    assert plane_notice(SliceThickness(VolumeGeometry((20, 20, 20)), thickness=1.0, plane=plane), planes) is None


def test_one_plane_alone_is_told_in_the_report(reconstruct: Reconstruct, thick: Tensor) -> None:
    done = reconstruct(thick, prior="slices", sampler=SAMPLER | {"steps": 1})
    (line,) = done.report.notices
    assert "docs/results/demo.md" in line
