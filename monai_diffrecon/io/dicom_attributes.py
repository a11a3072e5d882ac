# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The attributes that all images of a derived DICOM series have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_diffrecon._version import __version__
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.dicom_template import ALLOWED, allowed_header

_STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
#: Type 2 attributes of patient, study and equipment (PS3.3): they must be there, and may be empty.
_EMPTY = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PositionReferenceIndicator", "PatientPosition", "Laterality",
)  # fmt: skip
_IDENTITY = ("PatientName", "PatientID", *_EMPTY[:6], "ReferringPhysicianName", "StudyInstanceUID")
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
        out |= {keyword: str(template.get(keyword)) for keyword in _IDENTITY if template.get(keyword)}
    return out
