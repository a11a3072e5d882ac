# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The attributes that a derived DICOM series may copy from its source."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections.abc import Callable
from typing import Any

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", flags=re.ASCII)

#: Patient and study, which a derived series keeps only when it is told to.
IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID",
)  # fmt: skip


def derived_uid(*parts: str) -> str:
    """Return a UID below 2.25 that is a function of the parts and does not reveal them (PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def is_uid(text: str) -> bool:
    """Say whether a text is a DICOM UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def allowed_header(dataset: Any) -> dict[str, str]:
    """Return the attributes of a header that :data:`ALLOWED` lists, keyword -> text.

    Values are kept only where the standard enumerates them, or as numbers, so that no free text gets through. The one
    UID among them is that of the frame of reference: without it a viewer cannot lay the result over its source.

    Args:
        dataset: a pydicom data set.
    """
    header = {}
    for keyword, valid in ALLOWED.items():
        try:
            value = dataset.get(keyword)
            text = "" if value is None else "\\".join(map(str, [value] if isinstance(value, str) else _as_list(value)))
        except (ValueError, TypeError, ArithmeticError):  # pydicom converts only now
            continue
        if text and valid(text):
            header[keyword] = text
    return header


def _as_list(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__iter__") else [value]


def _words(*allowed: str) -> Callable[[str], bool]:
    return lambda text: all(word in allowed for word in text.split("\\"))


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and len(text) <= 16
    except ValueError:
        return False


#: Keyword -> whether a value may be repeated.
ALLOWED: dict[str, Callable[[str], bool]] = {
    "Modality": _words("CT", "MR"),
    "FrameOfReferenceUID": is_uid,
    "PatientPosition": _words("HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS"),
    "LossyImageCompression": _words("00", "01"),
    "ScanningSequence": _words("SE", "IR", "GR", "EP", "RM"),
    "SequenceVariant": _words("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "TOF", "NONE"),
    "MRAcquisitionType": _words("2D", "3D"),
    "RepetitionTime": _number,
    "EchoTime": _number,
    "InversionTime": _number,
    "EchoTrainLength": _number,
    "FlipAngle": _number,
    "MagneticFieldStrength": _number,
    "KVP": _number,
}
