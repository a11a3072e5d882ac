# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of provenance records."""

from __future__ import annotations

from typing import Any

#: Version of the record; readers refuse others.
SCHEMA_VERSION = "1"

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_FILE = {
    "type": "object",
    "required": ["file", "sha256"],
    "additionalProperties": False,
    "properties": {"file": {"type": "string", "pattern": r"^[^/\\]+$"}, "sha256": _SHA256},
}

_RELATIVE = {"type": "string", "pattern": r"^(?!\.\.?(/|$))[^/\\]+(/(?!\.\.?(/|$))[^/\\]+)*$"}

_LATER = {"source", "case", "preparation", "inferer", "execution", "identity_sha256", "notices"}

PROPERTIES: dict[str, Any] = {
    "schema_version": {"const": SCHEMA_VERSION},
    "created": {
        "description": "UTC, ISO 8601",
        "type": "string",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$",
    },
    "versions": {
        "description": "distribution -> version; null when it is not installed",
        "type": "object",
        "required": ["python", "torch", "monai", "monai_diffrecon"],
        "additionalProperties": {"type": ["string", "null"]},
    },
    "measurement_sha256": _SHA256,
    "weights": {"description": "bundle -> sha256", "type": "object", "additionalProperties": _SHA256},
    "config": {"description": "merged configuration, without paths", "type": "object"},
    "config_sha256": {**_SHA256, "description": "of the configuration as canonical JSON"},
    "seeds": {"type": "object", "additionalProperties": {"type": "integer"}},
    "options": {"description": "what the command was called with", "type": "object"},
    "fallbacks": {"description": "what was done differently", "type": "array", "items": {"type": "string"}},
    "residuals": {
        "description": "relative data residual after each step; null when not finite",
        "type": "array",
        "items": _NUMBER_OR_NULL,
    },
    "timings": {"description": "seconds", "type": "object", "additionalProperties": _NUMBER_OR_NULL},
    "network_calls": {"type": "integer", "minimum": 0},
    "source": {
        "description": "where the measurement came from; null where that is not known",
        "type": "object",
        "required": ["reader", "unit", "sha256"],
        "additionalProperties": False,
        "properties": {
            "reader": {"type": ["string", "null"]},
            "unit": {"description": "of the volume's intensity", "type": ["string", "null"]},
            "sha256": {"description": "of the file or volume", "type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
        },
    },
    "case": {"description": "pseudonym of the case, part of the noise's key", "type": "string"},
    "preparation": {
        "description": "what was done, in order, {name: options}: "
        "correct_tilt, floor_padding, resample, simulate, resample_reference",
        "type": "array",
        "items": {"type": "object", "minProperties": 1, "maxProperties": 1},
    },
    "inferer": {"description": "options of the inferer that are no plugins", "type": "object"},
    "execution": {
        "description": "where it ran: threads, device, instruction set, slices a network call, times it was resumed",
        "type": "object",
    },
    "identity_sha256": {**_SHA256, "description": "of all that decides on the voxels, as canonical JSON"},
    "notices": {
        "description": "what who shares the output should know",
        "type": "array",
        "items": {"type": "string"},
    },
    "output": {
        "type": "object",
        "required": ["file", "sha256", "voxels_sha256"],
        "additionalProperties": False,
        "properties": {
            "file": {"description": "name of the file beside the record", "type": "string", "pattern": r"^[^/\\]+$"},
            "sha256": _SHA256,
            "voxels_sha256": {**_SHA256, "description": "of (1, X, Y, Z) float32 in RAS+ order"},
            "phase": {"description": "of a complex volume, whose magnitude the output is", **_FILE},
            "spread": {
                "description": "of several samples, whose mean the output is: std, std_null, sample000 and so on",
                "type": "object",
                "additionalProperties": _FILE,
            },
            "formats": {
                "description": "the same in further formats: a file or a folder, relative to the record",
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["path", "sha256"],
                    "additionalProperties": False,
                    "properties": {
                        "path": _RELATIVE,
                        "sha256": {**_SHA256, "description": "of a folder: of all files"},
                    },
                },
            },
            "dicom": {
                "description": "the same as a DICOM series, in a folder relative to the record",
                "type": "object",
                "required": ["folder", "sha256"],
                "additionalProperties": False,
                "properties": {
                    "folder": _RELATIVE,
                    "sha256": {**_SHA256, "description": "of the sorted hashes of its files"},
                },
            },
        },
    },
    "record_sha256": {**_SHA256, "description": "of all else in the record as canonical JSON"},
}

RECORD_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "monai_diffrecon provenance record",
    "type": "object",
    "$id": "monai_diffrecon/provenance-1.schema.json",
    # What came later: earlier records stay valid.
    "required": sorted(PROPERTIES.keys() - _LATER),
    "additionalProperties": False,
    "properties": PROPERTIES,
}
