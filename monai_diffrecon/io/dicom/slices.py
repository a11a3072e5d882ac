# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DICOM headers as slices in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.header import GE_COMPONENT, MARKS, DicomHeader, quiet_pydicom, truncated
from monai_diffrecon.io.dicom.kinds import GE_COMPONENTS, MAGNITUDE, component_of, maps_of
from monai_diffrecon.io.dicom.pixels import check_decodable

#: Largest error of the direction cosines, as rounded in a header.
_COSINES = 1e-3
#: Keywords of enhanced images -> those of single-frame images that say the same.
_SINGLE = {
    "EffectiveEchoTime": "EchoTime",
    "FrameType": "ImageType",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}
_GEOMETRY = "ImagePositionPatient, ImageOrientationPatient, PixelSpacing"


@dataclass(frozen=True)
class DicomSlice:
    """One slice.

    Attributes:
        path: its file.
        frame: its number in a multi-frame file, else None.
        position: (3,) centre of the first pixel, mm, LPS.
        directions: (2, 3) unit vectors, LPS: along a row (columns count up), along a column (rows count up).
        spacing: mm between columns, between rows.
        shape: columns, rows.
        thickness: mm, or None when the header does not say.
        distance: mm between slices as the header says, or None.
        slope: stored values times this ...
        intercept: ... plus this are values in ``unit``.
        unit: ``HU`` or ``arbitrary``.
        padding: lowest and highest stored value of what was not measured, or None when the header names none.
        component: ``magnitude``, or which other part of a complex image it is.
        maps: words that say that it is computed from other images.
        marks: keyword -> number by which it may differ from others at its position.
        image_type: the rest of its ImageType, to be compared only.
    """

    path: Path
    frame: int | None
    position: np.ndarray
    directions: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float | None
    distance: float | None
    slope: float
    intercept: float
    unit: str
    padding: tuple[int, int] | None = None
    component: str = MAGNITUDE
    maps: tuple[str, ...] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    image_type: tuple[str, ...] = ()


def slices_of(header: DicomHeader) -> list[DicomSlice]:
    """Return the slice of a file, or the slices of a multi-frame file, in the file's order.

    Raises:
        InputError: no image of numbers, no geometry, compressed in a way that is not read, or truncated.
    """
    ds, where = header.dataset, header.path.name
    with quiet_pydicom():
        try:
            _check_image(header)
            if "PerFrameFunctionalGroupsSequence" not in ds:
                if int(ds.get("NumberOfFrames") or 1) != 1:
                    raise _no_geometry(where, "several frames without functional groups")
                return [_marked(_slice(header, None, ds, ds, ds, ds), ds, {})]
            frames = list(ds.PerFrameFunctionalGroupsSequence)
            shared = ds.get("SharedFunctionalGroupsSequence") or [{}]
            if len(frames) != int(ds.NumberOfFrames):
                raise _no_geometry(where, f"{len(frames)} functional groups of {ds.NumberOfFrames} frames")
            groups = [
                [
                    _group(f"{name}Sequence", frame, shared[0])
                    for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
                ]
                for frame in frames
            ]
            return [
                _marked(_slice(header, i, *groups[i]), ds, _said_of(frame, shared[0])) for i, frame in enumerate(frames)
            ]
        except InputError:
            raise
        except Exception as error:  # pydicom raises whatever a value that is not of its type provokes, and quotes it
            raise InputError(
                "a header that cannot be parsed", where=where, got=type(error).__name__, mend="repair the header"
            ) from None


def _check_image(header: DicomHeader) -> None:
    """Refuse what is not one channel of numbers, all of it there."""
    ds, where = header.dataset, header.path.name
    missing = [k for k in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation") if ds.get(k) is None]
    if missing:
        raise InputError("no image", where=where, expected="an image", got=f"no {', '.join(missing)}")
    samples, photometric = int(ds.get("SamplesPerPixel") or 1), str(ds.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError("not one channel", where=where, expected="MONOCHROME2", got=f"{photometric}, {samples} values")
    if photometric == "MONOCHROME1" and ds.get("Modality") != "CT":
        # Of CT the rescaled values are HU, whatever is displayed as white.
        raise InputError(
            "MONOCHROME1: inverted values",
            where=where,
            expected="MONOCHROME2",
            mend="convert the series to MONOCHROME2",
        )
    if "ModalityLUTSequence" in ds:
        raise InputError("a lookup table instead of a rescale slope", where=where, mend="export the series without it")
    frames = int(ds.get("NumberOfFrames") or 1)
    check_decodable(header.syntax, where)
    if 0 < header.pixel_bytes < int(ds.Rows) * int(ds.Columns) * frames * int(ds.BitsAllocated) // 8:
        raise truncated(header.path)


def _group(keyword: str, frame: Any, shared: Any) -> Any:
    """Return a functional group of a frame, its own or the shared one (PS3.3 C.7.6.16)."""
    items = frame.get(keyword) or shared.get(keyword)
    return items[0] if items else {}


def _slice(header: DicomHeader, frame: int | None, place: Any, turn: Any, size: Any, values: Any) -> DicomSlice:
    where = header.path.name + ("" if frame is None else f", frame {frame + 1}")
    position, cosines = _numbers(place, "ImagePositionPatient", 3), _numbers(turn, "ImageOrientationPatient", 6)
    spacing = _numbers(size, "PixelSpacing", 2)
    if position is None or cosines is None or spacing is None or (spacing <= 0).any():
        said = zip(_GEOMETRY.split(", "), (position, cosines, spacing), strict=True)
        lacking = [k for k, v in said if v is None]
        raise _no_geometry(where, f"no {', '.join(lacking)}" if lacking else "PixelSpacing that is not above 0")
    directions = cosines.reshape(2, 3)
    norms = np.linalg.norm(directions, axis=1)
    if np.abs(norms - 1).max() > _COSINES or abs(float(directions[0] @ directions[1])) > _COSINES:
        raise _no_geometry(where, "ImageOrientationPatient that is not two perpendicular unit vectors")
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    if slope is not None and float(slope) == 0.0:
        raise InputError("a rescale slope of 0: all values would be equal", where=where, mend="repair the header")
    rescaled = slope is not None and intercept is not None
    hounsfield = rescaled and header.dataset.get("Modality") == "CT" and values.get("RescaleType") in (None, "", "HU")
    thickness, distance = (_numbers(size, k, 1) for k in ("SliceThickness", "SpacingBetweenSlices"))
    return DicomSlice(
        path=header.path,
        frame=frame,
        position=position,
        directions=directions / norms[:, None],
        spacing=(float(spacing[1]), float(spacing[0])),
        shape=(int(header.dataset.Columns), int(header.dataset.Rows)),
        thickness=float(thickness[0]) if thickness is not None and thickness[0] > 0 else None,
        distance=abs(float(distance[0])) if distance is not None and distance[0] else None,
        slope=float(slope) if slope is not None else 1.0,
        intercept=float(intercept) if intercept is not None else 0.0,
        unit="HU" if hounsfield else "arbitrary",
        padding=_padding(header.dataset) if hounsfield else None,
    )


def _said_of(frame: Any, shared: Any) -> dict[str, Any]:
    """Return what the functional groups of a frame say of it, keyword -> value, by the names of single-frame images."""
    said: dict[str, Any] = {}
    for group in (*shared, *frame):
        for item in (group.value or ())[:1] if group.VR == "SQ" else ():
            said |= {_SINGLE.get(e.keyword, e.keyword): e.value for e in item if e.VR != "SQ"}
    return said


def _marked(one: DicomSlice, dataset: Any, said: Mapping[str, Any]) -> DicomSlice:
    """Return a slice with what it shows, and what tells it from others at its position.

    Args:
        one: the slice.
        dataset: the file's header.
        said: what it says of this frame.
    """

    def value(keyword: str) -> Any:
        return said[keyword] if keyword in said else dataset.get(keyword)

    kinds = value("ImageType")
    kinds = [kinds] if isinstance(kinds, str) else [str(kind) for kind in kinds or ()]
    component = MAGNITUDE
    if dataset.get("Modality") == "MR":
        component = component_of(kinds, str(value("ComplexImageComponent") or ""))
        component = _ge_component(dataset) if component == MAGNITUDE else component
    numbers = {keyword: _numbers({keyword: value(keyword)}, keyword, 1) for keyword in MARKS}
    marks = {keyword: float(number[0]) for keyword, number in numbers.items() if number is not None}
    return replace(one, component=component, maps=maps_of(kinds), marks=marks, image_type=tuple(kinds[2:]))


def _ge_component(dataset: Any) -> str:
    """Return the component that GE's private block names; a magnitude where there is none."""
    creator, element = (dataset.get(tag) for tag in GE_COMPONENT)
    if creator is None or element is None or str(creator.value).strip() != "GEMS_PARM_01":
        return MAGNITUDE
    number = int.from_bytes(element.value[:2], "little") if isinstance(element.value, bytes) else element.value
    return GE_COMPONENTS.get(number, MAGNITUDE) if isinstance(number, int) else MAGNITUDE


def _padding(dataset: Any) -> tuple[int, int] | None:
    """Return the range of stored values that a header declares as padding (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = [value, limit if isinstance(limit, int) else value]
    # Many a writer stores the number with the other sign.
    bits, signed = int(dataset.BitsAllocated), int(dataset.PixelRepresentation)
    ends = [(end + signed * 2 ** (bits - 1)) % 2**bits - signed * 2 ** (bits - 1) for end in ends]
    return min(ends), max(ends)


def _numbers(group: Any, keyword: str, count: int) -> np.ndarray | None:
    """Return the numbers of an attribute, or None where there are not so many finite ones."""
    value = group.get(keyword)
    if value is None or value == "":
        return None
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _no_geometry(where: str, got: str) -> InputError:
    return InputError(
        "does not state the position of its pixels",
        where=where,
        expected=_GEOMETRY,
        got=got,
        mend="export the original series from the scanner or archive",
    )
