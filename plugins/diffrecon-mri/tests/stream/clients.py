# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Clients made of the packages' own writers and readers, and what they read back."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer

TIMEOUT = 60.0


def open_scan(path: Path) -> tuple[Any, list[ismrmrd.Acquisition]]:
    """Return header and acquisitions of a file."""
    with ismrmrd.File(path, "r") as file:
        return file["dataset"].header, list(file["dataset"].acquisitions)


def ismrmrd_bytes(*messages: Any, close: bool = True) -> bytes:
    stream = io.BytesIO()
    writer = ProtocolSerializer(stream)
    for message in messages:
        writer.serialize(message)
    if close:
        writer.close()
    return stream.getvalue()


def scan_bytes(path: Path, config: str | None = None) -> bytes:
    header, acquisitions = open_scan(path)
    first = [] if config is None else [ConfigText(config) if config.startswith("{") else ConfigFile(config)]
    return ismrmrd_bytes(*first, header, *acquisitions)


def connect(address: tuple[str, int], seconds: float = TIMEOUT) -> socket.socket:
    return socket.create_connection(address, timeout=seconds)


def ask(address: tuple[str, int], data: bytes, seconds: float = TIMEOUT) -> bytes:
    """Send, and return the whole answer."""
    with connect(address, seconds) as connection:
        connection.sendall(data)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def answer(data: bytes) -> tuple[list[str], list[ismrmrd.Image]]:
    """Return texts and images of an answer that ends with CLOSE."""
    with ProtocolDeserializer(io.BytesIO(data)) as reader:
        said = list(reader.deserialize())
        assert not reader._stream.read()
    return [m for m in said if isinstance(m, str)], [m for m in said if isinstance(m, ismrmrd.Image)]


def as_volume(images: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the array (columns, rows, slices) of ISMRMRD images and its affine, RAS+ world coordinates."""
    images = list(images)
    data = np.concatenate([image.data[0] for image in images]).transpose(2, 1, 0)
    first, last = images[0], images[-1]
    depth = images[0].data.shape[1]
    sizes = np.array(first.field_of_view) / [data.shape[0], data.shape[1], depth]
    columns = np.stack([first.read_dir, first.phase_dir, first.slice_dir], -1) * sizes
    if len(images) > 1:
        columns[:, 2] = (np.array(last.position) - np.array(first.position)) / (len(images) - 1)
    affine = np.eye(4)
    affine[:3, :3] = columns
    middle = [data.shape[0] // 2, data.shape[1] // 2, 0 if len(images) > 1 or depth == 1 else depth // 2]
    affine[:3, 3] = np.array(first.position) - columns @ middle
    return data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def mrd_bytes(path: Path, *, end: bool = True) -> bytes:
    """Return the same scan as a stream of MRD 2."""
    import mrd

    header, acquisitions = open_scan(path)
    said = header.encoding[0]

    def space(of: Any) -> Any:
        size, fov = of.matrixSize, of.fieldOfView_mm
        return mrd.EncodingSpaceType(
            matrix_size=mrd.MatrixSizeType(x=size.x, y=size.y, z=size.z),
            field_of_view_mm=mrd.FieldOfViewMm(x=fov.x, y=fov.y, z=fov.z),
        )

    names = ("kspace_encoding_step_1", "kspace_encoding_step_2", "slice")
    limits = {name: getattr(said.encodingLimits, name) for name in names}
    factor = said.parallelImaging.accelerationFactor
    encoding = mrd.EncodingType(
        encoded_space=space(said.encodedSpace),
        recon_space=space(said.reconSpace),
        encoding_limits=mrd.EncodingLimitsType(
            **{n: mrd.LimitType(minimum=v.minimum, maximum=v.maximum, center=v.center) for n, v in limits.items()}
        ),
        trajectory=mrd.Trajectory[said.trajectory.value.upper()],
        parallel_imaging=mrd.ParallelImagingType(
            acceleration_factor=mrd.AccelerationFactorType(**{n: int(getattr(factor, n)) for n in names[:2]})
        ),
    )
    subject = header.subjectInformation and mrd.SubjectInformationType(
        patient_name=header.subjectInformation.patientName
    )
    stream = io.BytesIO()
    writer = mrd.BinaryMrdWriter(stream)
    writer.write_header(mrd.Header(encoding=[encoding], subject_information=subject))
    writer.write_data([mrd.StreamItem.Acquisition(mrd_acquisition(a)) for a in acquisitions])
    if end:
        writer.close()
    else:
        writer._stream.flush()
    return stream.getvalue()


def mrd_acquisition(acquisition: ismrmrd.Acquisition) -> Any:
    import mrd

    head, idx = acquisition.getHead(), acquisition.idx
    counters = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition")
    vectors = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
    return mrd.Acquisition(
        head=mrd.AcquisitionHeader(
            flags=mrd.AcquisitionFlags(head.flags),
            idx=mrd.EncodingCounters(**{name: getattr(idx, name) for name in counters}),
            sample_time_us=head.sample_time_us,
            center_sample=head.center_sample,
            **{name: np.array(getattr(head, name), np.float32) for name in vectors},
        ),
        data=np.array(acquisition.data),
        trajectory=np.ascontiguousarray(acquisition.traj.T),
    )


def mrd_images(data: bytes) -> list[Any]:
    """Return the images of a stream of MRD 2, with the names of ISMRMRD's fields."""
    import mrd

    with mrd.BinaryMrdReader(io.BytesIO(data)) as reader:
        assert reader.read_header() is None
        images = [item.value for item in reader.read_data()]
    for image in images:
        for name, own in (("read_dir", "col_dir"), ("phase_dir", "line_dir")):
            setattr(image, name, getattr(image.head, own))
        image.slice_dir, image.position = image.head.slice_dir, image.head.position
        image.field_of_view = image.head.field_of_view
    return images
