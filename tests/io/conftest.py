# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DICOM files for tests: what a scanner would write, with a patient in them."""

from __future__ import annotations

import locale
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

ROOT = "1.2.826.0.1.3680043.10.777."
#: Values that must not come out of anything.
SECRETS = {
    "PatientName": "Canaryman^John",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19700102",
    "StudyDate": "20190304",
    "SeriesDate": "20190305",
    "AcquisitionDate": "20190306",
    "AcquisitionTime": "101112.131415",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "Saint Elsewhere",
    "ReferringPhysicianName": "Quack^Q",
    "SeriesDescription": "AX T1 Canaryman",
    "ProtocolName": "Canaryman head",
    "StudyInstanceUID": ROOT + "1",
    "DeviceSerialNumber": "SN-999",
}
PRIVATE = "private-Canaryman-4711"
#: The one UID that a derived series shares with its source.
FRAME = "1.2.3.4.5.6.7.8.9"


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Return a rotation matrix from angles (rad) about the axes."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


#: Columns: along a row, along a column, along the normal; LPS.
OBLIQUE = rotation(0.2, -0.15, 0.3)
ORIGIN = np.array([-30.25, -41.5, 12.125])


def stored(shape: tuple[int, int, int] = (9, 8, 5), seed: int = 0) -> np.ndarray:
    """Return stored values (columns, rows, slices), positive int16."""
    return np.random.default_rng(seed).integers(1, 1500, shape).astype(np.int16)


def make_slice(values: np.ndarray, position: np.ndarray, axes: np.ndarray, number: int, **changes: Any) -> FileDataset:
    """Return one MR slice; ``values`` are (columns, rows); a change to None takes an attribute out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = changes.get("SOPClassUID", MRImageStorage)
    meta.MediaStorageSOPInstanceUID = f"{ROOT}2.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in (SECRETS | {"FrameOfReferenceUID": FRAME}).items():
        setattr(ds, keyword, value)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber, ds.Modality = ROOT + "9", 4, number, "MR"
    ds.ImageType, ds.PatientPosition = ["ORIGINAL", "PRIMARY", "M"], "HFS"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", ["SK", "SP"], ""
    ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "2D", 8.5, 3.25, 1
    ds.MagneticFieldStrength = 1.5
    ds.ImagePositionPatient = [round(float(v), 8) for v in position]
    ds.ImageOrientationPatient = [round(float(v), 10) for v in axes[:, :2].T.reshape(-1)]
    ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 4.0
    ds.Columns, ds.Rows = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    block = ds.private_block(0x0029, "SECRET VENDOR", create=True)
    block.add_new(0x01, "LO", PRIVATE)
    ds.PixelData = np.ascontiguousarray(values.T).astype("<i2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def make_series(
    values: np.ndarray,
    *,
    axes: np.ndarray = OBLIQUE,
    origin: np.ndarray = ORIGIN,
    step: float = 4.0,
    **changes: Any,
) -> list[FileDataset]:
    """Return an MR series of slices ``step`` mm apart along the third of ``axes``."""
    normal = axes[:, 2]
    return [
        make_slice(values[..., k], origin + k * step * normal, axes, k + 1, **changes) for k in range(values.shape[2])
    ]


def make_ct(values: np.ndarray, **changes: Any) -> list[FileDataset]:
    """Return a CT series, feet first in the file order, 3 mm, not oblique; the slope rises from slice to slice."""
    ct = {"Modality": "CT", "SOPClassUID": CTImageStorage, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "KVP": 120}
    ct |= {"SliceThickness": 3.0, "PixelSpacing": [0.75, 0.5], "RescaleIntercept": -1024}
    series = make_series(values, axes=np.eye(3), step=-3.0, **(ct | changes))
    for k, ds in enumerate(series):
        ds.RescaleSlope = 1 + k
        for keyword in ("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime"):
            delattr(ds, keyword)
        for keyword in ("EchoTime", "EchoTrainLength", "MagneticFieldStrength"):
            delattr(ds, keyword)
    return series


def make_enhanced(values: np.ndarray, *, axes: np.ndarray = OBLIQUE, step: float = 4.0, **changes: Any) -> FileDataset:
    """Return an enhanced multi-frame MR image with the frames' order reversed."""
    one = make_slice(values[..., 0], ORIGIN, axes, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(one, keyword)
    count = values.shape[2]
    frames = []
    for k in reversed(range(count)):
        place, rescale, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [round(float(v), 8) for v in ORIGIN + k * step * axes[:, 2]]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 0.5, 3.0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [rescale]
        frames.append(frame)
    turn, size, shared = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = [round(float(v), 10) for v in axes[:, :2].T.reshape(-1)]
    size.PixelSpacing, size.SliceThickness, size.SpacingBetweenSlices = [1.0, 1.0], 3.0, step
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [size]
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], frames
    one.NumberOfFrames = count
    one.PixelData = np.ascontiguousarray(values[..., ::-1].transpose(2, 1, 0)).astype("<i2").tobytes()
    for keyword, value in changes.items():
        setattr(one, keyword, value)
    return one


def save(folder: Path, series: list[FileDataset]) -> Path:
    """Write a series; the names of the files say nothing of the order."""
    folder.mkdir(parents=True, exist_ok=True)
    for ds in series:
        ds.save_as(folder / f"IM{(7 * int(ds.InstanceNumber)) % 101:03d}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def itk() -> Iterator[SimpleNamespace]:
    """Those modules of itk that are needed: all of it takes long, and its warnings come from C code."""
    import importlib

    names = "GDCMImageIO ImageFileReader ImageFileWriter ImageSeriesReader PyBuffer"
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names.split():
            found |= vars(importlib.import_module(f"itk.itk{name}Python"))
        found |= vars(importlib.import_module("itk.ITKIOGDCMPython"))
    before = locale.setlocale(locale.LC_ALL)
    yield SimpleNamespace(**{k.removeprefix("itk"): v for k, v in found.items() if k.startswith("itk")})
    locale.setlocale(locale.LC_ALL, before)  # itk's writer leaves it at C


@pytest.fixture(scope="session")
def dicom() -> SimpleNamespace:
    """The functions and values above: test files cannot import one another."""
    names = "SECRETS PRIVATE FRAME ROOT OBLIQUE ORIGIN rotation stored make_slice make_series make_ct make_enhanced"
    return SimpleNamespace(**{name: globals()[name] for name in [*names.split(), "save"]})
