# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks of a range of voxel sizes: what they take, what helps otherwise, and what is resampled."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned
from monai_diffrecon.engine.voxel_size import check_shared_spacing, check_spacing, spacing_mend
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import from_tensor, geometry_of, to_tensor
from monai_diffrecon.numerics.pixel_range import PixelRange, nearest_pixel
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import Measurement, VolumeGeometry

from ..raising import raises
from .tiny_networks import CORONAL, SCORE

Triple = tuple[float, float, float]
RANGE = PixelRange(0.4, 2.0)
AXIAL, OTHER = replace(SCORE, spacing=RANGE), replace(CORONAL, spacing=RANGE)


def geometry(*spacing: float) -> VolumeGeometry:
    return VolumeGeometry((9, 9, 9), spacing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixel", "kept", "expected"),
    [
        ((0.43, 0.43), None, (0.43, 0.43)),
        ((0.43, 1.0), None, (0.43, 1.0)),
        ((2.0, 0.8), None, (2.0, 0.8)),  # 2.5 times
        ((0.3, 0.3), None, (0.4, 0.4)),
        ((3.0, 2.2), None, (2.0, 2.0)),
        ((0.3, 3.0), None, (0.4, 1.0)),
        ((3.0, 0.5), None, (1.25, 0.5)),  # the finer side keeps its detail
        ((1.5, 0.5), 0, (1.5, 0.6)),
        ((0.5, 1.5), 1, (0.6, 1.5)),
        ((0.5, 1.5), 0, (0.5, 1.25)),
    ],
)
def test_the_nearest_pixel_of_a_range(
    pixel: tuple[float, float], kept: int | None, expected: tuple[float, float]
) -> None:
    assert nearest_pixel(RANGE, pixel, kept) == pytest.approx(expected)
    # What is in the range already stays as it is.
    assert nearest_pixel(RANGE, expected, kept) == pytest.approx(expected)
    assert nearest_pixel((1.0, 1.2), pixel, kept) == (1.0, 1.2)


@pytest.mark.parametrize("spacing", [(0.43, 0.43, 2.5), (0.39, 0.39, 9.0), (2.05, 2.0, 1.0), (0.8, 2.0, 1.0)])
def test_voxels_within_the_range_are_taken(spacing: Triple) -> None:
    check_spacing(AXIAL, geometry(*spacing), 0.05)


@pytest.mark.parametrize("spacing", [(0.43, 0.43, 1.0), (0.5, 0.5, 1.25), (1.0, 2.0, 0.4)])
def test_oblong_voxels_of_the_other_planes_are_taken_too(spacing: Triple) -> None:
    check_shared_spacing([AXIAL], "coronal", geometry(*spacing), 0.05)
    check_shared_spacing([AXIAL, OTHER], "sagittal", geometry(*spacing), 0.05) if spacing[0] == spacing[1] else None


@pytest.mark.parametrize(("spacing", "got"), [((0.3, 0.4, 1.0), "0.3 x 0.4 mm"), ((0.8, 2.2, 1.0), "0.8 x 2.2 mm")])
def test_voxels_beyond_the_range_are_refused(spacing: Triple, got: str) -> None:
    with raises(ConfigError, where="bundle axial_bundle", got=got, expected=...) as caught:
        check_spacing(AXIAL, geometry(*spacing), 0.05)
    assert caught.value.exit_code == 2
    assert str(caught.value.expected).startswith("0.4 to 2 mm, one side at most 2.5 times the other")
    assert "--resample true" in str(caught.value.mend)
    check_spacing(AXIAL, geometry(*spacing), 0.5)


def test_the_axis_that_is_reconstructed_follows_the_others() -> None:
    def mend(*spacing: float) -> str:
        with raises(ConfigError, where="bundle coronal_bundle", got=...) as caught:
            check_spacing(OTHER, geometry(*spacing), 0.05, "axial")
        return str(caught.value.mend)

    assert "operator#target_spacing to 1.075," in mend(0.43, 0.43, 1.5)
    assert "operator#target_spacing to 0.6," in mend(1.5, 1.5, 0.5)
    assert "operator#target_spacing to 0.8," in mend(3.0, 3.0, 0.3)
    check_spacing(OTHER, geometry(0.43, 0.43, 1.075), 0.0, "axial")


def test_thick_slices_are_sent_to_their_task_and_raw_data_to_their_reader() -> None:
    with raises(ConfigError, where="bundle coronal_bundle", got="0.43 x 2.5 mm") as caught:
        check_spacing(OTHER, geometry(0.43, 0.43, 2.5), 0.05)
    assert "slice_thickness" in str(caught.value.mend)
    thick, fine = (CartesianMRI(geometry(*s), acceleration=2.0) for s in ((0.43, 0.43, 2.5), (0.3, 0.3, 1)))
    with raises(ConfigError, where="bundle coronal_bundle", got=...) as caught:
        check_spacing(OTHER, thick.geometry, 0.05, None, partial(spacing_mend, thick))
    assert "2.5 mm apart: use the axial network alone (--prior slices)" in str(caught.value.mend)
    check_spacing(AXIAL, thick.geometry, 0.05)
    with raises(ConfigError, where="bundle axial_bundle", got="0.3 x 0.3 mm") as caught:
        check_spacing(AXIAL, fine.geometry, 0.05, None, partial(spacing_mend, fine))
    assert "'spacing': 0.4}" in str(caught.value.mend)


@pytest.mark.parametrize(
    ("spacing", "plane", "expected"),
    [
        ((0.43, 0.43, 2.5), "axial", None),
        ((0.43, 1.0, 2.5), "axial", None),
        ((0.3, 0.3, 2.5), "axial", (0.4, 0.4, 2.5)),
        ((2.4, 2.4, 5.0), "axial", (2.0, 2.0, 5.0)),
        ((0.4, 1.4, 5.0), "axial", (0.4, 1.0, 5.0)),
        # Thick slices are resampled in their own plane, whatever the network's.
        ((0.2, 0.3, 2.5), "coronal", (0.4, 0.4, 2.5)),
        ((2.5, 0.3, 0.3), "axial", (2.5, 0.4, 0.4)),
    ],
)
def test_an_image_in_the_range_is_not_resampled(spacing: Triple, plane: str, expected: Triple | None) -> None:
    shape = tuple(8 if s == max(spacing) else 20 for s in spacing)
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    scan = {"image": to_tensor(Measurement(x, geometry_of(shape, np.diag([*spacing, 1.0]))))}
    got = from_tensor(ResampleInPlaned(["image"], plane, RANGE, operator="slice_thickness")(scan)["image"])
    np.testing.assert_allclose(got.geometry.spacing, expected or spacing, rtol=1e-6)
    assert torch.equal(got.data, x) == (expected is None)


def test_more_than_half_finer_is_not_interpolated_into_the_range() -> None:
    scan = {
        "image": to_tensor(Measurement(torch.rand(1, 8, 8, 4), geometry_of((8, 8, 4), np.diag([3.1, 3.1, 9, 1.0]))))
    }
    with raises(InputError, where="image", got="3.1 mm"):
        ResampleInPlaned(["image"], "axial", RANGE, operator="slice_thickness")(scan)


def test_one_network_of_a_range_reconstructs_a_clinical_scan() -> None:
    slices = Measurement(torch.rand(1, 16, 16, 4), geometry_of((16, 16, 4), np.diag([0.43, 0.43, 2.5, 1.0])))
    turns: dict[str, Any] = {
        "name": "perpendicular",
        "primary": ["coronal", "sagittal"],
        "share": {"coronal": "axial", "sagittal": "axial"},
    }
    inferer = DiffReconInferer(
        AXIAL, "slice_thickness", prior=turns, sampler={"name": "pnp_hqs", "steps": 3}, progress=False
    )
    done = inferer.reconstruct(to_tensor(slices)).volume
    assert done.shape == (1, 16, 16, 10)  # 1 mm apart
