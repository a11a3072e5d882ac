# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Thick slices of any plane are reconstructed along their own axis, as the image's header says it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.consistency.conjugate_gradient import ConjugateGradientStep
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.voxel_size import check_spacing
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, geometry_of, to_tensor
from monai_diffrecon.numerics.planes import thick_plane
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import PLANE_AXIS, Measurement, VolumeGeometry

from ..tiny_networks import CORONAL, SCORE

SAMPLER = {"name": "pnp_hqs", "steps": 5, "sigma_start": 0.3, "sigma_end": 0.03, "momentum": 0.8}
CONSISTENCY = {"name": "conjugate_gradient", "correlation": 0.7}
PRIOR = {"name": "perpendicular", "K": 3, "primary": "auto", "share": {"sagittal": "coronal"}}
THICKNESS, GAP = 4.0, 0.8


class Turned(nn.Module):
    """A network of slices whose axes are swapped."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *given: Any) -> Tensor:
        return self.network(x.transpose(-1, -2), *given).transpose(-1, -2)


def phantom(shape: tuple[int, int, int] = (24, 20, 28)) -> np.ndarray:
    """An ellipsoid with structure, on thin slices of 1 mm."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = x**2 / 0.8 + y**2 / 0.9 + z**2 / 0.7 < 1
    return inside * (500 + 200 * np.sin(7 * x) * np.cos(5 * y + 6 * z) + 150 * (x**2 + (y - 0.2) ** 2 < 0.15))


def thick(volume: np.ndarray, axis: int) -> np.ndarray:
    """Return means over slabs of 4 mm every 4.8 mm, from the edge of the first thin slice: one voxel at a time."""
    lines = np.moveaxis(volume, axis, 0)
    slabs = []
    start = 0.0
    while start + THICKNESS <= len(lines) + 1e-9:
        shares = [max(0.0, min(k + 1, start + THICKNESS) - max(k, start)) / THICKNESS for k in range(len(lines))]
        slabs.append(sum(share * line for share, line in zip(shares, lines, strict=True)))
        start += THICKNESS + GAP
    return np.moveaxis(np.stack(slabs), 0, axis)


def measured(volume: np.ndarray, axis: int) -> Tensor:
    spacing, gaps = [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    spacing[axis], gaps[axis] = THICKNESS + GAP, GAP
    data = torch.from_numpy(thick(volume, axis))[None].float()
    return to_tensor(Measurement(data, geometry_of(data.shape[1:], np.diag(spacing), gaps)))


def reconstruct(image: Tensor, *scores: Any, **options: Any) -> Any:
    first, *others = scores or (SCORE, CORONAL)
    options = {"operator": "slice_thickness", "prior": PRIOR, "consistency": CONSISTENCY, "sampler": SAMPLER} | options
    return DiffReconInferer(first, auxiliaries=others, progress=False, **options).reconstruct(image, case="c")


@pytest.mark.parametrize(
    ("spacing", "gaps", "plane"),
    [
        ((1.0, 1.0, 5.0), (0, 0, 0), "axial"),
        ((4.8, 1.016, 1.016), (0.8, 0, 0), "sagittal"),
        ((0.9, 3.0, 0.9), (0, 0, 0), "coronal"),
        ((1.0, 1.5, 1.5), (0.2, 0, 0), "sagittal"),
        ((1.0, 1.5, 1.5), (-0.5, 0, 0), "sagittal"),
        ((1.0, 1.0, 1.0), (0, 0, 0), None),
        ((5.0, 5.0, 1.0), (0, 0, 0), None),
        ((1.05, 1.0, 1.0), (0, 0, 0), None),
    ],
)
def test_the_plane_of_the_slices_is_read_from_gaps_and_voxels(
    spacing: tuple[float, float, float], gaps: tuple[float, float, float], plane: str | None
) -> None:
    geometry = VolumeGeometry((10, 10, 10), spacing, gaps=gaps)
    assert thick_plane(geometry) == plane
    assert SliceThickness.measured_plane(geometry) == (plane or "axial")
    assert SliceThickness.measured_plane(geometry, plane="coronal") == "coronal"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_result_averages_to_the_measurement_along_its_own_axis(axis: int) -> None:
    image = measured(phantom(), axis)
    done = reconstruct(image)
    got = done.volume[0].numpy()
    expected = [24, 20, 28]
    expected[axis] = int(np.ceil(from_tensor(image).geometry.shape[axis] * 4.8 - 0.8))
    assert got.shape == tuple(expected)
    assert done.geometry.spacing == pytest.approx((1.0, 1.0, 1.0))
    error = np.abs(thick(got, axis) - image[0].numpy()).max()
    assert error < 1e-3 * float(image.max())
    assert done.report.options["operator"]["thickness"] == pytest.approx(4.0)
    assert done.report.options["operator"]["gap"] == pytest.approx(0.8)
    # The first slice is 4 mm about 0, so that the first thin one is 1 mm about -1.5.
    origin = [0.0, 0.0, 0.0]
    origin[axis] = -1.5
    np.testing.assert_allclose(affine_of(done.geometry)[:3, 3], origin, atol=1e-6)


def test_a_turned_phantom_with_turned_networks_gives_the_turned_result() -> None:
    """X and Z swapped: axial thick slices become sagittal ones, and the networks' planes change with them."""
    volume = phantom()
    sagittal = replace(CORONAL, name="sagittal_bundle", plane="sagittal", sha256="2" * 64)
    upright = reconstruct(measured(volume, 2), SCORE, CORONAL, sagittal)
    turned = reconstruct(
        measured(np.ascontiguousarray(volume.transpose(2, 1, 0)), 0),
        replace(sagittal, network=Turned(SCORE.network)),
        replace(CORONAL, network=Turned(CORONAL.network)),
        replace(SCORE, network=Turned(sagittal.network)),
    )
    torch.testing.assert_close(turned.volume[0].permute(2, 1, 0).contiguous(), upright.volume[0], rtol=1e-4, atol=1e-2)


def test_coronal_slices_too() -> None:
    """Y and Z swapped: axial slices become coronal ones; only the sagittal plane's slices have their axes swapped."""
    volume = phantom()
    sagittal = replace(CORONAL, name="sagittal_bundle", plane="sagittal", sha256="2" * 64)
    upright = reconstruct(measured(volume, 2), SCORE, CORONAL, sagittal)
    turned = reconstruct(
        measured(np.ascontiguousarray(volume.transpose(0, 2, 1)), 1),
        replace(SCORE, plane="coronal"),
        replace(CORONAL, plane="axial"),
        replace(sagittal, network=Turned(sagittal.network)),
    )
    torch.testing.assert_close(turned.volume[0].permute(0, 2, 1).contiguous(), upright.volume[0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("plane", "across"), [("axial", "cs"), ("sagittal", "ca"), ("coronal", "as")])
def test_the_planes_across_the_slices_are_primary(plane: str, across: str) -> None:
    from monai_diffrecon.priors.perpendicular import PerpendicularPrior
    from monai_diffrecon.testing.gaussian_prior import GaussianPrior

    prior = PerpendicularPrior(K=5, primary="auto")
    prior.observe(SliceThickness(VolumeGeometry((12, 12, 12)), 4.0, plane=plane))
    prior.bind([GaussianPrior(plane=p) for p in ("axial", "coronal", "sagittal")])
    turns = "".join(prior.planes[prior.planes_at(step)[0]].plane[0] for step in range(20))
    counted = {letter: turns.count(letter) for letter in "acs"}
    assert all(counted[letter] == 8 for letter in across)
    assert counted[plane[0]] == 4


def test_without_thick_slices_the_first_plane_is_primary() -> None:
    from monai_diffrecon.operators.unconditional import Unconditional
    from monai_diffrecon.priors.perpendicular import PerpendicularPrior
    from monai_diffrecon.testing.gaussian_prior import GaussianPrior

    prior = PerpendicularPrior(K=3, primary="auto")
    prior.observe(Unconditional(VolumeGeometry((4, 4, 4))))
    prior.bind([GaussianPrior(plane=p) for p in ("axial", "coronal")])
    assert [prior.planes[prior.planes_at(step)[0]].plane for step in range(3)] == ["axial", "axial", "coronal"]


def test_the_correction_is_smooth_along_the_thick_axis() -> None:
    from monai_diffrecon.protocols import Problem

    def corrected(axis: int, **options: Any) -> Tensor:
        shape = [6, 6, 6]
        shape[axis] = 12
        plane = next(p for p, a in PLANE_AXIS.items() if a == axis)
        operator = SliceThickness(VolumeGeometry(tuple(shape)), 4.0, plane=plane)
        step = ConjugateGradientStep(correlation=1.0, **options)
        y = torch.rand(operator.measurement_shape, generator=torch.Generator().manual_seed(0))
        step.bind(Problem(operator, y.sort(dim=1 + axis).values, 0.0))
        return step._smooth(torch.eye(12)[5].view([12 if a == axis else 1 for a in (-1, 0, 1, 2)]).expand(1, *shape))

    for axis in range(3):
        spread = corrected(axis).movedim(1 + axis, -1)[0, 3, 3]
        assert int((spread > 1e-3).sum()) > 3
        other = corrected(axis, correlation_plane="sagittal" if axis else "axial").movedim(1 + axis, -1)[0, 3, 3]
        assert int((other > 1e-3).sum()) == 1


def test_a_network_of_other_voxels_names_the_option_that_helps() -> None:
    def mend(spacing: tuple[float, float, float], plane: str | None) -> str:
        with pytest.raises(ConfigError) as caught:
            check_spacing(CORONAL, VolumeGeometry((9, 9, 9), spacing), 0.05, plane)
        return str(caught.value.mend)

    assert "operator#target_spacing to 1" in mend((1.0, 1.0, 1.5), "axial")
    assert "--resample true" in mend((1.2, 1.0, 1.0), "axial")
    # What cannot be resampled is not sent round in a circle.
    for spacing, plane in itertools.product([(4.8, 1.0, 1.0), (1.0, 1.0, 1.7)], (None, "coronal")):
        assert "more than --resample true interpolates" in mend(spacing, plane)
        assert "slice_thickness" in mend(spacing, plane)


def test_slices_that_are_thin_already_are_said() -> None:
    def notices(spacing: tuple[float, float, float], **options: Any) -> tuple[str, ...]:
        return SliceThickness.notices(VolumeGeometry((9, 9, 9), spacing), **options)

    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 1.2), (1.15, 1.0, 1.0)):
        (line,) = notices(spacing)
        assert f"{max(spacing):g} mm thick" in line
        assert "1 mm are asked for" in line
    assert notices((1.0, 1.0, 1.5)) == ()
    assert notices((1.0, 1.0, 1.2), target_spacing=0.6) == ()
    apart = VolumeGeometry((9, 9, 9), (1.0, 1.0, 2.0), gaps=(0.0, 0.0, 1.0))
    assert SliceThickness.notices(apart) == ()  # there is a gap to fill


def test_thin_slices_are_said_before_the_run(caplog: pytest.LogCaptureFixture) -> None:
    image = to_tensor(Measurement(torch.rand(1, 8, 8, 8) + 1, geometry_of((8, 8, 8))))
    done = reconstruct(image)
    (line,) = done.report.notices
    assert "next to nothing to reconstruct" in line
    first = next(r for r in caplog.records if "next to nothing" in r.getMessage())
    assert first.levelname == "WARNING"
    assert reconstruct(measured(phantom(), 0)).report.notices == ()


@pytest.mark.parametrize(("axis", "guided"), [(0, "ac"), (1, "as"), (2, "cs")])
def test_dps_guides_at_the_planes_across_the_slices(axis: int, guided: str) -> None:
    from monai_diffrecon.consistency.dps import DPSStep
    from monai_diffrecon.protocols import Problem, SamplerState

    plane = next(p for p, a in PLANE_AXIS.items() if a == axis)
    operator = SliceThickness(VolumeGeometry((8, 8, 8)), 4.0, plane=plane)
    step = DPSStep(plane="auto")
    step.bind(Problem(operator, torch.ones(operator.measurement_shape), 0.0))
    x = torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = [p[0] for p in PLANE_AXIS if step.guidance(x, 1 * x, SamplerState(x, 0.1, plane=p)) is not None]
    assert "".join(sorted(found)) == guided
