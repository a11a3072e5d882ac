# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The mask of raw data is what was measured, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from diffrecon_mri.coil_maps import calibration_box
from diffrecon_mri.simulate import write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Measurement, Problem

N0, N1, N2, COILS = 40, 36, 2, 4
SHAPE = (N0, N1, N2)


def head() -> Tensor:
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = torch.sigmoid(25 * (1 - torch.hypot((x - 0.05) / 0.75, (y + 0.1) / 0.7)))
    return inside * (1 + 0.4 * torch.sin(5 * x + 3 * y + z)) * smooth_phase(SHAPE, 2, 0.3)


VOLUME, MAPS = head(), birdcage_maps(COILS, SHAPE)


def partial_echo(wide: int) -> Tensor:
    mask = torch.zeros(wide, N1, N2, dtype=torch.bool)
    mask[round(0.4 * wide) - 2 :] = True
    return mask


def random_points(wide: int) -> Tensor:
    """The same points of every slice, all of them in the middle."""
    mask = torch.rand((wide, N1, 1), generator=torch.Generator().manual_seed(3)) < 0.5
    mask[wide // 2 - 9 : wide // 2 + 9, N1 // 2 - 9 : N1 // 2 + 9] = True
    return mask.expand(wide, N1, N2)


def ellipse(wide: int) -> Tensor:
    r = torch.hypot(torch.linspace(-1, 1, wide)[:, None], torch.linspace(-1, 1, N1)[None])
    return (r < 1)[:, :, None].expand(wide, N1, N2)


def of_each_slice(wide: int) -> Tensor:
    return random_points(wide) | (torch.rand((wide, N1, N2), generator=torch.Generator().manual_seed(5)) < 0.2)


MASKS: dict[str, Callable[[int], Tensor]] = {
    "partial echo": partial_echo,
    "random points": random_points,
    "ellipse": ellipse,
    "of each slice": of_each_slice,
}


def masked_fastmri(path: Path, mask: Tensor, over: float, **options: Any) -> None:
    write_fastmri(path, VOLUME, MAPS, oversampling=over, **options)
    with h5py.File(path, "r+") as file:
        file["kspace"][...] = file["kspace"][:] * mask.permute(2, 0, 1).numpy()[:, None]


def masked_ismrmrd(path: Path, mask: Tensor, over: float) -> None:
    write_ismrmrd(path, VOLUME, MAPS, oversampling=over)
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        for row in table:
            index = row["head"]["idx"]
            keep = mask[:, int(index["kspace_encode_step_1"]), int(index["slice"])].numpy()
            samples = np.asarray(row["data"]).view(np.complex64).reshape(COILS, -1) * keep
            row["data"] = np.ascontiguousarray(samples.astype(np.complex64)).view(np.float32).reshape(-1)
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=True)


def encoding(wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of the discrete transform of the volume's voxels to the samples, as one writes them."""
    matrices = []
    for n, samples in ((N0, wide), (N1, N1)):
        x, k = np.arange(n) - n // 2, np.arange(samples) - samples // 2
        matrices.append(np.exp(-2j * np.pi * np.outer(k, x) / samples) / np.sqrt(samples))
    return matrices[0], matrices[1]


def least_squares(y: np.ndarray, mask: np.ndarray, maps: np.ndarray, iterations: int) -> np.ndarray:
    """Conjugate gradients on ``sum_c |M (F0 (S_c x) F1^T) - y_c|^2`` for one slice, from 0."""
    f0, f1 = encoding(mask.shape[0])

    def adjoint(k: np.ndarray) -> np.ndarray:
        return (maps.conj() * (f0.conj().T @ (k * mask) @ f1.conj())).sum(0)

    def normal(x: np.ndarray) -> np.ndarray:
        return adjoint(f0 @ (maps * x) @ f1.T)

    x, r = np.zeros(maps.shape[1:], complex), adjoint(y)
    p, rr = r, np.vdot(r, r).real
    for _ in range(iterations):
        q = normal(p)
        alpha = rr / np.vdot(p, q).real
        x, r = x + alpha * p, r - alpha * q
        rr, before = np.vdot(r, r).real, rr
        p = r + rr / before * p
    return x


def cg_least_squares(m: Measurement) -> Tensor:
    """What the classical method makes of the reader's operator."""
    assert m.operator is not None
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    sampler = registry.create("samplers", "cg_least_squares", iterations=30, tolerance=0.0)
    sampler.problem = Problem(operator, m.data, 0.0)
    return sampler.estimate(m.data)[0]


@pytest.mark.parametrize(("kind", "over"), [("fastmri", 2.0), ("ismrmrd", 2.0), ("fastmri", 1.0)])
@pytest.mark.parametrize("name", MASKS)
def test_the_mask_is_what_was_measured_and_the_image_that_of_least_squares(
    tmp_path: Path, name: str, kind: str, over: float
) -> None:
    path, wide = tmp_path / "scan.h5", round(N0 * over)
    mask = MASKS[name](wide)
    (masked_fastmri if kind == "fastmri" else masked_ismrmrd)(path, mask, over)
    m = registry.create("readers", kind).read(path)
    assert m.operator is not None
    found = m.operator["mask"]
    assert torch.equal(found if found.ndim == 3 else found[:, :, None].expand(mask.shape), mask)
    assert m.weights is None
    maps = m.operator["coil_maps"]
    # The true maps, so that the only difference is what counts as measured.
    m.operator["coil_maps"] = MAPS
    image = cg_least_squares(m).numpy()
    for z in range(N2):
        expected = least_squares(m.data[..., z].numpy(), mask[..., z].numpy(), MAPS[..., z].numpy(), 30)
        assert np.linalg.norm(image[..., z] - expected) < 5e-3 * np.linalg.norm(expected)
    # Measured zeros instead would be far off.
    assert float((torch.from_numpy(image) - VOLUME).norm() / VOLUME.norm()) < 0.05
    inside = VOLUME.abs() > 0.5
    assert float((maps.conj() * MAPS).sum(0).abs()[inside].min()) > 0.97


def test_a_stored_mask_may_have_two_axes_or_be_of_each_slice(tmp_path: Path) -> None:
    path, mask = tmp_path / "scan.h5", of_each_slice(N0)
    for stored, expected in ((random_points(N0)[..., 0], random_points(N0)), (mask.permute(2, 0, 1), mask)):
        write_fastmri(path, VOLUME, MAPS, oversampling=1.0)
        with h5py.File(path, "r+") as file:
            file["mask"] = stored.numpy()
        m = registry.create("readers", "fastmri").read(path)
        assert m.operator is not None
        found = m.operator["mask"]
        assert torch.equal(found if found.ndim == 3 else found[:, :, None].expand(mask.shape), expected)
        assert not bool((m.data * ~expected).any())


def test_columns_that_are_0_in_one_slice_only_were_not_measured_there(tmp_path: Path) -> None:
    path, mask = tmp_path / "scan.h5", torch.ones(N0, N1, N2, dtype=torch.bool)
    mask[:, 30, 1] = False
    masked_fastmri(path, mask, 1.0)
    with h5py.File(path, "r+") as file:
        file["mask"] = np.ones(N1)
    m = registry.create("readers", "fastmri").read(path)
    assert m.operator is not None
    assert torch.equal(m.operator["mask"], mask)


def test_an_empty_slice_is_said(tmp_path: Path) -> None:
    path, mask = tmp_path / "scan.h5", torch.ones(N0, N1, N2, dtype=torch.bool)
    mask[..., 1] = False
    for kind, write in (("fastmri", masked_fastmri), ("ismrmrd", masked_ismrmrd)):
        write(path, mask, 1.0)
        m = registry.create("readers", kind).read(path)
        assert m.operator is not None
        assert bool(m.operator["mask"].all())
        assert any("1 of 2 slices" in line for line in m.notices)
    masked_ismrmrd(path, torch.zeros_like(mask), 1.0)
    with pytest.raises(InputError) as caught:
        registry.create("readers", "ismrmrd").read(path)
    assert (caught.value.where, caught.value.what) == ("scan.h5", "nothing was measured")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((slice(0, 0), slice(0, 0)), (24, (0, 0))),
        ((slice(0, 16), slice(0, 40)), (24, (-8, 0))),
        ((slice(0, 40), slice(25, 36)), (24, (0, 5))),
        ((slice(20, 21), slice(18, 19)), (0, (0, 0))),
    ],
)
def test_the_calibration_region_may_lie_beside_the_centre(
    missing: tuple[slice, slice], expected: tuple[int, tuple[int, int]]
) -> None:
    sampled = torch.ones(40, 36, dtype=torch.bool)
    sampled[missing] = False
    assert calibration_box(sampled, 24) == expected


def test_an_elliptical_shutter_with_a_partial_echo_in_3d(tmp_path: Path) -> None:
    shape = (20, 18, 16)
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(shape, generator=generator, dtype=torch.complex64)
    write_ismrmrd(tmp_path / "scan.h5", volume, axes="ARS", volumetric=True)
    phases = torch.linspace(-1, 1, 20)[:, None], torch.linspace(-1, 1, 16)[None]
    lines = torch.hypot(*phases) <= 1.05
    echo = torch.arange(36) >= 9
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        table = file["dataset/data"][:]
        for row in table:
            index = row["head"]["idx"]
            keep = echo & lines[int(index["kspace_encode_step_1"]), int(index["kspace_encode_step_2"])]
            samples = np.asarray(row["data"]).view(np.complex64).copy() * keep.numpy()
            row["data"] = samples.astype(np.complex64).view(np.float32)
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=True)
    m = registry.create("readers", "ismrmrd").read(tmp_path / "scan.h5")
    assert m.operator is not None
    assert m.operator["encoded"] == [20, 36, 16]
    assert torch.equal(m.operator["mask"], echo[None, :, None] & lines[:, None, :])
    predicted = registry.build("operators", m.operator, geometry=m.geometry)(volume[None])
    assert float((predicted - m.data).norm() / predicted.norm()) < 1e-5
