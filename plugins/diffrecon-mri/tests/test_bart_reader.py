# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""K-space of BART, written by numpy as its documentation describes the format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrecon_mri.bart_reader import BARTReader
from diffrecon_mri.synthetic_maps import birdcage_maps
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.numerics.mri.fourier import centred_fft
from monai_diffrecon.testing.reader_laws import check_reader

COILS = 3


def cfl(path: Path, array: np.ndarray, dims: str | None = None) -> Path:
    """Write an array whose first axis is BART's first dimension."""
    said = " ".join(map(str, array.shape)) if dims is None else dims
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{said}\n# Command\nphantom Doe\n")
    path.write_bytes(array.astype("<c8").tobytes(order="F"))
    return path


def image(*shape: int) -> torch.Tensor:
    at = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    x, y, z = torch.meshgrid(*at, indexing="ij")
    inside = ((x / 0.8) ** 2 + (y / 0.7) ** 2 + (z / 1.2) ** 2 < 1).float()
    return (inside * (1 + 0.5 * x - 0.3 * y + 0.2 * z)).to(torch.complex64)


def reconstructed(measured: Any) -> torch.Tensor:
    """Return the least-squares image of a measurement in which nothing is missing: unit maps, orthonormal transform."""
    operator = registry.build("operators", measured.operator, geometry=measured.geometry)
    return operator.adjoint(measured.data)[0]


@pytest.mark.parametrize("volumetric", [False, True])
@pytest.mark.parametrize("axes", [None, "LPS", "ASR"])
def test_the_image_and_the_maps_behind_it(tmp_path: Path, volumetric: bool, axes: str | None) -> None:
    """The maps of a second file: the adjoint returns the image, in the order that axes says."""
    shape = (18, 16, 5)
    x, maps = image(*shape), birdcage_maps(COILS, shape).to(torch.complex64)
    maps = maps / maps.abs().square().sum(0, keepdim=True).sqrt()
    k = centred_fft(maps * x, (-3, -2, -1) if volumetric else (-3, -2)).permute(1, 2, 3, 0).numpy()
    stored = maps.permute(1, 2, 3, 0).numpy()
    if not volumetric:  # slices are the 14th dimension
        k, stored = (a.transpose(0, 1, 3, 2).reshape(18, 16, 1, COILS, *[1] * 9, 5) for a in (k, stored))
    cfl(tmp_path / "maps.cfl", stored)
    reader = BARTReader(voxel_size=[1.5, 2.0, 4.0], axes=axes, maps=str(tmp_path / "maps.cfl"), noise_std=0.0)
    measured = reader.read(cfl(tmp_path / "k.cfl", k))
    expected = {None: x, "LPS": x.flip((0, 1)), "ASR": x.permute(2, 0, 1)}[axes]
    assert torch.allclose(reconstructed(measured), expected, atol=1e-4)
    assert measured.geometry.spacing == pytest.approx((4.0, 1.5, 2.0) if axes == "ASR" else (1.5, 2.0, 4.0))
    assert (measured.geometry.affine is None) == (axes is None)
    assert len(measured.notices) == (axes is None)


def test_what_was_left_out_is_the_mask(tmp_path: Path) -> None:
    """Maps are estimated from the central samples."""
    shape = (32, 30, 1)
    x, maps = image(*shape), birdcage_maps(COILS, shape).to(torch.complex64)
    kept = torch.zeros(30, dtype=torch.bool)
    kept[::2] = kept[8:23] = True
    k = (centred_fft(maps * x, (-3, -2)) * kept[None, None, :, None]).permute(1, 2, 3, 0).numpy()
    name, measured = read_scan(cfl(tmp_path / "k.cfl", k))
    assert name == "bart"
    mask = measured.operator["mask"]  # type: ignore[index]
    assert torch.equal(mask if mask.ndim == 1 else mask.any(0), kept)
    assert measured.operator["coil_maps"].shape == (COILS, *shape)  # type: ignore[index]
    assert len(measured.notices) == 2
    assert measured.geometry.affine is None
    assert "Doe" not in repr(measured)


def test_frames_of_a_slice_become_the_third_axis(tmp_path: Path) -> None:
    """Each frame has its own lines, none of them enough for maps: those of the mean of the frames serve all."""
    frames = 4
    x, maps = image(32, 30, 1), birdcage_maps(COILS, (32, 30, 1)).to(torch.complex64)
    k = centred_fft(maps * x, (-3, -2)).repeat(1, 1, 1, frames)
    for frame in range(frames):
        k[:, :, torch.arange(30) % frames != frame, frame] = 0
    stored = k.permute(1, 2, 0, 3).numpy().reshape(32, 30, 1, COILS, *[1] * 6, frames)
    reader = BARTReader(voxel_size=[1.5, 2.0, 8.0], noise_std=0.0)
    measured = reader.read(cfl(tmp_path / "k.cfl", stored))
    assert torch.equal(measured.data, k)
    assert measured.geometry.shape == (32, 30, frames)
    assert (measured.geometry.spacing, measured.geometry.affine) == ((1.5, 2.0, 1.5), None)
    assert measured.operator is not None
    assert torch.equal(measured.operator["mask"], (k != 0).any(0))
    found = measured.operator["coil_maps"]
    assert torch.equal(found, found[..., :1].expand(found.shape))
    inside = x.abs()[..., 0] > 0
    agreement = (found[..., 0].conj() * maps[..., 0]).sum(0).abs() / maps[..., 0].norm(dim=0)
    assert float(agreement[inside].min()) > 0.98
    cfl(tmp_path / "maps.cfl", maps.permute(1, 2, 3, 0).numpy())
    given = BARTReader(maps=str(tmp_path / "maps.cfl"), noise_std=0.0).read(tmp_path / "k.cfl")
    assert given.operator is not None
    assert torch.equal(given.operator["coil_maps"], maps.expand(-1, -1, -1, frames))
    with pytest.raises(ConfigError) as caught:
        BARTReader(axes="RAS", noise_std=0.0).read(tmp_path / "k.cfl")
    assert caught.value.where == "reader#axes"


def test_the_laws_of_a_reader(tmp_path: Path) -> None:
    (tmp_path / "laws").mkdir()
    k = centred_fft(image(20, 18, 4)[None], (-3, -2, -1)).permute(1, 2, 3, 0).numpy()
    check_reader(BARTReader(), tmp_path / "laws", cfl(tmp_path / "k.cfl", k))


SMALL = np.ones((4, 4, 1, 1), np.complex64)


@pytest.mark.parametrize(
    ("array", "dims"),
    [
        (SMALL, "4 4 1 2"),
        (SMALL, "4 4 1 x"),
        (SMALL, "4 -4 1 -1"),
        (SMALL, ""),
        (SMALL, "99999 99999 99999 99999"),
        (SMALL, "4 2 1 1 2"),
        (SMALL, "4 1 2 1 1 1 1 1 1 1 1 1 1 2"),
        (SMALL, "4 1 2 1 1 1 1 1 1 1 2"),
        (SMALL, "4 1 1 1 1 1 1 1 1 1 2 1 1 2"),
        (SMALL, " ".join(["1"] * 40)),
        (0 * SMALL, None),
        (np.nan * SMALL, None),
        (1e20 * SMALL, None),
    ],
)
def test_what_is_refused(tmp_path: Path, array: np.ndarray, dims: str | None) -> None:
    (tmp_path / "Doe").mkdir()
    with pytest.raises(InputError) as caught:
        BARTReader(noise_std=0.0).read(cfl(tmp_path / "Doe" / "k.cfl", array, dims))
    assert "Doe" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_maps_of_another_shape_and_options(tmp_path: Path) -> None:
    maps = cfl(tmp_path / "maps.cfl", np.ones((4, 4, 1, 2)))
    with pytest.raises(InputError):
        BARTReader(maps=str(maps)).read(cfl(tmp_path / "k.cfl", SMALL))
    for options in ({"voxel_size": [1, 2]}, {"voxel_size": 0.0}, {"axes": "RRS"}, {"coil_maps": "x"}):
        with pytest.raises(ConfigError):
            BARTReader(**options)  # type: ignore[arg-type]
    assert math.isclose(BARTReader(voxel_size=2).voxel_size[2], 2.0)
