# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections in TIFF, NumPy, MATLAB and HDF5 files, which a short JSON file describes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.io.file_validation import Number, Text, checked, keys_of, read_json, validated
from monai_diffrecon.io.projections.arrays import find_files, open_array
from monai_diffrecon.io.projections.projection_reader import Fan, PixelSize, ProjectionReader
from monai_diffrecon.io.projections.scan import Fields, ProjectionScan, finite, mean_fields, view_degrees
from monai_diffrecon.numerics.ct.scan_angles import MOST_VIEWS
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement

#: The description in a folder, and the size beyond which none is read.
_NAME, _LARGEST = "scan.json", 1 << 24
_AXES = ("views", "rows", "columns")
_HUGE = 1e300
_Axis = Literal["views", "rows", "columns"]
_Length = Annotated[Number, Field(gt=0)]


def _either(expected: str, test: Callable[[Any], bool]) -> BeforeValidator:
    """Return a check that a value is of one of several forms, which says so in one line."""

    def check(value: Any, where: str) -> Any:
        if value is not None and not test(value):
            raise InputError("of the wrong type", where=where, expected=expected, got=type(value).__name__)
        return value

    return checked(check)


def _numbers(values: Any, low: float = -_HUGE) -> bool:
    """Say whether it is a list of finite numbers above ``low``; JSON has integers that no float can hold."""
    kinds = (int, float)
    return isinstance(values, list) and all(type(x) in kinds and low < x < _HUGE for x in values)


def _ends(value: Any) -> bool:
    """Say whether it is an object with the angles of the first and the last view."""
    return isinstance(value, dict) and value.keys() == {"first", "last"} and _numbers(list(value.values()))


_Angles = _either(
    "a name, a list of numbers, or {first, last}", lambda v: isinstance(v, str) or _numbers(v) or _ends(v)
)
_Field = _either("a name or a number", lambda v: isinstance(v, str) or _numbers([v]))
_Pixel = _either("a length above 0 in mm, or two", lambda v: _numbers([v], 0.0) or (_numbers(v, 0.0) and len(v) == 2))


@dataclass(frozen=True)
class Description:
    """What a description says. Names are paths from its folder, ``file.npz#key`` for an array of several.

    Attributes:
        projections: name of them; with wildcards, a TIFF file for each view.
        angles: one a view, a name of them, or ``{"first": ..., "last": ...}`` of equally spaced views.
        white: name of the white fields, or a number of all pixels; needed for intensities.
        dark: the same of the dark fields.
        values: ``intensities``, or ``line_integrals``, which have their logarithm.
        axes: what the axes of the arrays are; those of white and dark fields are the same, ``views`` may be missing.
            None: views, rows and columns, or, of two axes, views and columns.
        angles_unit: ``degrees`` or ``radians``; None as for the reader.
        geometry: ``parallel``, or ``fan``.
        source_distance: fan: source to axis of rotation, mm.
        detector_distance: fan: source to detector, mm.
        detector: fan: ``flat`` or ``curved``.
        pixel_size: distance of the columns, and of the rows if that is another one, mm: at the object for parallel
            beams, on the detector for a fan. None: unknown.
        center: column of the axis of rotation, from 0; None: it is found.
        rings: take out rings of uneven pixels.
    """

    projections: Text
    angles: Annotated[Any, _Angles]
    white: Annotated[Any, _Field] = None
    dark: Annotated[Any, _Field] = None
    values: Literal["intensities", "line_integrals"] = "intensities"
    axes: tuple[_Axis, ...] | None = None
    angles_unit: Literal["degrees", "radians"] | None = None
    geometry: Literal["parallel", "fan"] = "parallel"
    source_distance: _Length | None = None
    detector_distance: _Length | None = None
    detector: Literal["flat", "curved"] = "flat"
    pixel_size: Annotated[Any, _Pixel] = None
    center: Number | None = None
    rings: bool = False


class ProjectionsReader(ProjectionReader):
    """Parallel- or fan-beam projections in a folder with a description, ``scan.json``, or that file itself.

    Projections, white and dark fields and angles are TIFF files, ``.npy``, ``.npz``, ``.mat`` (5 and 7.3), HDF5 or
    tables of numbers. What becomes of them, and the options, are those of ``dxchange``; an option wins over the
    description. Of a fan beam each row is a fan of its own.
    """

    def recognises(self, path: Path) -> bool:
        """Say whether it is a JSON file that names projections, or a folder with one."""
        try:
            said = _content(path)
        except (DiffReconError, OSError):
            return False
        return isinstance(said, dict) and "projections" in said

    def read(self, path: Path) -> Measurement:
        """Return the line integrals (views, columns, rows).

        Raises:
            InputError: a description or a file that is missing, damaged, outside of the folder or of a wrong shape; no
                beam somewhere; or the axis of rotation or the unit of the angles cannot be told.
            ConfigError: an option that does not fit to the scan, or an unknown key.
        """
        path = Path(path)
        file = _description(path)
        said = validated(
            cast(Any, Annotated[Description, checked(keys_of(Description))]), _content(path), file.name, InputError
        )
        sources = _Sources(file)
        axes = _axes(said, file.name)
        data = _ordered(sources.array(said.projections, "projections"), axes, f"{file.name}#projections")
        where = f"{file.name}#projections"
        views, measured, columns = data.shape
        if views > MOST_VIEWS:
            raise InputError("of the wrong shape", where=where, expected=f"at most {MOST_VIEWS} views", got=data.shape)
        first, stop = self.chosen_rows(measured)
        fields: Fields | None = None
        if said.values == "intensities":
            whites, darks = (
                _field(sources, name, value, axes, (measured, columns), slice(first, stop))
                for name, value in (("white", said.white), ("dark", said.dark))
            )
            if whites is None:
                mend = "name the white fields, or set values to line_integrals"
                raise InputError("no white fields", where=file.name, expected="white", mend=mend)
            fields = mean_fields(whites, darks, first, f"{file.name}#white")
        unit = self.unit or said.angles_unit
        degrees = _degrees(sources, said.angles, views, unit)
        return self.measurement(
            ProjectionScan(data, degrees, first, stop, where, fields),
            file.name,
            sources.sha256(),
            _pixel_size(said),
            said.center,
            _fan(said, file.name),
            said.rings,
        )


class _Sources:
    """The arrays beside a description, and the files that were read."""

    def __init__(self, description: Path) -> None:
        self.description, self.files = description, [description]

    def array(self, name: str, key: str) -> Any:
        """Return the array of a name, which stands at a key of the description."""
        file, _, part = name.partition("#")
        found = find_files(self.description.parent, file, f"{self.description.name}#{key}")
        self.files += found
        return open_array(found, part)

    def sha256(self) -> str:
        """Return the hash of the hashes of all files that were read."""
        return hashlib.sha256("\n".join(map(sha256_file, self.files)).encode()).hexdigest()


def _description(path: Path) -> Path:
    return path / _NAME if path.is_dir() else path


def _content(path: Path) -> Any:
    """Return what the JSON file of a scan holds."""
    file = _description(path)
    if not file.is_file():
        raise InputError("no such file", where=path.name, expected=f"a folder with {_NAME}" if path.is_dir() else None)
    with file.open("rb") as stream:
        start = stream.read(64).lstrip()
    if not start.startswith(b"{") or file.stat().st_size > _LARGEST:
        raise InputError("not a description of projections", where=path.name, expected="a JSON object")
    return read_json(file, file.name)


def _axes(said: Description, where: str) -> tuple[str, ...] | None:
    if said.axes is None or (len(set(said.axes)) == len(said.axes) and {"views", "columns"} <= set(said.axes)):
        return said.axes
    expected = "views, columns, and rows if there are several, in any order"
    raise InputError("not the axes of projections", where=f"{where}#axes", expected=expected, got=list(said.axes))


def _ordered(array: Any, axes: tuple[str, ...] | None, where: str) -> Any:
    """Return an array or a stack as (views, rows, columns); of fields without views, with one."""
    if array.ndim == 3 and axes in (None, _AXES):
        return array
    axes = axes or (_AXES if array.ndim == 3 else ("views", "columns"))
    if array.ndim not in (len(axes), len(axes) - 1):
        raise InputError("of the wrong shape", where=where, expected=f"({', '.join(axes)})", got=array.shape)
    given = axes if array.ndim == len(axes) else tuple(a for a in axes if a != "views")
    missing = tuple(a for a in _AXES if a not in given)
    whole = np.asarray(array).reshape((1,) * len(missing) + array.shape)
    return whole.transpose([(missing + given).index(a) for a in _AXES])


def _field(
    sources: _Sources,
    key: str,
    value: str | float | None,
    axes: tuple[str, ...] | None,
    shape: tuple[int, int],
    rows: slice,
) -> np.ndarray | None:
    """Return white or dark fields (frames, rows, columns) of the rows that are wanted, or None when there are none."""
    if value is None:
        return None
    if not isinstance(value, str):
        return np.full((1, rows.stop - rows.start, shape[1]), float(value))
    where = f"{sources.description.name}#{key}"
    array = sources.array(value, key)
    if array.ndim == 2 and axes is None and array.shape == shape:  # a frame, not frames of one row
        axes = _AXES
    frames = _ordered(array, axes, where)
    if frames.shape[1:] != shape:
        expected = f"(frames, {shape[0]}, {shape[1]}), as the projections"
        raise InputError("of the wrong shape", where=where, expected=expected, got=frames.shape)
    return finite(frames[:, rows], where)


def _degrees(sources: _Sources, said: Any, views: int, unit: str | None) -> tuple[float, ...]:
    where = f"{sources.description.name}#angles"
    if isinstance(said, dict):
        angles = np.linspace(said["first"], said["last"], views)
    else:
        angles = np.asarray(sources.array(said, "angles") if isinstance(said, str) else said)
    if angles.size != views:
        raise InputError("of the wrong shape", where=where, expected=f"({views},), one per view", got=angles.shape)
    return view_degrees(angles, unit, where)


def _pixel_size(said: Description) -> PixelSize | None:
    if said.pixel_size is None:
        return None
    across, along = said.pixel_size if isinstance(said.pixel_size, list) else [said.pixel_size] * 2
    return PixelSize(across, along, "the description")


def _fan(said: Description, where: str) -> Fan | None:
    if said.geometry == "parallel":
        return None
    if said.source_distance is None or said.detector_distance is None:
        expected = "source_distance and detector_distance in mm"
        raise InputError("a fan beam without distances", where=where, expected=expected)
    return Fan(said.source_distance, said.detector_distance, said.detector)
