# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""FreeSurfer, Analyze, NIfTI pairs and MINC: files of other software, and what is refused."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from nibabel.testing import data_path
from scipy.io import netcdf_file

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.images.nibabel_reader import NibabelReader

from ...raising import raises

VALUES = np.random.default_rng(0).integers(-900, 1500, (7, 6, 5)).astype(np.int16)
TURNED = np.array([[-0.7, 0.0, 0.0, 40.0], [0.0, 0.0, 2.0, -20.0], [0.0, 0.9, 0.0, 7.5], [0.0, 0.0, 0.0, 1.0]])
IN_RAS = VALUES[::-1].transpose(0, 2, 1)
AFFINE = [[0.7, 0, 0, 35.8], [0, 2.0, 0, -20], [0, 0, 0.9, 7.5], [0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mgh", "scan.hdr"])
def test_axes_are_flipped_and_swapped(tmp_path: Path, name: str) -> None:
    """The pair is one of NIfTI."""
    kind = nib.Nifti1Pair if name == "scan.hdr" else nib.MGHImage
    kind(VALUES, TURNED).to_filename(tmp_path / name)
    found, measured = read_scan(tmp_path / name)
    assert found == "nibabel"
    np.testing.assert_array_equal(measured.data[0].numpy(), IN_RAS)
    np.testing.assert_allclose(np.array(measured.geometry.affine), AFFINE, atol=1e-5)
    assert measured.notices == ()


def test_freesurfer_without_an_orientation(tmp_path: Path) -> None:
    nib.MGHImage(VALUES, TURNED).to_filename(tmp_path / "scan.mgh")
    content = bytearray((tmp_path / "scan.mgh").read_bytes())
    content[28:30] = bytes(2)  # goodRASFlag
    (tmp_path / "scan.mgh").write_bytes(content)
    measured = NibabelReader().read(tmp_path / "scan.mgh")
    assert measured.geometry.affine is None
    assert len(measured.notices) == 1
    np.testing.assert_array_equal(measured.data[0].numpy(), VALUES)


def test_analyze_says_nothing_of_directions(tmp_path: Path, itk_write: Callable[..., None]) -> None:
    """Not even where another program wrote a matrix beside it."""
    nib.Spm99AnalyzeImage(VALUES, TURNED).to_filename(tmp_path / "scan.img")
    assert (tmp_path / "scan.mat").exists()
    name, measured = read_scan(tmp_path / "scan.hdr")
    assert name == "nibabel"
    assert measured.geometry.affine is None
    assert measured.geometry.spacing == pytest.approx((0.7, 0.9, 2.0))
    assert len(measured.notices) == 1
    np.testing.assert_array_equal(measured.data[0].numpy(), VALUES)


def test_minc2_of_itk(tmp_path: Path, itk_write: Callable[..., None], images: Any) -> None:
    for affine, values in ((TURNED, IN_RAS), (np.array(images.oblique().affine), VALUES)):
        itk_write(tmp_path / "scan.mnc", VALUES, affine)
        measured = NibabelReader().read(tmp_path / "scan.mnc")
        np.testing.assert_allclose(measured.data[0].numpy(), values, atol=0.02)  # scaled slice by slice
        expected = AFFINE if affine is TURNED else affine
        np.testing.assert_allclose(np.array(measured.geometry.affine), expected, atol=1e-4)


def minc1(path: Path) -> Path:
    with netcdf_file(path, "w") as file:
        for axis, (n, start, step) in {"z": (5, -3.0, 2.0), "y": (6, 4.0, 0.9), "x": (7, 40.0, -0.7)}.items():
            file.createDimension(f"{axis}space", n)
            variable = file.createVariable(f"{axis}space", "d", ())
            variable.start, variable.step, variable.spacing = start, step, "regular__"
        image = file.createVariable("image", "h", ("zspace", "yspace", "xspace"))
        image[:] = VALUES.transpose(2, 1, 0)
        image.valid_range, image.signtype = np.array([-1000.0, 2000.0]), "signed__"
        for name, value in (("image-min", -100.0), ("image-max", 200.0)):
            file.createVariable(name, "d", ("zspace",))[:] = value
    return path


def test_minc1(tmp_path: Path) -> None:
    """Stored -1000 to 2000 are -100 to 200, as image-min and image-max say."""
    measured = NibabelReader().read(minc1(tmp_path / "scan.mnc"))
    np.testing.assert_allclose(measured.data[0].numpy(), VALUES[::-1] / 10, atol=1e-4)
    expected = [[0.7, 0, 0, 35.8], [0, 0.9, 0, 4], [0, 0, 2, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(np.array(measured.geometry.affine), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["minc1_1_scale.mnc", "minc2_1_scale.mnc", "small.mnc"])
def test_files_of_minc_tools(name: str) -> None:
    """Those that come with nibabel."""
    image = nib.as_closest_canonical(nib.load(Path(data_path) / name))
    measured = NibabelReader().read(Path(data_path) / name)
    np.testing.assert_allclose(measured.data[0].numpy(), image.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(np.array(measured.geometry.affine), image.affine, atol=1e-9)


def mgh(path: Path, change: Callable[[bytearray], object] = len, values: np.ndarray = VALUES) -> Path:
    nib.MGHImage(values, TURNED).to_filename(path.with_suffix(".mgh"))
    content = bytearray(path.with_suffix(".mgh").read_bytes())
    change(content)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".mgz" else bytes(content))
    return path


def pair(path: Path, change: Callable[[bytearray], object] = len) -> Path:
    nib.AnalyzeImage(VALUES, TURNED).to_filename(path.with_suffix(".img"))
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def minc2(path: Path, change: Callable[[Any], object]) -> Path:
    path.write_bytes((Path(data_path) / "minc2_1_scale.mnc").read_bytes())
    with h5py.File(path, "a") as file:
        change(file["minc-2.0"])
    return path


def _linked(root: Any) -> None:
    del root["image/0/image"]
    root["image/0/image"] = h5py.ExternalLink("secret.h5", "/x")


def _huge(root: Any) -> None:
    attributes = dict(root["image/0/image"].attrs)
    del root["image/0/image"]
    root["image/0"].create_dataset("image", (60000, 60000, 60000), "u1", chunks=(1, 60, 60)).attrs.update(attributes)


def _without_order(root: Any) -> None:
    del root["image/0/image"].attrs["dimorder"]


def _nan(root: Any) -> None:
    root["image/0/image-max"][...] = np.nan


def test_minc_without_the_order_of_its_axes(tmp_path: Path) -> None:
    with raises(InputError, where="scan.mnc", expected=...):
        NibabelReader().read(minc2(tmp_path / "scan.mnc", _without_order))


def test_scales_of_minc_without_an_order_belong_to_the_first_axis(tmp_path: Path) -> None:
    """As in libminc. There are as many slices as columns, so that scales of the columns would give no error."""
    stored = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)

    def change(root: Any) -> None:
        group, attributes = root["image/0"], dict(root["image/0/image"].attrs)
        del group["image"], group["image-max"], group["image-min"]
        group.create_dataset("image", data=stored).attrs.update(attributes)
        group["image-min"], group["image-max"] = np.zeros(4), 255.0 * np.arange(1.0, 5.0)

    found = NibabelReader().read(minc2(tmp_path / "scan.mnc", change)).data[0].numpy()
    np.testing.assert_allclose(found, (stored * np.arange(1.0, 5.0)[:, None, None]).T, rtol=1e-6)


BROKEN: dict[str, Callable[[Path], Path]] = {
    "truncated mgh": lambda p: mgh(p / "scan.mgh", lambda c: c.__delitem__(slice(400, None))),
    "huge mgh": lambda p: mgh(p / "scan.mgh", lambda c: struct.pack_into(">3i", c, 4, 60000, 60000, 60000)),
    "huge mgz": lambda p: mgh(p / "scan.mgz", lambda c: struct.pack_into(">3i", c, 4, 60000, 60000, 60000)),
    "negative mgh": lambda p: mgh(p / "scan.mgh", lambda c: struct.pack_into(">3i", c, 4, -7, -6, 5)),
    "unknown type of mgh": lambda p: mgh(p / "scan.mgh", lambda c: struct.pack_into(">i", c, 20, 99)),
    "time series": lambda p: mgh(p / "scan.mgz", values=np.stack([VALUES, VALUES], axis=-1)),
    "not gzip": lambda p: (p / "scan.mgz").write_bytes(b"x" * 999) and p / "scan.mgz",
    "huge pair": lambda p: pair(p / "scan.hdr", lambda c: struct.pack_into("<3h", c, 42, 32000, 32000, 32000)),
    "pair of colours": lambda p: pair(p / "scan.hdr", lambda c: struct.pack_into("<2h", c, 70, 128, 24)),
    "voxels of 0 mm": lambda p: pair(p / "scan.hdr", lambda c: struct.pack_into("<f", c, 80, 0.0)),
    "short header": lambda p: pair(p / "scan.hdr", lambda c: c.__delitem__(slice(300, None))),
    "no voxels": lambda p: pair(p / "scan.hdr").rename(p / "other.hdr"),
    "minc of another file": lambda p: minc2(p / "scan.mnc", _linked),
    "huge minc": lambda p: minc2(p / "scan.mnc", _huge),
    "minc of unknown axes": lambda p: minc2(p / "scan.mnc", _without_order),
    "minc of NaN": lambda p: minc2(p / "scan.mnc", _nan),
    "time series of minc 1": lambda p: Path(data_path) / "minc1_4d.mnc",
    "time series of minc 2": lambda p: Path(data_path) / "minc2_4d.mnc",
    "truncated minc 1": lambda p: (
        (p / "scan.mnc").write_bytes(minc1(p / "x.mnc").read_bytes()[:-20]) and p / "scan.mnc"
    ),
    "no minc": lambda p: (p / "scan.mnc").write_bytes(b"CDF\1" + bytes(30)) and p / "scan.mnc",
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "Doe").mkdir()
    path = BROKEN[name](tmp_path / "Doe")
    with pytest.raises(InputError) as caught:
        NibabelReader().read(path)
    assert "Doe" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_headers_of_other_software_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "kspace.hdr").write_text("# Dimensions\n4 4 1 1\n")
    assert not NibabelReader().recognises(tmp_path / "kspace.hdr")
