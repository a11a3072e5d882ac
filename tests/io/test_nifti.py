# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.io.nifti_reader import NIfTIReader
from monai_diffrecon.protocols import VolumeGeometry

# A rotation about X and anisotropic voxels, with an origin: an oblique acquisition.
_C, _S = np.cos(0.2), np.sin(0.2)
OBLIQUE = np.array([[1.0, 0, 0, -12], [0, 2 * _C, -3 * _S, 7], [0, 2 * _S, 3 * _C, 40], [0, 0, 0, 1]])


def _volume(shape: tuple[int, ...] = (1, 4, 5, 6)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 300


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_round_trip_keeps_voxels_and_affine(tmp_path: Path, suffix: str) -> None:
    volume, geometry = _volume(), geometry_of((4, 5, 6), OBLIQUE)
    write_volume(tmp_path / f"v{suffix}", volume, geometry)
    again, where = read_volume(tmp_path / f"v{suffix}")
    assert torch.equal(again, volume)
    assert again.dtype == torch.float32
    assert again.is_contiguous()
    np.testing.assert_allclose(affine_of(where), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(where.spacing, (1, 2, 3), rtol=1e-6)
    assert where.shape == (4, 5, 6)


def test_header_says_the_geometry_and_nothing_else(tmp_path: Path) -> None:
    write_volume(tmp_path / "Doe_John.nii.gz", _volume(), geometry_of((4, 5, 6), OBLIQUE))
    header = nib.load(tmp_path / "Doe_John.nii.gz").header
    assert int(header["qform_code"]) == int(header["sform_code"]) == 1
    np.testing.assert_allclose(header.get_qform(), OBLIQUE, atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.float32
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        assert bytes(header[field].item()) == b""
    assert not header.extensions
    packed = (tmp_path / "Doe_John.nii.gz").read_bytes()
    assert b"Doe" not in packed  # gzip keeps a file name, unless told otherwise
    assert packed[4:8] == b"\0\0\0\0"  # and a time, which would make equal volumes differ


def test_a_slice_of_all_volumes_is_a_series_along_the_third_axis(tmp_path: Path) -> None:
    """Axes stay as stored, although the header says that the first runs to the left."""
    stored = np.arange(4 * 5 * 2 * 3, dtype=np.int16).reshape(4, 5, 2, 3)
    image = nib.Nifti1Image(stored, np.diag([-1.5, 2.0, 8.0, 1.0]))
    image.header.set_slope_inter(0.5, 1.0)
    nib.save(image, tmp_path / "cine.nii.gz")
    measured = NIfTIReader(series=1).read(tmp_path / "cine.nii.gz")
    expected = np.asarray(nib.load(tmp_path / "cine.nii.gz").dataobj)[:, :, 1]
    np.testing.assert_array_equal(measured.data[0].numpy(), expected)
    assert measured.geometry == VolumeGeometry((4, 5, 3), (1.5, 2.0, 1.5))
    assert len(measured.notices) == 1
    for series, file in ((2, "cine.nii.gz"), (0, "one.nii")):
        nib.save(nib.Nifti1Image(stored[..., 0], np.eye(4)), tmp_path / "one.nii")
        with pytest.raises(InputError) as caught:
            NIfTIReader(series=series).read(tmp_path / file)
        assert caught.value.where == file
    with pytest.raises(ConfigError):
        NIfTIReader(volume=0, series=0)


def test_int16_is_within_half_a_quantum(tmp_path: Path) -> None:
    volume = _volume()
    write_volume(tmp_path / "v.nii", volume, VolumeGeometry((4, 5, 6)), dtype="int16")
    assert nib.load(tmp_path / "v.nii").get_data_dtype() == np.int16
    again, geometry = read_volume(tmp_path / "v.nii")
    quantum = float(volume.max() - volume.min()) / 65535
    assert 0 < float((again - volume).abs().max()) <= 0.51 * quantum
    np.testing.assert_array_equal(affine_of(geometry), np.eye(4))


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "ASR", "IRP"])
def test_any_orientation_is_read_as_ras_with_the_right_affine(tmp_path: Path, axcodes: str) -> None:
    volume = _volume()[0].numpy()
    ras = nib.Nifti1Image(volume, OBLIQUE)
    start = nib.orientations.io_orientation(OBLIQUE)
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axcodes))
    stored = ras.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(stored.affine)) == axcodes
    nib.save(stored, tmp_path / "v.nii")
    again, geometry = read_volume(tmp_path / "v.nii")
    np.testing.assert_array_equal(again[0].numpy(), volume)
    np.testing.assert_allclose(affine_of(geometry), OBLIQUE, atol=1e-4)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_agrees_with_monai(tmp_path: Path) -> None:
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation

    affine = np.diag([-2.0, -1.0, 3.0, 1.0])
    affine[:3, 3] = 90, 80, -7
    nib.save(nib.Nifti1Image(_volume()[0].numpy(), affine), tmp_path / "v.nii.gz")
    ours, geometry = read_volume(tmp_path / "v.nii.gz")
    load = [LoadImage(image_only=True), EnsureChannelFirst(), Orientation(axcodes="RAS", labels=None)]
    theirs = Compose(load)(str(tmp_path / "v.nii.gz"))
    assert torch.equal(ours, theirs.as_tensor())
    np.testing.assert_allclose(affine_of(geometry), theirs.affine.numpy())


def test_trailing_axes_of_length_one(tmp_path: Path) -> None:
    volume = _volume()[0].numpy()
    nib.save(nib.Nifti1Image(volume[..., None, None], OBLIQUE), tmp_path / "v.nii")
    assert read_volume(tmp_path / "v.nii")[0].shape == (1, 4, 5, 6)
    nib.save(nib.Nifti1Image(volume[..., :1], OBLIQUE), tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii")[0].shape == (1, 4, 5, 1)


@pytest.mark.parametrize(
    ("array", "expected", "got"),
    [
        (np.zeros((4, 5), np.float32), "three axes", "shape (4, 5)"),
        (np.zeros((4, 5, 6, 2), np.float32), "three axes", "shape (4, 5, 6, 2): 2 volumes, numbered from 0 to 1"),
        (np.zeros((4, 5, 6), np.complex64), None, "complex64"),
        (np.full((4, 5, 6), np.nan, np.float32), "numbers", "120 voxels of NaN or infinity"),
        (np.full((4, 5, 6), np.inf, np.float32), "numbers", "120 voxels of NaN or infinity"),
        (np.full((4, 5, 6), 1e300), "numbers", "120 voxels of NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_what_is_no_volume_is_refused(tmp_path: Path, array: np.ndarray, expected: object, got: object) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "v.nii")
    assert (caught.value.expected, caught.value.got) == (expected, got)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.6])
def test_truncated_file(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"v{suffix}"
    write_volume(path, _volume((1, 12, 12, 12)), VolumeGeometry((12, 12, 12)))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.where == path.name
    assert caught.value.got is not None
    assert str(tmp_path) not in str(caught.value)


def test_flipped_byte_in_the_compressed_stream(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(path, _volume((1, 12, 12, 12)), VolumeGeometry((12, 12, 12)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.where == "v.nii.gz"
    assert caught.value.got is not None


def test_missing_other_format_and_junk(tmp_path: Path) -> None:
    (tmp_path / "junk.nii").write_bytes(b"junk" * 200)
    for name, got in (("no.nii", None), ("v.mha", ".mha"), ("junk.nii", "data code 28267 not recognized")):
        with pytest.raises(InputError) as caught:
            read_volume(tmp_path / name)
        assert (caught.value.where, caught.value.got) == (name, got)


def test_flat_affine_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii", _volume(), geometry_of((4, 5, 6)))
    data = bytearray((tmp_path / "v.nii").read_bytes())
    data[296:312] = bytes(16)  # srow_y
    (tmp_path / "v.nii").write_bytes(bytes(data))
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "v.nii")
    assert caught.value.where == "v.nii"
    assert "affine" in caught.value.what


def test_header_without_orientation_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.save(nib.Nifti1Image(_volume()[0].numpy(), None), tmp_path / "v.nii")
    with caplog.at_level(logging.WARNING):
        read_volume(tmp_path / "v.nii")
    assert "says no orientation" in caplog.text


def test_write_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    geometry = VolumeGeometry((4, 5, 6))
    for volume in (_volume()[0], _volume((1, 4, 5, 7)), _volume().to(torch.complex64)):
        with pytest.raises(InputError) as caught:
            write_volume(tmp_path / "v.nii", volume, geometry)
        assert (caught.value.where, caught.value.expected) == ("v.nii", "real numbers of shape (1, 4, 5, 6)")
    with pytest.raises(InputError) as caught:
        write_volume(tmp_path / "v.nii", torch.full((1, 4, 5, 6), float("nan")), geometry)
    assert (caught.value.where, caught.value.expected) == ("v.nii", None)
    with pytest.raises(ConfigError) as caught:
        write_volume(tmp_path / "v.nii", _volume(), geometry, dtype="uint8")
    assert (caught.value.where, caught.value.got) == ("dtype", "'uint8'")
    with pytest.raises(InputError) as caught:
        write_volume(tmp_path / "v.png", _volume(), geometry)
    assert (caught.value.where, caught.value.got) == ("v.png", ".png")
    with pytest.raises(InputError) as caught:
        write_volume(tmp_path / "no" / "v.nii", _volume(), geometry)
    assert (caught.value.where, caught.value.expected) == ("v.nii", "an existing folder")
    assert os.listdir(tmp_path) == []
