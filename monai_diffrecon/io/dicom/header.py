# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The headers of DICOM files, without anything that identifies a patient."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.jpeg_header import LOSSLESS_JPEG, check_lossless_jpeg
from monai_diffrecon.io.dicom.template import ALLOWED, IDENTITY
from monai_diffrecon.io.inner_folders import folders_with, name_one

#: Transfer syntax of files that are compressed as a whole.
DEFLATED = "1.2.840.10008.1.2.1.99"

_MAGIC_AT, _MAGIC = 128, b"DICM"
#: Group of the file meta information.
_META = 2
#: Without a preamble: group -> elements that may be the first one, their types, and the longest of them.
_FIRST = {_META: (0x0000, 0x0001, 0x0002, 0x0010), 0x0008: (0x0000, 0x0001, 0x0005, 0x0006, 0x0008, 0x0016, 0x0018)}
_FIRST_TYPES, _SHORT = (b"UL", b"OB", b"UI", b"CS", b"SQ"), 128
#: How many times its size a file may inflate to.
_LARGEST_RATIO = 100
_SUFFIXES = (".dcm", ".dicom", ".ima")
#: Storage of CT and MR images: single-frame, enhanced, and enhanced from single frames.
_IMAGES = {f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "2.1", "2.2", "4", "4.1", "4.4")}
_PIXELS = {"little": b"\xe0\x7f\x10\x00", "big": b"\x7f\xe0\x00\x10"}
#: So many bytes of a JPEG image hold its header.
_JPEG_HEAD = 1 << 16
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"

#: What tells the volumes of one series apart, at one position: keywords of single-frame and of enhanced images.
MARKS = (
    "EchoNumbers", "EchoTime", "InversionTime", "DiffusionBValue", "NominalPercentageOfCardiacPhase",
    "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InstanceNumber",
)  # fmt: skip
#: GE's creator of a private block, and magnitude, phase, real or imaginary part.
GE_COMPONENT = (0x00430010, 0x0043102F)

#: DetectorFocalCenterAngularPosition, which projections have (DICOM-CT-PD) and images not.
PROJECTION_ANGLE = 0x70311001

#: All that is read of a file; names, dates and free text are not.
TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "ImageType",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ComplexImageComponent", *MARKS, *GE_COMPONENT,
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True)
class DicomHeader:
    """The header of one file.

    Attributes:
        path: the file.
        dataset: pydicom data set of :data:`TAGS` and of what a derived series may repeat.
        syntax: UID of the transfer syntax.
        pixel_bytes: bytes of pixel data there are; 0 without any, -1 where that cannot be said.
    """

    path: Path
    dataset: Any
    syntax: Any
    pixel_bytes: int


def is_dicom(path: Path) -> bool:
    """Say whether a file begins as DICOM files do (PS3.10 section 7.1), or as older ones without a preamble."""
    try:
        with path.open("rb") as file:
            return _begins(file.read(_MAGIC_AT + len(_MAGIC))) is not None
    except OSError:
        return False


def is_projection(path: Path) -> bool:
    """Say whether it is a DICOM file that holds a projection of CT instead of an image (DICOM-CT-PD)."""
    from pydicom import dcmread

    try:
        with open_dicom(path) as file, quiet_pydicom():
            found = dcmread(file, stop_before_pixels=True, specific_tags=[PROJECTION_ANGLE], force=True)
            return is_dicom(path) and PROJECTION_ANGLE in found
    except Exception:  # pydicom raises whatever a damaged file provokes
        return False


def _begins(head: bytes) -> int | None:
    """Return where the elements of a file begin, None when it is not DICOM."""
    if head[_MAGIC_AT:] == _MAGIC:
        return _MAGIC_AT + len(_MAGIC)
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    if len(head) < 12 or element not in _FIRST.get(group, ()):
        return None
    # A type of two letters, or the length of a short text or number.
    known = head[4:6] in _FIRST_TYPES or int.from_bytes(head[4:8], "little") <= _SHORT
    return 0 if known else None


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder by name; hidden files and folders in it are passed over.

    Raises:
        InputError: none, or a file that is named as one or is empty and is none.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    found = [p for p in files if is_dicom(p)]
    for path in set(files) - set(found):
        if path.suffix.lower() in _SUFFIXES or not path.stat().st_size:
            raise InputError(
                "not DICOM, or damaged", where=path.name, expected="DICM at byte 128", mend="copy the series again"
            )
    if not found:
        inner = folders_with(folder, is_dicom)
        raise InputError(
            "no DICOM file" + (" in the folder itself, only in its subfolders" if inner else ""),
            where=folder.name,
            expected="the files of a series",
            got=f"{len(inner)} folders with DICOM files" if inner else None,
            mend=name_one(folder, inner) if inner else "name the folder that contains the files",
        )
    return found


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings and its log to itself: they quote values, which may name a patient."""
    log = logging.getLogger("pydicom")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)


class _WholeFile(io.BufferedReader):
    """A file that is never asked for more than it has: a damaged length would be allocated before it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self.size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def open_dicom(path: Path) -> Iterator[BinaryIO]:
    """Open a file for pydicom, which believes whatever lengths it declares.

    Raises:
        InputError: compressed as a whole, to a size that no images have.
    """
    from pydicom.filereader import read_dataset

    with _WholeFile(path) as file:
        file.seek(_begins(file.read(_MAGIC_AT + len(_MAGIC))) or 0)
        with quiet_pydicom():
            meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != _META)
            if meta.get("TransferSyntaxUID") == DEFLATED:
                _check_deflated(file, path)
        file.seek(0)
        yield file


def _check_deflated(file: BinaryIO, path: Path) -> None:
    """Refuse what would inflate to more than :data:`_LARGEST_RATIO` times the file."""
    inflate, size, limit = zlib.decompressobj(-zlib.MAX_WBITS), 0, max(_LARGEST_RATIO * path.stat().st_size, 1 << 20)
    waiting = file.read()  # what follows the file meta information (PS3.5 A.5)
    while waiting and not inflate.eof:
        size += len(inflate.decompress(waiting, 1 << 20))
        waiting = inflate.unconsumed_tail
        if size > limit:
            raise InputError(
                "decompressed data would be too large",
                where=path.name,
                expected=f"at most {_LARGEST_RATIO} times the file",
                mend="decompress the series first",
            )


def read_header(path: Path) -> DicomHeader:
    """Read the header of a file, not its pixels.

    Raises:
        InputError: not DICOM, damaged or truncated.
    """
    from pydicom import dcmread

    if not is_dicom(path):
        raise InputError("not a DICOM file", where=path.name, expected="DICM at byte 128")
    try:
        with open_dicom(path) as file, quiet_pydicom():
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=[*TAGS, *ALLOWED], force=True)
            syntax = syntax_of(dataset)
            for tag in ("SOPClassUID", "SeriesInstanceUID", "ImageType", "Modality", "Rows", "Columns"):
                dataset.get(tag)  # pydicom converts only now
            int(dataset.get("NumberOfFrames") or 1)
            header = DicomHeader(path, dataset, syntax, _pixel_bytes(file, syntax, path))
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged file provokes; its words may quote the header
        raise InputError(
            "cannot be read as DICOM",
            where=path.name,
            got=type(error).__name__,
            mend="check that the file is complete",
        ) from None
    kinds = (dataset.file_meta.get("MediaStorageSOPClassUID"), dataset.get("SOPClassUID"))
    if not header.pixel_bytes and not _IMAGES.isdisjoint(kinds):
        # Cut within its header a slice may look like no image at all, and must not be passed over.
        raise InputError("an image without pixel data", where=path.name, mend="copy the series again")
    return header


def read_identity(path: Path) -> Any:
    """Return a pydicom data set of what a derived series may repeat, patient and study included.

    Raises:
        InputError: damaged.
    """
    from pydicom import dcmread

    tags = ["SpecificCharacterSet", *ALLOWED, *IDENTITY]
    try:
        with open_dicom(path) as file, quiet_pydicom():
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
            for tag in IDENTITY:
                str(dataset.get(tag))  # pydicom converts only now
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError("cannot be read as DICOM", where=path.name, got=type(error).__name__) from None
    return dataset


def syntax_of(dataset: Any) -> Any:
    """Return the transfer syntax of a data set; of one without file meta information, the one it was read by."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    said = dataset.file_meta.get("TransferSyntaxUID")
    return said or (ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian)


def truncated(path: Path) -> InputError:
    """Return the error of a file whose pixel data ends too early."""
    return InputError("truncated: the pixel data is incomplete", where=path.name, mend="copy the series again")


def _pixel_bytes(file: BinaryIO, syntax: Any, path: Path) -> int:
    """Return how many bytes of pixel data follow in a file whose header was read.

    Raises:
        InputError: compressed pixel data without its end.
    """
    if syntax.is_private or syntax == DEFLATED:
        return -1
    size = path.stat().st_size
    start = file.tell()
    if file.read(4) != _PIXELS["little" if syntax.is_little_endian else "big"]:
        return 0
    if not syntax.is_encapsulated:
        return size - start - (8 if syntax.is_implicit_VR else 12)
    file.seek(start + 12)
    fragments = 0
    while True:  # from fragment to fragment (PS3.5 A.4)
        item = file.read(8)
        if item[:4] == _END:
            return -1
        length = int.from_bytes(item[4:], "little")
        if item[:4] != _ITEM or file.tell() + length > size:
            raise truncated(path)
        if fragments == 1 and syntax in LOSSLESS_JPEG:  # the first one is a table
            check_lossless_jpeg(file.read(min(length, _JPEG_HEAD)), path.name)
            length -= min(length, _JPEG_HEAD)
        file.seek(length, 1)
        fragments += 1
