# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Series of CT and MR images as scanners and archives hold them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.io.dicom.header import DicomHeader, dicom_files, is_dicom, is_projection, read_header
from monai_diffrecon.io.dicom.kinds import MAGNITUDE, check_component, map_notices
from monai_diffrecon.io.dicom.pixels import read_pixels
from monai_diffrecon.io.dicom.slices import DicomSlice, slices_of
from monai_diffrecon.io.dicom.stack import DicomStack, stack_slices
from monai_diffrecon.io.dicom.template import allowed_header
from monai_diffrecon.io.dicom.volumes import choose_volume
from monai_diffrecon.io.measurement.checks import check_affine
from monai_diffrecon.io.measurement.metatensor import check_finite, geometry_of
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.numerics.padding import reaching_border
from monai_diffrecon.protocols import Measurement, MeasurementReader, Padding

_MODALITIES = ("CT", "MR")
#: Storage of media directories, which stand beside series.
_DIRECTORY = "1.2.840.10008.1.3.10"
#: So many times the files' size their images may have, black and compressed, and so many pixels in any case.
_LARGEST_RATIO, _FEW_PIXELS = 1000, 1 << 27


class DicomSeriesReader(MeasurementReader):
    """A CT or MR series: a folder of single-frame DICOM files, or one enhanced multi-frame file.

    The measurement is an image in RAS+ order; axes are flipped and swapped, never resampled. Slices are ordered by
    their positions (PS3.3 C.7.6.2), thickness and gap go into the geometry, stored values are rescaled slice by
    slice. What cannot be one volume is refused from the headers, before pixels are read.

    Args:
        series: which series of a folder that holds several: its number in the list that the refusal prints (1, 2,
            ...) or its SeriesInstanceUID. None takes the only one.
        echo: which echo of a series of several: its number as in the header (EchoNumbers), or else by the echo time,
            from 1. None takes the only one.
        volume: which volume of a series of several, time points or b-values for instance: its number in the list that
            the refusal prints, from 0; with ``echo`` it counts the volumes of that echo. None takes the only one.
    """

    def __init__(self, series: int | str | None = None, echo: int | None = None, volume: int | None = None) -> None:
        if isinstance(series, bool) or not isinstance(series, int | str | None) or series in (0, ""):
            raise ConfigError(
                "not a series", where="reader#series", expected="1, 2, ... or a UID", got=type(series).__name__
            )
        self.echo = None if echo is None else check_integer(echo, "reader#echo", low=0)
        self.volume = None if volume is None else check_integer(volume, "reader#volume", low=0)
        self.series = int(series) if isinstance(series, str) and series.isdecimal() else series

    def recognises(self, path: Path) -> bool:
        """Say whether it is a DICOM file, or a folder with at least one that is no projection (DICOM-CT-PD)."""
        try:
            if path.is_file():
                return is_dicom(path)
            first = next((p for p in sorted(path.iterdir()) if p.is_file() and is_dicom(p)), None)
            return first is not None and not is_projection(first)
        except OSError:
            return False

    def read(self, path: Path) -> Measurement:
        """Return the series as an image (1, X, Y, Z) in RAS+ order, in HU or arbitrary units.

        Raises:
            InputError: not one series of CT or MR, no volume, damaged, or in a form that is not read.
        """
        path = Path(path)
        if not path.exists():
            raise InputError("no such file or folder", where=path.name)
        headers = [read_header(p) for p in (dicom_files(path) if path.is_dir() else [path])]
        chosen = self._choose([h for h in headers if _is_image(h)], path.name)
        _check_kind(chosen, path.name)
        slices = [s for header in chosen for s in slices_of(header)]
        if all(s.component != MAGNITUDE for s in slices):
            check_component((s.component for s in slices), path.name)
        slices = choose_volume(slices, path.name, self.echo, self.volume)
        check_component((s.component for s in slices), path.name)
        used = {s.path for s in slices}
        chosen = [h for h in chosen if h.path in used]
        if path.is_file() and len(slices) == 1:
            raise InputError(
                "a single slice of a series", where=path.name, mend="name the folder that contains all slices"
            )
        _check_amount(slices, chosen, path.name)
        stack = stack_slices(slices, path.name, leaning=self.leaning)
        check_affine(stack.affine, path.name)
        volume, padding = _volume(stack, chosen)
        turn = nib.orientations.io_orientation(stack.affine)

        def turned(array: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(nib.orientations.apply_orientation(array, turn))

        array = turned(volume)
        affine = stack.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        gaps = [0.0, 0.0, 0.0]
        gaps[int(turn[2, 0])] = stack.gap
        hashes = sorted(sha256_file(header.path) for header in chosen)
        geometry = geometry_of(array.shape, affine, gaps)
        assert geometry.affine is not None
        return Measurement(
            data=check_finite(torch.from_numpy(array[None]), path.name),
            geometry=geometry,
            unit=stack.unit,
            source_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
            header=allowed_header(chosen[0].dataset),
            notices=map_notices(s.maps for s in slices),
            padding=None if padding is None else Padding(torch.from_numpy(turned(padding)), geometry.affine),
        )

    def _choose(self, headers: list[DicomHeader], where: str) -> list[DicomHeader]:
        """Return the headers of the one series, or of the one that was asked for."""
        series: dict[str, list[DicomHeader]] = {}
        for header in headers:
            series.setdefault(str(header.dataset.get("SeriesInstanceUID") or ""), []).append(header)
        ordered = sorted(series.items(), key=lambda item: (_series_number(item[1][0]), item[0]))
        if not ordered:
            raise InputError("no images", where=where, expected="CT or MR images", got="other DICOM objects")
        if self.series is None and len(ordered) == 1:
            return ordered[0][1]
        if isinstance(self.series, str) and self.series in series:
            return series[self.series]
        if isinstance(self.series, int) and 1 <= self.series <= len(ordered):
            return ordered[self.series - 1][1]
        # UIDs identify, so the list does without.
        listed = [f"{i}: {_describe(found)}" for i, (_, found) in enumerate(ordered, 1)]
        raise InputError(
            "several series" if self.series is None else "no such series",
            where=where,
            expected="one" if self.series is None else "one of them",
            got=f"{len(ordered)} ({'; '.join(listed[:20])}{'; ...' if len(listed) > 20 else ''})",
            mend="""choose one by its number, --reader '{"name":"dicom","series":1}'""",
        )


def _is_image(header: DicomHeader) -> bool:
    """Say whether it is an image of any kind; documents, presentation states and directories are not."""
    ds = header.dataset
    directory = ds.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY
    return not directory and (ds.get("Rows") is not None or ds.get("Modality") in _MODALITIES)


def _series_number(header: DicomHeader) -> int:
    try:
        return int(header.dataset.get("SeriesNumber") or 0)
    except Exception:  # pydicom raises whatever a value that is not of its type provokes
        return 0


def _describe(headers: list[DicomHeader]) -> str:
    ds = headers[0].dataset
    frames = sum(int(h.dataset.get("NumberOfFrames") or 1) for h in headers)
    modality = ds.get("Modality") if ds.get("Modality") in _MODALITIES else "other"
    kind = " localizer" if _is_localizer(headers[0]) else ""
    return f"{modality}{kind}, {frames} slices of {ds.get('Columns')} x {ds.get('Rows')}"


def _is_localizer(header: DicomHeader) -> bool:
    return not {"LOCALIZER", "SCOUT"}.isdisjoint(_image_type(header))


def _image_type(header: DicomHeader) -> list[str]:
    kinds = header.dataset.get("ImageType") or ()
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _check_kind(headers: list[DicomHeader], where: str) -> None:
    """Refuse other modalities, localizers, and mosaics, whose header speaks of one slice."""
    others = [h for h in headers if h.dataset.get("Modality") not in _MODALITIES]
    if others:
        raise InputError("not CT or MR", where=where, expected="CT or MR", got=f"{len(others)} other images")
    localizers = sum(map(_is_localizer, headers))
    if localizers:
        raise InputError(
            "localizer slices",
            where=where,
            expected="none",
            got=f"{localizers} of {len(headers)} files",
            mend="remove the localizer from the folder, or choose another series",
        )
    if any("MOSAIC" in _image_type(header) for header in headers):
        raise InputError(
            "several slices in one image (mosaic)", where=where, mend="export the series with one slice per file"
        )


def _check_amount(slices: list[DicomSlice], headers: list[DicomHeader], where: str) -> None:
    """Refuse images that declare far more than their files can hold, before they are allocated."""
    pixels, size = sum(s.shape[0] * s.shape[1] for s in slices), sum(h.path.stat().st_size for h in headers)
    if not pixels or pixels > max(_LARGEST_RATIO * size, _FEW_PIXELS):
        raise InputError(
            "declares more pixels than the files can contain",
            where=where,
            got=f"{pixels} pixels in {size} bytes",
            mend="copy the series again",
        )


def _volume(stack: DicomStack, headers: list[DicomHeader]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the rescaled values (columns, rows, slices), float32, and those of declared padding, NaN elsewhere."""
    syntaxes = {h.path: h.syntax for h in headers}
    columns, rows = stack.slices[0].shape
    volume = np.empty((len(stack.slices), rows, columns), dtype=np.float32)
    padding = np.full_like(volume, np.nan) if any(s.padding for s in stack.slices) else None
    files: dict[Path, np.ndarray] = {}
    for k, s in enumerate(stack.slices):
        stored = files.get(s.path)
        if stored is None:
            stored = read_pixels(s.path, syntaxes[s.path])
            if s.frame is not None:  # a multi-frame file is read once
                files[s.path] = stored
        stored = stored if s.frame is None else stored.reshape(-1, rows, columns)[s.frame]
        if stored.shape != (rows, columns):
            raise InputError(
                "pixel data do not match the size in the header",
                where=s.path.name,
                expected=f"{rows} x {columns}",
                got=" x ".join(map(str, stored.shape)),
            )
        volume[k] = stored.astype(np.float64) * s.slope + s.intercept
        if padding is not None and s.padding is not None:
            # Inside of the image the value may be a measured one that was clipped.
            outside = reaching_border((stored >= s.padding[0]) & (stored <= s.padding[1]))
            padding[k][outside] = volume[k][outside]
    if padding is None or np.isnan(padding).all():
        return volume.transpose(2, 1, 0), None
    return volume.transpose(2, 1, 0), padding.transpose(2, 1, 0)
