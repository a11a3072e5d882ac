# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Raw data at the voxel size of a network: exact for band-limited images, at the right place in the world."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps
from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Measurement, VolumeGeometry

#: Of the field of view along X and Y, mm; slices are 3 mm thick.
FOV, THICK = (42.0, 39.0), 3.0
#: Amplitude, cycles per field of view along X and Y, phase.
WAVES = ((1.0, 0, 0, 0.2), (0.6, 3, -2, 1.0), (0.3, -4, 1, 0.5), (0.5, 1, 4, -0.7))
TURN = 0.3


def affine_of_scan(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> np.ndarray:
    """Oblique axes; the voxel of index N // 2 (0 along Z) of any such grid lies at (5, -7, 11)."""
    c, s = math.cos(TURN), math.sin(TURN)
    out = np.eye(4)
    out[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array(spacing)
    out[:3, 3] = np.array([5.0, -7.0, 11.0]) - out[:3, :3] @ [shape[0] // 2, shape[1] // 2, 0]
    return out


def field(points: np.ndarray) -> np.ndarray:
    """The object's value at world positions (..., 3)."""
    c, s = math.cos(TURN), math.sin(TURN)
    x, y, z = np.moveaxis(points - np.array([5.0, -7.0, 11.0]), -1, 0)
    u, v = (c * x + s * y) / FOV[0], (-s * x + c * y) / FOV[1]
    waves = sum(a * np.exp(1j * (2 * np.pi * (k * u + m * v) + p)) for a, k, m, p in WAVES)
    return (1 + 0.1 * z) * waves


def blob(geometry: VolumeGeometry, rate: float) -> np.ndarray:
    """A blob within the field of view that all grids hold, with a phase that grows by ``rate`` radians a mm."""
    x, y, _ = np.moveaxis(points_of(geometry) - np.array([5.0, -7.0, 11.0]), -1, 0)
    c, s = math.cos(TURN), math.sin(TURN)
    return np.exp(-(((x - 2) / 5) ** 2) - ((y + 1) / 5.5) ** 2) * np.exp(1j * rate * (c * x + s * y))


def blob_of(shape: tuple[int, int, int], rate: float) -> tuple[Tensor, np.ndarray]:
    affine = affine_of_scan((FOV[0] / shape[0], FOV[1] / shape[1], THICK), shape)
    geometry = VolumeGeometry(shape, affine=tuple(map(tuple, affine)))
    return torch.from_numpy(blob(geometry, rate)).to(torch.complex64), affine


def points_of(geometry: VolumeGeometry) -> np.ndarray:
    affine = np.asarray(geometry.affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def scan(shape: tuple[int, int]) -> tuple[Tensor, np.ndarray]:
    whole = (*shape, 2)
    affine = affine_of_scan((FOV[0] / shape[0], FOV[1] / shape[1], THICK), whole)
    geometry = VolumeGeometry(whole, affine=tuple(map(tuple, affine)))
    return torch.from_numpy(field(points_of(geometry))).to(torch.complex64), affine


def image_of(m: Measurement) -> np.ndarray:
    """The zero-filled image of the reader's operator."""
    assert m.operator is not None
    return registry.build("operators", m.operator, geometry=m.geometry).initial(m.data)[0].numpy()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ALS", "PRI"])
@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((60, 60), 1.0, (42, 39)),  # coarser, even to even and odd
        ((61, 55), 1.02, (41, 38)),
        ((28, 27), 1.0, (42, 39)),  # finer: the outer samples were not measured
        ((31, 24), 1.025, (41, 38)),
        ((30, 48), 1.0, (42, 39)),
        ((42, 39), 1.0, (42, 39)),
    ],
)
def test_a_band_limited_image_is_exact_at_the_new_voxels(
    tmp_path: Path, shape: tuple[int, int], spacing: float, expected: tuple[int, int], axes: str
) -> None:
    volume, affine = scan(shape)
    write_ismrmrd(tmp_path / "scan.h5", volume, affine=affine, axes=axes)
    m = registry.create("readers", "ismrmrd", spacing=spacing).read(tmp_path / "scan.h5")
    assert m.geometry.shape[2] == 2
    assert m.geometry.shape[:2] == expected
    np.testing.assert_allclose(m.geometry.spacing, (FOV[0] / expected[0], FOV[1] / expected[1], THICK), rtol=1e-5)
    truth = field(points_of(m.geometry))
    np.testing.assert_allclose(image_of(m), truth, atol=2e-4 * np.abs(truth).max())
    assert m.operator is not None
    measured = [min(n, k) for n, k in zip(shape, expected, strict=True)]
    assert int(m.operator["mask"].sum()) == measured[0] * measured[1]
    assert bool(m.notices) == (shape != expected)


@pytest.mark.parametrize(("shape", "spacing"), [((60, 60), 1.0), ((28, 27), 1.0)])
def test_fastmri(tmp_path: Path, shape: tuple[int, int], spacing: float) -> None:
    volume, _ = scan(shape)
    write_fastmri(tmp_path / "scan.h5", volume, spacing=(FOV[0] / shape[0], FOV[1] / shape[1], THICK))
    m = registry.create("readers", "fastmri", axes="RAS", spacing=spacing).read(tmp_path / "scan.h5")
    assert m.geometry.shape == (42, 39, 2)
    affine = affine_of_scan((1.0, 1.0, THICK), m.geometry.shape)
    truth = field(points_of(replace(m.geometry, affine=tuple(map(tuple, affine)))))
    np.testing.assert_allclose(image_of(m), truth, atol=2e-4 * np.abs(truth).max())


@pytest.mark.parametrize(("old", "new"), [((60, 60), (42, 39)), ((28, 26), (42, 39)), ((28, 26), (41, 38))])
@pytest.mark.parametrize("axes", ["RAS", "LPS"])
def test_a_partial_echo_of_an_oversampled_readout(
    tmp_path: Path, axes: str, old: tuple[int, int], new: tuple[int, int]
) -> None:
    """Half of what the blob's spectrum holds is missing."""
    rate = -0.9 if axes == "RAS" else 0.9
    volume, affine = blob_of((*old, 2), rate)
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, volume, affine=affine, axes=axes)
    missing = old[0] - 13  # what lies below -1 radian a mm
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        for row in table:
            samples = np.asarray(row["data"]).copy()
            samples[: 2 * missing] = 0
            row["data"] = samples
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=True)
    m = registry.create("readers", "ismrmrd", spacing=FOV[0] / new[0]).read(path)
    assert m.operator is not None
    assert m.geometry.shape == (*new, 2)
    assert m.operator["encoded"] == [2 * new[0], new[1], 2]
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    predicted = operator(torch.from_numpy(blob(m.geometry, rate))[None].to(m.data))
    assert float((predicted - m.data).norm() / predicted.norm()) < 1e-3


def test_every_encoded_axis_of_a_3d_acquisition(tmp_path: Path) -> None:
    shape = (30, 28, 20)
    i, j, k = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")

    def waves(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        return 1 + 0.5 * np.exp(2j * np.pi * (2 * i - 3 * j + k)) + 0.25 * np.exp(2j * np.pi * (-i + j - 4 * k))

    volume = torch.from_numpy(waves(i, j, k)).to(torch.complex64)
    write_ismrmrd(tmp_path / "scan.h5", volume, affine=np.diag([1.4, 1.25, 1.05, 1]), axes="SRA", volumetric=True)
    m = registry.create("readers", "ismrmrd", spacing=1.0).read(tmp_path / "scan.h5")
    assert m.geometry.shape == (42, 35, 21)
    new = np.meshgrid(*((np.arange(n) - n // 2) / n for n in (42, 35, 21)), indexing="ij")
    np.testing.assert_allclose(image_of(m), waves(*new), atol=3e-4)


def test_radial_data(tmp_path: Path) -> None:
    volume, affine = blob_of((60, 56, 2), 0.4)
    k = radial((60, 56), 120, 120, golden=False)
    write_ismrmrd(tmp_path / "scan.h5", volume, affine=affine, axes="LAS", trajectory=k, shot=120)
    for spacing, expected in ((1.0, (42, 39)), (0.6, (70, 65))):
        m = registry.create("readers", "ismrmrd", spacing=spacing).read(tmp_path / "scan.h5")
        assert m.geometry.shape[:2] == expected
        assert m.operator is not None
        truth = torch.from_numpy(blob(m.geometry, 0.4)).to(torch.complex64)[None]
        predicted = registry.build("operators", m.operator, geometry=m.geometry)(truth)
        assert float((predicted - m.data).norm() / predicted.norm()) < 1e-3


def test_coil_maps_and_noise_follow(tmp_path: Path) -> None:
    shape = (60, 56, 2)
    x, y = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 56), indexing="ij")
    volume = torch.sigmoid(25 * (1 - torch.hypot(x / 0.75, y / 0.75)))[..., None].expand(shape) + 0j
    affine = np.diag([0.7, 0.7, 3.0, 1.0])
    receiver = Receiver(std=0.01, scans=40)
    write_ismrmrd(tmp_path / "scan.h5", volume, birdcage_maps(4, shape), affine=affine, receiver=receiver)
    options: list[dict[str, Any]] = [{}, {"spacing": 1.0}]
    fine, coarse = (registry.create("readers", "ismrmrd", **o).read(tmp_path / "scan.h5") for o in options)
    assert fine.operator is not None
    assert coarse.operator is not None
    new = coarse.geometry.shape
    assert new == (42, 39, 2)
    assert fine.noise_std == 1.0
    assert coarse.noise_std == pytest.approx(math.sqrt(42 * 39 / (60 * 56)))
    true = birdcage_maps(4, new)
    x, y = torch.meshgrid(torch.linspace(-1, 1, 42), torch.linspace(-1, 1, 39), indexing="ij")
    inside = torch.hypot(x, y) < 0.6
    assert float((coarse.operator["coil_maps"].conj() * true).sum(0).abs()[inside].min()) > 0.98


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    volume, affine = scan((60, 60))
    write_ismrmrd(tmp_path / "scan.h5", volume, affine=affine)
    for spacing in (0.1, 40.0):
        with pytest.raises(InputError) as caught:
            registry.create("readers", "ismrmrd", spacing=spacing).read(tmp_path / "scan.h5")
        assert (caught.value.where, caught.value.got) == ("scan.h5", f"spacing {spacing:g} mm")
        assert "spacing" in str(caught.value.mend)
    write_fastmri(tmp_path / "bare.h5", volume, header=False, oversampling=1.0)
    with pytest.raises(InputError) as caught:
        registry.create("readers", "fastmri", spacing=1.0).read(tmp_path / "bare.h5")
    assert caught.value.where == "bare.h5"
    assert "ismrmrd_header" in str(caught.value.expected)
