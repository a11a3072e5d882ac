# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measurements as HDF5 files; docs/measurement_files.md describes the format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from monai_diffrecon._version import __version__
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.checks import DATA_TYPES, OPTION_NAME, OPTION_TYPES, check_measurement
from monai_diffrecon.io.measurement.hdf5_parts import HDF5Parts, open_hdf5, sha256_array
from monai_diffrecon.io.measurement.metatensor import affine_of, check_finite, geometry_of
from monai_diffrecon.protocols import Measurement, VolumeGeometry

#: The attribute ``format`` of these files.
FORMAT = "monai_diffrecon measurement"
#: Version of the format; a reader refuses others.
SCHEMA_VERSION = 1

_ARRAY = "$array"
#: HDF5 holds no longer attributes.
_LONGEST_TEXT = 64000
#: Nothing that is scanned has so many mm or voxels.
_FAR = 1e9


def write_measurement(path: str | Path, measurement: Measurement) -> None:
    """Write a measurement as an HDF5 file, atomically.

    Args:
        path: file to write or replace, ``.h5``.
        measurement: what to write; tensors on any device.

    Raises:
        InputError: not a measurement that such a file can hold, or the folder cannot be written.
    """
    path = Path(path)
    m = measurement
    check_measurement(m, path.name)
    arrays = {k: v for k, v in (m.operator or {}).items() if isinstance(v, Tensor)}
    spec = {k: {_ARRAY: k} if k in arrays else v for k, v in (m.operator or {}).items()}
    text = _to_json(spec, f"{path.name}#operator")
    header = _to_json(m.header or {}, f"{path.name}#header")
    notices = _to_json(list(m.notices), f"{path.name}#notices")

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            # First, so that it lies at the beginning of the file, where readers look for it.
            file.attrs["format"] = _text(FORMAT)
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["software"] = _text(f"monai_diffrecon {__version__}")
            file.attrs["unit"] = _text(m.unit)
            file.attrs["noise_std"] = float(m.noise_std)
            if m.source_sha256 is not None:
                file.attrs["source_sha256"] = _text(m.source_sha256)
            if m.header is not None:
                file.attrs["header"] = _text(header)
            if m.notices:
                file.attrs["notices"] = _text(notices)
            geometry = file.create_group("geometry")
            geometry.attrs["shape"] = np.asarray(m.geometry.shape, dtype=np.int64)
            geometry.attrs["spacing"] = np.asarray(m.geometry.spacing, dtype=np.float64)
            geometry.attrs["affine"] = affine_of(m.geometry)
            if m.geometry.affine is None:
                geometry.attrs["oriented"] = 0
            geometry.attrs["gaps"] = np.asarray(m.geometry.gaps, dtype=np.float64)
            _write_array(file, "data", m.data)
            if m.weights is not None:
                _write_array(file, "weights", m.weights.to(torch.float32))
            if m.operator is not None:
                group = file.create_group("operator")
                group.attrs["spec"] = _text(text)
                for name, value in arrays.items():
                    _write_array(group, name, value)

    atomic_write(path, write)


def read_measurement(path: str | Path) -> Measurement:
    """Read what :func:`write_measurement` wrote; nothing in the file is run, and no link is followed.

    Raises:
        InputError: no such file, not HDF5, truncated, of another kind or a newer version, or incomplete; shapes
            that disagree, or entries that are not finite.
        IntegrityError: an array is not the one that was written.
    """
    path = Path(path)
    with open_hdf5(path) as parts:
        file, where = parts.file, path.name
        _check_version(parts)
        data = parts.array(file, "data", DATA_TYPES)
        if data is None:
            raise InputError("a missing key", where=f"{where}#data", mend="write the file with write_measurement")
        weights = parts.array(file, "weights", ("float32",))
        header = parts.attribute(file, "header", required=False)
        notices = parts.attribute(file, "notices", required=False)
        measurement = Measurement(
            data=torch.from_numpy(data),
            geometry=_read_geometry(parts),
            operator=_read_operator(parts),
            noise_std=_number(parts.attribute(file, "noise_std"), f"{where}@noise_std"),
            weights=None if weights is None else torch.from_numpy(weights),
            unit=parts.attribute(file, "unit"),
            source_sha256=parts.attribute(file, "source_sha256", required=False),
            header=None if header is None else _from_json(header, f"{where}@header"),
            notices=() if notices is None else tuple(_from_json(notices, f"{where}@notices", list)),
        )
    check_measurement(measurement, where)
    return measurement


def _write_array(group: h5py.Group, name: str, tensor: Tensor) -> None:
    array = tensor.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg().contiguous().numpy()
    group.create_dataset(name, data=array).attrs["sha256"] = _text(sha256_array(array))


def _text(text: str) -> np.bytes_:
    """Return text as an attribute of a fixed length, which needs no heap."""
    return np.bytes_(text.encode("utf-8"))


def _check_version(parts: HDF5Parts) -> None:
    kind = parts.attribute(parts.file, "format", required=False)
    if not isinstance(kind, str) or kind != FORMAT:
        raise InputError(
            "HDF5, but not a measurement file", where=parts.where, expected=f"the attribute format = {FORMAT!r}"
        )
    version = _number(parts.attribute(parts.file, "schema_version"), f"{parts.where}@schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            "a newer version of the format" if version > SCHEMA_VERSION else "unknown version of the format",
            where=f"{parts.where}@schema_version",
            expected=SCHEMA_VERSION,
            got=f"{version:g}",
            mend="update monai-diffrecon" if version > SCHEMA_VERSION else None,
        )


def _read_geometry(parts: HDF5Parts) -> VolumeGeometry:
    group, at = parts.group("geometry"), f"{parts.where}#geometry"
    if group is None:
        raise InputError("a missing key", where=at, mend="write the file with write_measurement")
    values = {}
    for name, shape in {"shape": (3,), "spacing": (3,), "affine": (4, 4), "gaps": (3,)}.items():
        value = parts.attribute(group, name, required=name != "gaps")
        value = np.zeros(3) if value is None else value
        if not isinstance(value, np.ndarray) or value.shape != shape or not (np.abs(value) < _FAR).all():
            raise InputError("of the wrong shape", where=f"{at}@{name}", expected=f"{shape} numbers below {_FAR:g}")
        values[name] = value.astype(np.float64)
    geometry = geometry_of([int(n) for n in values["shape"]], values["affine"], values["gaps"].tolist())
    oriented = parts.attribute(group, "oriented", required=False)
    if not np.allclose(values["spacing"], geometry.spacing, rtol=1e-3, atol=0.0):
        raise InputError(
            "voxel size and affine disagree",
            where=f"{at}@spacing",
            expected=[round(s, 6) for s in geometry.spacing],
            got=values["spacing"].tolist(),
        )
    unknown = oriented is not None and _number(oriented, f"{at}@oriented") == 0
    return replace(geometry, affine=None) if unknown else geometry


def _read_operator(parts: HDF5Parts) -> dict[str, Any] | None:
    group, at = parts.group("operator"), f"{parts.where}#operator"
    if group is None:
        return None
    spec = _from_json(parts.attribute(group, "spec"), f"{at}@spec")
    for key, value in spec.items():
        if not (isinstance(value, Mapping) and _ARRAY in value):
            continue
        name = value[_ARRAY]
        if len(value) != 1 or not isinstance(name, str) or not OPTION_NAME.fullmatch(name):
            raise InputError("not the name of an array", where=f"{at}@spec#{key}", got=repr(name)[:80])
        array = parts.array(group, name, OPTION_TYPES)
        if array is None:
            raise InputError("a missing key", where=f"{at}/{name}", expected=f"the array of the option {key!r}")
        spec[key] = check_finite(torch.from_numpy(array), f"{at}/{name}")
    return spec


def _number(value: Any, where: str) -> float:
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise InputError("of the wrong type", where=where, expected="a number")
    return float(value.reshape(-1)[0])


def _to_json(value: Any, where: str) -> str:
    mend = "give arrays as tensors, all else as JSON values"
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("cannot be written as JSON", where=where, got=str(error), mend=mend) from None
    if len(text) > _LONGEST_TEXT:
        raise InputError("too long", where=where, expected=f"{_LONGEST_TEXT} bytes", got=len(text), mend=mend)
    return text


def _from_json(text: Any, where: str, kind: type = dict) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"the number {word}")

    try:
        value = json.loads(text, parse_constant=refuse) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", where=where, got=str(error)[:100]) from None
    if not isinstance(value, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise InputError("of the wrong type", where=where, expected=expected)
    return value
