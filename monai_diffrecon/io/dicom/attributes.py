# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The attributes that all images of a derived DICOM series have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_diffrecon._version import __version__
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.dicom.template import ALLOWED, IDENTITY, allowed_header

_STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
#: Type 2 attributes of patient, study and equipment (PS3.3): they must be there, and may be empty.
_EMPTY = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PositionReferenceIndicator", "PatientPosition", "Laterality",
)  # fmt: skip
_TYPE_2 = {
    "CT": ("KVP", "AcquisitionNumber"),
    "MR": ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
}


def common_attributes(template: Any, unit: str, case: str, *, keep_identity: bool) -> dict[str, Any]:
    """Return what all images of a series have in common beside their geometry and their values.

    Args:
        template: header of the source, a mapping as of ``Measurement.header``, a pydicom data set, or None.
        unit: unit of the volume.
        case: pseudonym.
        keep_identity: keep patient and study of the template.

    Returns:
        Keyword -> value; every type 1 and type 2 attribute of the image's kind (PS3.3 A.3, A.4) that a reconstruction
        can know.

    Raises:
        ConfigError: identity is to be kept, and the template has none.
    """
    plain = isinstance(template, Mapping) or template is None
    if keep_identity and (plain or not template.get("StudyInstanceUID")):
        raise ConfigError(
            "no identity to keep",
            where="keep_identity",
            expected="the pydicom data set of the source as template",
        )
    said = dict(template or {}) if plain else allowed_header(template)
    said = {k: said[k] for k, valid in ALLOWED.items() if k in said and valid(str(said[k]))}
    modality = said.pop("Modality", "MR" if unit == "arbitrary" else "CT")
    out: dict[str, Any] = {
        **dict.fromkeys((*_EMPTY, *_TYPE_2[modality]), ""),
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": _STORAGE[modality],
        "Modality": modality,
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"],
        "PatientName": case,
        "PatientID": case,
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "written anew from named attributes of the source",
        "LongitudinalTemporalInformationModified": "REMOVED",
        "SeriesNumber": 1,
        "Manufacturer": "monai_diffrecon",
        "SoftwareVersions": __version__,
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
    }
    if modality == "MR":
        out |= {"ScanningSequence": "RM", "SequenceVariant": "NONE"}
        said.pop("KVP", None)
    else:
        said = {k: v for k, v in said.items() if k in ("FrameOfReferenceUID", "PatientPosition", "KVP")}
    out |= {k: v.split("\\") if "\\" in v else v for k, v in said.items()}
    if "IR" in out.get("ScanningSequence", ()):
        out.setdefault("InversionTime", "")
    if keep_identity:
        for keyword in ("DeidentificationMethod", "LongitudinalTemporalInformationModified"):
            del out[keyword]
        out["PatientIdentityRemoved"] = "NO"
        # An archive files by them: what is empty in the source stays empty.
        out |= {keyword: str(template.get(keyword) or "") for keyword in IDENTITY}
    return out


_LEVELS = 65535
_AIR = -1024


def quantized(array: np.ndarray, unit: str) -> tuple[np.ndarray, str, str]:
    """Return stored values with their slope and intercept, such that ``stored * slope + intercept`` is the array.

    HU are stored as scanners do, in steps of 1 HU from -1024, as signed numbers; whatever does not fit, and other
    units, in 65535 steps of the range, unsigned. A range that begins near 0 begins at 0, so that a reader that
    ignores the slope still sees proportional values. The error is at most half a step.

    Args:
        array: real numbers, finite.
        unit: ``HU`` or another.

    Returns:
        int16 or uint16 of the array's shape, slope and intercept as decimal strings of DICOM.
    """
    from pydicom.valuerep import format_number_as_ds

    low, high = float(array.min()), float(array.max())
    if unit == "HU" and low - _AIR >= -32768 and high - _AIR <= 32767:
        return np.round(array - _AIR).astype(np.int16), "1", str(_AIR)
    if 0.0 <= low <= high / 2:
        low = 0.0
    # Rounded to 16 characters; a little more than the range, so that its ends fit.
    slope = str(format_number_as_ds((high - low) / _LEVELS * (1 + 1e-9))) if high > low else "1"
    intercept = str(format_number_as_ds(low))
    stored = np.round((array - float(intercept)) / float(slope))
    return np.clip(stored, 0, _LEVELS).astype(np.uint16), slope, intercept
