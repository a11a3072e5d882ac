# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Helical scans of balls, whose line integrals are known, written as the format's manual says (version 3)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SOURCE, DETECTOR, COLUMNS, ROWS, COLUMN, ROW = 200.0, 360.0, 80, 12, 1.8, 3.6
CENTER = (42.25, 6.5)  # column and row from 1
TURN, FEED, SCALE = 72, 18.0, 1e-4
#: Centre (x to the left of the patient, y to the front, z to the head), radius in mm, attenuation in 1/mm.
BALLS = (((10.0, 6.0, 30.0), 16.0, 0.02), ((-15.0, -8.0, 24.0), 6.0, 0.03))


def projection(angle: float, z: float, detector: str) -> np.ndarray:
    """Return line integrals (rows, columns): left-handed axes, source at (-sin, cos), row 1 has the largest z."""
    source = np.array([-SOURCE * np.sin(angle), SOURCE * np.cos(angle), z])
    forward, right = -source / SOURCE * [1, 1, 0], np.array([np.cos(angle), np.sin(angle), 0.0])
    u = (np.arange(1, COLUMNS + 1) - CENTER[0]) * COLUMN
    v = (CENTER[1] - np.arange(1, ROWS + 1)) * ROW
    gamma = u / DETECTOR if detector == "CYLINDRICAL" else np.arctan(u / DETECTOR)
    reach = DETECTOR if detector == "CYLINDRICAL" else np.hypot(DETECTOR, u)
    rays = np.cos(gamma)[:, None] * forward + np.sin(gamma)[:, None] * right
    rays = rays * np.broadcast_to(reach, u.shape)[:, None] + np.array([0.0, 0.0, 1.0]) * v[:, None, None]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    sums = np.zeros((ROWS, COLUMNS))
    for middle, radius, value in BALLS:
        to = np.array(middle) - source
        missed = (to**2).sum() - (rays @ to) ** 2
        sums += value * 2.0 * np.sqrt(np.maximum(radius**2 - missed, 0.0))
    return sums


def write(
    folder: Path, detector: str = "CYLINDRICAL", sense: int = 1, typed: bool = True, water: str = "", turn: int = TURN
) -> Path:
    """Write three and a half turns of so many views; without ``typed`` as bytes, whose type no header states."""
    folder.mkdir(exist_ok=True)
    for i in range(int(3.5 * turn)):
        angle, z = (0.4 + sense * 2 * np.pi * i / turn) % (2 * np.pi), i * FEED / turn
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.{i + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if typed else ImplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality, ds.InstanceNumber = CTImageStorage, f"1.2.{i + 1}", "CT", i + 1
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = COLUMNS, ROWS, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept = SCALE, -0.5
        for group in (0x7029, 0x7031, 0x7033, 0x7039, 0x7041):
            ds.add_new((group, 0x0010), "LO", "module")
        put(ds, typed, 0x70291010, "US", ROWS)
        put(ds, typed, 0x70291011, "US", COLUMNS)
        for tag, value in ((0x70291002, COLUMN), (0x70291006, ROW), (0x70311001, angle), (0x70311002, z)):
            put(ds, typed, tag, "FL", value)
        for tag, value in ((0x70311003, SOURCE), (0x70311031, DETECTOR), (0x70311033, CENTER)):
            put(ds, typed, tag, "FL", value)
        put(ds, typed, 0x7029100B, "CS", detector)
        put(ds, typed, 0x70391009, "CS", "YES")
        if water:
            put(ds, typed, 0x70411001, "DS", water)
        ds.PixelData = np.round((projection(angle, z, detector).T + 0.5) / SCALE).astype("<u2").tobytes()
        # Names that do not sort as the views do.
        ds.save_as(folder / f"{(i * 37) % 1000:03d}.dcm", enforce_file_format=True)
    return folder


def put(ds: FileDataset, typed: bool, tag: int, vr: str, value: Any) -> None:
    if typed:
        ds.add_new(tag, vr, list(value) if isinstance(value, tuple) else value)
        return
    numbers = value if isinstance(value, tuple) else (value,)
    text = isinstance(value, str)
    ds.add_new(
        tag, "UN", value.encode() if text else struct.pack(f"<{len(numbers)}{'H' if vr == 'US' else 'f'}", *numbers)
    )
