# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Scans that declare what they do not hold, or point elsewhere: refused before anything of that size is made."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from monai_diffrecon.errors import InputError
from monai_diffrecon.io import find_reader
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.measurement.file import read_measurement, write_measurement
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.protocols import Measurement, MeasurementReader

SHAPE = (9, 8, 5)


def nifti(shape: tuple[int, int, int], **fields: float) -> bytes:
    """The bytes of a small image whose header says something else."""
    image = nib.Nifti1Image(np.ones(SHAPE, dtype=np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    header = image.header.copy()
    header["dim"][1:4], header["vox_offset"] = shape, 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4) + np.ones(SHAPE, dtype="<f4").tobytes()


@pytest.fixture(autouse=True, scope="module")
def _readers() -> None:
    """Imported before memory is counted."""
    find_reader.readers_of()


def peak_of_refusal(path: Path, says: str) -> int:
    tracemalloc.start()
    with pytest.raises(InputError, match=says):
        read_scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(10000, 10000, 10000), (32767, 32767, 1), (90, 80, 50)])
def test_nifti_that_claims_more_voxels_than_it_holds(tmp_path: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    path = tmp_path / f"scan{suffix}"
    content = nifti(shape)
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    assert peak_of_refusal(path, r"^scan\.nii.*truncated, or a damaged header") < 20e6


def test_nifti_that_inflates_beyond_its_header(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(nifti(SHAPE) + bytes(64 << 20)))
    assert peak_of_refusal(path, "got more") < 20e6


@pytest.mark.parametrize("value", [1e12, float("nan"), 3e38])
def test_nifti_of_no_size(tmp_path: Path, value: float) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(SHAPE, sform_code=1, srow_x=[value, 0, 0, 0], srow_y=[0, 1, 0, 0], srow_z=[0, 0, 1, 0]))
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.where == "scan.nii"
    assert "affine" in caught.value.what


def test_nifti_whose_voxels_begin_at_infinity(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(SHAPE, vox_offset=np.inf))
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.where == "scan.nii"
    assert caught.value.got is not None


def test_another_format_by_the_name_of_nifti_is_not_parsed(tmp_path: Path) -> None:
    """nibabel takes ``x.dscalar.nii`` for CIFTI and parses XML in it; here it is an image."""
    path = tmp_path / "scan.dscalar.nii"
    path.write_bytes(nifti(SHAPE))
    assert read_volume(path)[0].shape == (1, *SHAPE)


def test_dicom_element_longer_than_its_file_is_not_allocated(tmp_path: Path, dicom: SimpleNamespace) -> None:
    folder = dicom.save(tmp_path / "series", dicom.make_series(dicom.stored()))
    path = sorted(folder.iterdir())[0]
    content = bytearray(path.read_bytes())
    at = content.index(b"\x18\x00\x81\x00")  # EchoTime: a decimal string becomes 4 GB of unknown
    content[at + 4 : at + 12] = b"UN\0\0" + (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    assert peak_of_refusal(folder, "DICOM|pixel data") < 20e6


def test_deflated_dicom_is_read(tmp_path: Path, dicom: SimpleNamespace) -> None:
    series = dicom.make_series(dicom.stored())
    plain = read_scan(dicom.save(tmp_path / "plain", series))[1]
    for ds in series:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated = read_scan(dicom.save(tmp_path / "deflated", series))[1]
    assert torch.equal(plain.data, deflated.data)


def test_deflated_dicom_that_grows_without_end(tmp_path: Path, dicom: SimpleNamespace) -> None:
    series = dicom.make_series(dicom.stored())
    for ds in series:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.add_new(0x00091010, "OB", bytes(8 << 20))
    assert peak_of_refusal(dicom.save(tmp_path / "series", series), "decompressed data would be too large") < 20e6


def test_compressed_dicom_that_claims_far_more_pixels_than_its_files(tmp_path: Path, dicom: SimpleNamespace) -> None:
    series = dicom.make_series(dicom.stored())
    for ds in series:
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.Rows = ds.Columns = 65535
    assert peak_of_refusal(dicom.save(tmp_path / "series", series), "declares more pixels") < 20e6


def measurement(geometry_shape: tuple[int, int, int] = SHAPE, **options: object) -> Measurement:
    operator = {"name": "parallel_ct", "views": 4, "detectors": 12, **options}
    return Measurement(torch.ones(4, 12, geometry_shape[2]), geometry_of(geometry_shape), operator)


@pytest.mark.parametrize("value", ["/etc/hostname", "../other.xml", "C:\\other", ["x/y"], {"a": "x/y"}])
def test_a_measurement_names_no_other_file(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError) as caught:
        write_measurement(tmp_path / "scan.h5", measurement(geometry_file=value))
    assert (caught.value.where, caught.value.expected) == (
        "scan.h5#operator/geometry_file",
        "a measurement that contains its whole operator",
    )


def test_a_volume_far_larger_than_its_measurement(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_measurement(tmp_path / "scan.h5", measurement((500_000, 500_000, 5)))
    assert (caught.value.where, caught.value.got) == ("scan.h5#geometry@shape", 1250000000000)


def test_a_unit_that_is_an_array_is_refused(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "scan.h5"
    write_measurement(path, measurement())
    with h5py.File(path, "a") as file:
        file.attrs["unit"] = np.zeros(3)
    with pytest.raises(InputError) as caught:
        read_measurement(path)
    assert (caught.value.where, caught.value.got) == ("scan.h5@unit", "array([0., 0., 0.])")


def test_a_pipe_is_no_measurement_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.h5")
    assert find_reader.recognisers(tmp_path / "scan.h5", find_reader.readers_of()) == []


class _Infinite(MeasurementReader):
    """Reads what no one may go on with."""

    def recognises(self, path: Path) -> bool:
        return True

    def read(self, path: Path) -> Measurement:
        return Measurement(torch.full((1, *SHAPE), torch.inf), geometry_of(SHAPE))


def test_what_a_reader_returns_is_checked(tmp_path: Path) -> None:
    (tmp_path / "scan").touch()
    with pytest.raises(InputError) as caught:
        read_scan(tmp_path / "scan", _Infinite())
    assert caught.value.where == "scan#data"
