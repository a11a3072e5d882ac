# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Headers, acquisitions and images of MRD 2 from and to those of ISMRMRD."""

from __future__ import annotations

from xml.etree import ElementTree

import mrd
import numpy as np

from diffrecon_mri.stream.images import StreamImage
from diffrecon_mri.stream.scan import HEAD
from diffrecon_mri.stream.wire import WHERE
from monai_diffrecon.errors import InputError

_LIMITS = ("minimum", "maximum", "center")
_STEPS = ("kspace_encoding_step_1", "kspace_encoding_step_2")


def row_of(acquisition: mrd.Acquisition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return header, trajectory and samples of an acquisition as ISMRMRD has them.

    Raises:
        InputError: a trajectory that does not belong to the samples.
        OverflowError: a number that ISMRMRD has no place for.
    """
    said, row = acquisition.head, np.zeros((), HEAD)
    row["version"], row["flags"] = 1, said.flags.value
    row["active_channels"], row["number_of_samples"] = acquisition.data.shape
    row["available_channels"] = row["active_channels"]
    row["trajectory_dimensions"] = acquisition.trajectory.shape[0]
    if acquisition.trajectory.size and acquisition.trajectory.shape[1] != acquisition.data.shape[1]:
        raise InputError("a trajectory of another length than the samples", where=WHERE)
    for name in ("measurement_uid", "position", "read_dir", "phase_dir", "slice_dir", "patient_table_position"):
        row[name] = getattr(said, name)
    optional = ("scan_counter", "acquisition_time_stamp", "discard_pre", "discard_post", "center_sample")
    for name in (*optional, "encoding_space_ref", "sample_time_us"):
        row[name] = getattr(said, name) or 0
    for name in HEAD["idx"].names or ():
        if name != "user":
            row["idx"][name] = getattr(said.idx, name) or 0
    stamps = said.physiology_time_stamp[:3]
    row["physiology_time_stamp"][: len(stamps)] = stamps
    trajectory = np.ascontiguousarray(acquisition.trajectory.T, np.float32).ravel()
    return row[()], trajectory, acquisition.data.reshape(-1).view(np.float32)


def xml_of(header: mrd.Header) -> str:
    """Return the XML header of what is read of one: the first encoding, vendor and bandwidth."""
    root = ElementTree.Element("ismrmrdHeader")

    def put(parent: ElementTree.Element, **values: object) -> None:
        for name, value in values.items():
            if value is not None:
                ElementTree.SubElement(parent, name).text = str(value)

    if (system := header.acquisition_system_information) is not None:
        element = ElementTree.SubElement(root, "acquisitionSystemInformation")
        bandwidth = system.relative_receiver_noise_bandwidth
        put(element, systemVendor=system.system_vendor, relativeReceiverNoiseBandwidth=bandwidth)
    for said in header.encoding[:1]:
        encoding = ElementTree.SubElement(root, "encoding")
        put(encoding, trajectory=said.trajectory.name.lower())
        for name, space in (("encodedSpace", said.encoded_space), ("reconSpace", said.recon_space)):
            element = ElementTree.SubElement(encoding, name)
            for part, sizes in (("matrixSize", space.matrix_size), ("fieldOfView_mm", space.field_of_view_mm)):
                put(ElementTree.SubElement(element, part), x=sizes.x, y=sizes.y, z=sizes.z)
        limits = ElementTree.SubElement(encoding, "encodingLimits")
        for name in ("kspace_encoding_step_1", "kspace_encoding_step_2", "slice"):
            if (limit := getattr(said.encoding_limits, name)) is not None:
                put(ElementTree.SubElement(limits, name), **{k: getattr(limit, k) for k in _LIMITS})
        if (parallel := said.parallel_imaging) is not None:
            element = ElementTree.SubElement(encoding, "parallelImaging")
            factors = ElementTree.SubElement(element, "accelerationFactor")
            put(factors, **{name: getattr(parallel.acceleration_factor, name) for name in _STEPS})
            mode = parallel.calibration_mode
            put(element, calibrationMode=None if mode is None else mode.name.lower())
    return ElementTree.tostring(root, encoding="unicode")


def item_of(image: StreamImage) -> mrd.StreamItem:
    """Return an image of a stream of MRD 2."""
    vectors = {name: np.array(getattr(image, name), np.float32) for name in ("field_of_view", "position", "slice_dir")}
    copied = dict(image.copied)
    vectors["patient_table_position"] = np.array(copied.pop("patient_table_position"), np.float32)
    head = mrd.ImageHeader(
        image_type=mrd.ImageType.MAGNITUDE,
        col_dir=np.array(image.read_dir, np.float32),
        line_dir=np.array(image.phase_dir, np.float32),
        physiology_time_stamp=list(copied.pop("physiology_time_stamp")),
        slice=image.slice,
        image_index=image.image_index,
        image_series_index=1,
        **vectors,
        **copied,
    )
    texts = {name: [value] if isinstance(value, str) else value for name, value in image.meta.items()}
    meta = {name: [mrd.ImageMetaValue.String(text) for text in value] for name, value in texts.items()}
    kind = mrd.StreamItem.ImageUint16 if image.data.dtype == np.uint16 else mrd.StreamItem.ImageFloat
    return kind(mrd.Image(head=head, data=image.data[None], meta=meta))
