# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The transform behind ``--resample true``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, geometry_of, to_tensor
from monai_diffrecon.protocols import Measurement

from ...raising import raises

THICK = {"name": "slice_thickness"}
#: A rotation about all axes: an oblique scan.
TURN = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]


def image(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], gaps: tuple[float, float, float] = (0, 0, 0)
) -> Measurement:
    """A linear image of the world's coordinates, positive."""
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.diag(spacing)
    affine[:3, 3] = 12.0, -30.0, 7.0
    geometry = geometry_of(shape, affine, gaps)
    return Measurement(torch.from_numpy(line(affine, shape))[None].float(), geometry)


def line(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    index = np.stack([*np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), np.ones(shape)])
    return np.tensordot(np.array([2.0, -3.0, 1.5, 900.0]) @ affine, index, 1)


def resampled(measured: Measurement, plane: str = "axial", **options: Any) -> tuple[Measurement, Any]:
    out = ResampleInPlaned(["image"], plane, options.pop("spacing", (1.0, 1.0)), **options)(
        {"image": to_tensor(measured)}
    )
    return from_tensor(out["image"]), json.loads(out["image_preparation"])


@pytest.mark.parametrize("spacing", [(0.43, 0.5, 5.0), (1.4, 0.9, 4.0)])
def test_every_voxel_lies_where_the_affine_says(spacing: tuple[float, float, float]) -> None:
    got, done = resampled(image((60, 50, 6), spacing), operator=THICK)
    np.testing.assert_allclose(got.geometry.spacing, (1.0, 1.0, spacing[2]))
    np.testing.assert_allclose(got.data[0].numpy(), line(affine_of(got.geometry), got.geometry.shape), atol=2e-3)
    assert done == [{"resample": {"plane": "axial", "spacing": [1.0, 1.0]}}]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(
    ("spacing", "thick"), [((4.8, 0.5, 0.5), "sagittal"), ((0.5, 4.8, 0.5), "coronal"), ((0.5, 0.5, 4.8), "axial")]
)
def test_thick_slices_are_resampled_within_their_own_plane(
    spacing: tuple[float, float, float], thick: str, plane: str
) -> None:
    gaps = tuple(0.8 if s > 1 else 0.0 for s in spacing)
    shape = tuple(6 if s > 1 else 30 for s in spacing)
    got, done = resampled(image(shape, spacing, gaps), plane, operator=THICK)
    np.testing.assert_allclose(got.geometry.spacing, [s if s > 1 else 1.0 for s in spacing])
    assert got.geometry.gaps == gaps
    assert got.geometry.shape == tuple(6 if s > 1 else 15 for s in spacing)
    assert done[0]["resample"]["plane"] == thick
    # What the record says does the same again, without the operator.
    again, _ = resampled(image(shape, spacing, gaps), **done[0]["resample"])
    assert torch.equal(again.data, got.data)


def test_a_volume_that_is_measured_by_the_operator_is_resampled_in_the_networks_plane() -> None:
    volume = image((10, 12, 14), (1.2, 1.0, 1.0))
    got, _ = resampled(volume, operator=THICK, simulate=True)
    np.testing.assert_allclose(got.geometry.spacing, (1.0, 1.0, 1.0))
    got, _ = resampled(volume, operator=THICK)
    np.testing.assert_allclose(got.geometry.spacing, (1.2, 1.0, 1.0))


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_slices_are_not_interpolated_across(plane: str) -> None:
    with pytest.raises(InputError) as caught:
        resampled(image((6, 20, 20), (4.8, 1.0, 1.0)), plane)
    error = caught.value
    assert (error.exit_code, error.where, error.got) == (2, "image", "4.8 mm")
    assert error.expected == "voxels of at most 1.5 mm along X"
    assert error.mend is not None
    assert "slice_thickness" in error.mend
    assert "sagittal" in error.mend


def test_up_to_half_finer_is_interpolated_and_more_is_not() -> None:
    got, _ = resampled(image((20, 20, 4), (1.5, 1.5, 5.0)))
    assert got.geometry.shape == (30, 30, 4)
    with raises(InputError, where="image", got="1.6 mm"):
        resampled(image((20, 20, 4), (1.6, 1.0, 5.0)))


def test_gaps_are_not_interpolated_across() -> None:
    with raises(InputError, where="image", got="0.3 mm") as caught:
        resampled(image((6, 20, 20), (1.3, 1.0, 1.0), (0.3, 0.0, 0.0)))
    assert "slice_thickness" in str(caught.value.mend)


def test_detail_that_is_lost_is_said() -> None:
    got, _ = resampled(image((60, 60, 4), (0.43, 0.43, 5.0)))
    (notice,) = got.notices
    assert "0.43 mm to 1 mm along X" in notice
    assert "along Y" in notice
    assert "along Z" not in notice
    assert resampled(image((20, 20, 4), (1.0, 0.97, 5.0)))[0].notices == ()
    assert resampled(image((20, 20, 4), (1.4, 1.4, 5.0)))[0].notices == ()


def test_notices_header_and_unit_stay() -> None:
    kept = replace(image((20, 20, 4), (0.5, 0.5, 5.0)), notices=("first",), unit="HU", header={"Modality": "CT"})
    got, _ = resampled(kept)
    assert (got.notices[0], got.unit, got.header) == ("first", "HU", {"Modality": "CT"})


def test_an_image_that_is_not_negative_stays_so() -> None:
    box = torch.zeros(1, 64, 64, 2)
    box[:, 20:40, 20:40] = 1000.0
    got, _ = resampled(Measurement(box, geometry_of((64, 64, 2), np.diag([0.43, 0.43, 5.0, 1.0]))))
    assert float(got.data.min()) == 0.0
    signed, _ = resampled(Measurement(box - 1024, geometry_of((64, 64, 2), np.diag([0.43, 0.43, 5.0, 1.0]))))
    assert float(signed.data.min()) < -1024.0
    # Averaging keeps what is in the image.
    assert float((signed.data + 1024).sum()) == pytest.approx(float(box.sum()) * 0.43**2, rel=1e-3)


def test_voxels_of_the_wanted_size_stay_as_they_are() -> None:
    measured = image((20, 21, 4), (1.0, 1.0, 5.0))
    got, _ = resampled(measured)
    assert torch.equal(got.data, measured.data)
    assert got.geometry.shape == (20, 21, 4)
