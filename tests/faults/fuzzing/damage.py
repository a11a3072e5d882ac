# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Damages of scans: of their bytes, and of what is inside them, by the formats' own libraries."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydicom import dcmread

from monai_diffrecon.io.measurement.hdf5_parts import sha256_array

from .mutations import any_value, mutate_bytes, mutate_tree


def damage(rng: random.Random, seed: Path, target: Path) -> Path:
    """Write a damaged copy of a scan; return its path."""
    scan = target / seed.name
    if seed.is_dir():
        shutil.copytree(seed, scan)
    else:
        shutil.copyfile(seed, scan)
    path = rng.choice(sorted(scan.iterdir())) if seed.is_dir() else scan
    raw = rng.random() < 0.35
    if not raw and (path.suffix == ".h5" or path.name.startswith("minc2")):
        for _ in range(rng.randint(1, 2)):
            edit_hdf5(rng, path, target)
    elif not raw and seed.name.startswith("nifti"):
        _edit_nifti(rng, path)
    elif not raw and seed.name.startswith("dicom"):
        _edit_dicom(rng, path)
    elif not raw and path.suffix == ".json":
        path.write_text(json.dumps(mutate_tree(rng, json.loads(path.read_text("utf-8")))), encoding="utf-8")
    else:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    return scan


#: Fields of a NIfTI-1 header: offset, format.
_FIELDS = (
    (0, "<i"), *((40 + 2 * i, "<h") for i in range(8)), (70, "<h"), (72, "<h"), *((76 + 4 * i, "<f") for i in
    range(8)), (108, "<f"), (112, "<f"), (116, "<f"), (123, "<b"), (252, "<h"), (254, "<h"), *((256 + 4 * i, "<f")
    for i in range(18)), (344, "<i"), (348, "<i"),
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 4, 7, 8, 16, 64, 127, 128, 255, 1024, 2304, 32767, -32768, 2**31 - 1, 0.5, 1e-30, 1e30, 3.4e38)
_NUMBERS += (float("nan"), float("inf"))


def _edit_nifti(rng: random.Random, path: Path) -> None:
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        at, form = rng.choice(_FIELDS)
        number: Any = rng.choice(_NUMBERS)
        if form != "<f":
            width = 8 * struct.calcsize(form)
            number = int(number) if number == number and abs(number) < 2**40 else 0
            number = (number + 2 ** (width - 1)) % 2**width - 2 ** (width - 1)
        struct.pack_into(form, data, at, number)
    if packed and rng.random() < 0.1:
        data += bytes(64 << 20)  # a bomb
    path.write_bytes(gzip.compress(bytes(data), 1) if packed else bytes(data))


_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Modality", "RescaleSlope", "RescaleIntercept", "PhotometricInterpretation",
    "SeriesNumber", "SeriesInstanceUID", "ImageType", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "EchoTime", "SOPClassUID", "PixelData",
)  # fmt: skip
_TEXTS = (
    b"",
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"1e308",
    b"1e-308",
    b"x",
    b"1\\2",
    b"1\\0\\0\\0\\1\\0",
    b"0\\0\\0",
    b"9" * 40,
    b"\xff",
)


def _edit_dicom(rng: random.Random, path: Path) -> None:
    ds = dcmread(path)
    for _ in range(rng.randint(1, 2)):
        tag = rng.choice(_TAGS)
        if tag not in ds or rng.random() < 0.2:
            if tag in ds:
                del ds[tag]
            continue
        element = ds[tag]
        if element.VR == "US":
            element.value = rng.choice((0, 1, 2, 7, 8, 9, 16, 32, 64, 255, 32768, 65535))
        elif element.VR in ("SQ", "OW"):
            element.value = [] if element.VR == "SQ" else element.value[: 2 * rng.randrange(60)]
        else:
            # Unchecked, as a scanner's own software writes.
            element.VR, element._value = "UN", rng.choice(_TEXTS)
    try:
        ds.save_as(path, enforce_file_format=False)
    except ValueError:  # compressed pixel data must stay whole
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))


def edit_hdf5(rng: random.Random, path: Path, folder: Path) -> None:
    """Change attributes, datasets and links of a file through HDF5 itself."""
    edits: list[Callable[[random.Random, h5py.File, Path], None]] = [
        _edit_attribute, _edit_attribute, _edit_spec, _edit_spec, _edit_spec, _edit_dataset, _edit_dataset, _edit_link,
        _edit_geometry, _edit_table, _edit_xml, _edit_xml,
    ]  # fmt: skip
    try:
        with h5py.File(path, "a") as file:
            rng.choice(edits)(rng, file, folder)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        OverflowError,
        MemoryError,
        AttributeError,
        IndexError,
    ):
        pass  # HDF5 cannot say this


def _members(file: h5py.File, kind: type) -> list[Any]:
    found: list[Any] = []
    file.visititems(lambda _, member: found.append(member) if isinstance(member, kind) else None)
    return sorted(found, key=lambda member: member.name)


def _edit_attribute(rng: random.Random, file: h5py.File, _: Path) -> None:
    owners = [o for o in [file, *_members(file, (h5py.Group, h5py.Dataset))] if len(o.attrs)]
    if not owners:
        return
    owner = rng.choice(owners)
    name = rng.choice(sorted(owner.attrs))
    value = any_value(rng)
    del owner.attrs[name]
    kind = rng.random()
    if kind < 0.3:
        owner.attrs[name] = np.bytes_(json.dumps(value).encode())
    elif kind < 0.4:
        owner.attrs[name] = np.full(
            rng.choice(((3,), (4, 4), (7,), ())), rng.choice((0.0, 1e300, np.nan, -1.0, 1e-320))
        )
    elif kind < 0.5:
        owner.attrs.create(name, np.zeros(1 << 12), dtype="f8")
    elif kind < 0.6:
        owner.attrs[name] = h5py.Empty("f8")
    elif kind < 0.9:
        owner.attrs[name] = value


def _edit_spec(rng: random.Random, file: h5py.File, _: Path) -> None:
    if "operator" not in file:
        return
    spec = json.loads(bytes(file["operator"].attrs["spec"]))
    for _i in range(rng.randint(1, 2)):
        spec = mutate_tree(rng, spec) if spec else spec
    text = json.dumps(spec)
    if rng.random() < 0.1:
        text = rng.choice(("[" * 20000, text[:-3], "null", "[]", '"x"', "{}", text + "}", '{"name": 1e999}', "\x00"))
    file["operator"].attrs["spec"] = np.bytes_(text.encode())


def _edit_geometry(rng: random.Random, file: h5py.File, _: Path) -> None:
    if "geometry" not in file:
        return
    group = file["geometry"]
    affine, shape = np.array(group.attrs["affine"]), np.array(group.attrs["shape"])
    kind = rng.randrange(3)
    if kind == 0:
        shape[rng.randrange(3)] = rng.choice((0, -1, 1, 2, 1000, 10**4, 10**6, 10**9 - 1, 2**62))
    elif kind == 1:
        affine[:3, rng.randrange(3)] *= rng.choice((0.0, -1.0, 1e-6, 1e6, 1e8, 0.3))
    else:
        affine[rng.randrange(4), rng.randrange(4)] = rng.choice((np.nan, np.inf, 0.0, 1e8, -3.0, 1e-300))
    group.attrs["shape"], group.attrs["affine"] = shape, affine
    group.attrs["spacing"] = np.linalg.norm(affine[:3, :3], axis=0)


def _edit_dataset(rng: random.Random, file: h5py.File, folder: Path) -> None:
    members = _members(file, h5py.Dataset)
    if not members:
        return
    member = rng.choice(members)
    name, values, kind = member.name, member[()], rng.randrange(9)
    values = np.asarray(values)
    if kind == 0:
        values = np.atleast_1d(values)[..., :-1]
    elif kind == 1 and np.size(values) and values.dtype.kind in "fc":
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice((np.nan, np.inf, 3e38, 0.0))
    elif kind == 2:
        values = np.asarray(values).astype(rng.choice(("f8", "i4", "u1", "c16", "S3", ">f4")))
    elif kind == 3:
        values = np.zeros_like(values)
    elif kind == 4 and np.ndim(values):
        values = np.swapaxes(values, 0, -1)
    del file[name]
    if kind == 5:  # 8 TB of nothing
        file.create_dataset(name, shape=(10**4, 10**4, 10**4), dtype="c8", chunks=(1, 1000, 1000), compression="gzip")
    elif kind == 6:
        layout = h5py.VirtualLayout(shape=(10, 10, 10), dtype="f4")
        layout[:] = h5py.VirtualSource(str(folder / "../other.h5"), "data", shape=(10, 10, 10))
        file.create_virtual_dataset(name, layout)
    elif kind == 7:
        file.create_dataset(name, shape=(8,), dtype="f4", external=[("/etc/hostname", 0, 8)])
    else:
        file[name] = values
        if values.dtype.kind in "fciub" and rng.random() < 0.9:
            file[name].attrs["sha256"] = np.bytes_(sha256_array(np.ascontiguousarray(values)).encode())


def _edit_link(rng: random.Random, file: h5py.File, folder: Path) -> None:
    members = _members(file, (h5py.Group, h5py.Dataset))
    if not members:
        return
    name = rng.choice(members).name
    del file[name]
    kind = rng.randrange(5)
    if kind == 0:
        file[name] = h5py.SoftLink("/" if rng.random() < 0.5 else name)
    elif kind == 1:
        file[name] = h5py.ExternalLink(rng.choice(("../other.h5", str(folder / "other.h5"), "/etc/hostname")), "/data")
    elif kind == 2:
        file.create_group(name)
    elif kind == 3:
        file[name] = np.dtype("f4")


def _edit_table(rng: random.Random, file: h5py.File, _: Path) -> None:
    """Change the heads of ISMRMRD's acquisitions."""
    if "dataset/data" not in file:
        return
    table = file["dataset/data"][:] if isinstance(file["dataset/data"], h5py.Dataset) else np.zeros(0)
    if not len(table) or not table.dtype.names:
        return
    rows = slice(None) if rng.random() < 0.5 else rng.randrange(len(table))
    field = rng.choice(table["head"].dtype.names)
    heads = table["head"]
    if field == "idx":
        counter = rng.choice(heads["idx"].dtype.names)
        heads["idx"][counter][rows] = rng.choice((0, 1, 3, 65535))
    elif heads[field].dtype.kind == "f":
        heads[field][rows] = rng.choice((0.0, 1.0, np.nan, np.inf, -1.0, 1e30))
    else:
        heads[field][rows] = rng.choice((0, 1, 2, 5, 255, 65535, 1 << 18))
    file["dataset/data"][:] = table


def _edit_xml(rng: random.Random, file: h5py.File, _: Path) -> None:
    name = "dataset/xml" if "dataset/xml" in file else "ismrmrd_header"
    if name not in file:
        return
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind != "O" or stored.shape not in ((), (1,)):
        return
    value = stored[0] if stored.shape else stored[()]
    text = value.decode() if isinstance(value, bytes) else str(value)
    kind = rng.random()
    if kind < 0.7:
        starts = [i for i in range(len(text) - 1) if text[i] == ">" and text[i + 1].isalnum()]
        at = rng.choice(starts or [0]) + 1
        new = rng.choice(
            (
                "0",
                "-1",
                "1",
                "3",
                "40",
                "100000",
                "1000000000",
                "9" * 5000,
                "nan",
                "1e308",
                "1e-300",
                "inf",
                "x",
                "",
                " ",
            )
        )
        text = text[:at] + new + text[max(text.find("<", at), 0) :]
    elif kind < 0.8:
        text = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + text
    else:
        text = mutate_bytes(rng, text.encode()).decode("utf-8", "replace").replace("\0", "")
    del file[name]
    file[name] = [text] if name.startswith("dataset") else text
