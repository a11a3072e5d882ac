# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a provenance record consists of; its JSON schema is made from this."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Version of the records that are written.
SCHEMA_VERSION = "2"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]
Relative = Annotated[str, Field(pattern=r"^(?!\.\.?(/|$))[^/\\]+(/(?!\.\.?(/|$))[^/\\]+)*$")]
Count = Annotated[int, Field(ge=0)]


def _optional(description: str | None = None) -> Any:
    """Return a field that may be missing but must not be null."""
    return Field(default=None, description=description, json_schema_extra=lambda schema: schema.pop("default", None))


class _Block(BaseModel):
    # The pattern of a folder looks ahead, which only Python's expressions can.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, regex_engine="python-re")


class Source(_Block):
    """Where the measurement came from; null where that is not known."""

    reader: str | None
    unit: str | None = Field(description="of the volume's intensity")
    sha256: Sha256 | None = Field(description="of the file or volume")


class Step(_Block):
    """One step of the sampler."""

    step: Count
    sigma: float | None = Field(description="noise level, network units")
    residual: float | None = Field(description="relative data residual after it; null when not finite")


class Report(_Block):
    """What the run did: the report of the inferer, but for what the run was made with, which the record says itself."""

    seconds: float = Field(description="total wall time; this and the following counts are over all samples")
    start_seconds: float = Field(description="wall time of the start")
    denoiser_seconds: float = Field(description="wall time inside the score prior")
    denoiser_calls: Count = Field(description="passes over all slices of a plane")
    network_calls: Count = Field(description="batches of slices passed through a network")
    ladder: list[float] = Field(description="noise levels, network units; of the first sample, as are the steps")
    steps: list[Step]
    scale: float = Field(description="physical units of one network unit")
    offset: float = Field(description="physical value of network zero")
    phase: float = Field(description="global phase (radians) removed from the measurement")
    fallbacks: list[str] = Field(description="what was done differently")
    execution: dict[str, Any] = Field(
        description="where it ran: threads, device, instruction set, slices per network call, number of resumptions"
    )
    notices: list[str] = Field(description="notices for the users of the output")
    resumed_from: str | None = Field(description="MLflow run of the interrupted run before this one")


class File(_Block):
    """A file beside the record."""

    file: FileName
    sha256: Sha256


class Format(_Block):
    """A file or a folder, relative to the record."""

    path: Relative
    sha256: Sha256 = Field(description="of a folder: of all files")


class Series(_Block):
    """A DICOM series in a folder relative to the record."""

    folder: Relative
    sha256: Sha256 = Field(description="of the sorted hashes of its files")


class Output(File):
    """The files that were written."""

    voxels_sha256: Sha256 = Field(description="of (1, X, Y, Z) float32 in RAS+ order")
    phase: File = _optional("of a complex volume, whose magnitude the output is")
    spread: dict[str, File] = _optional("of several samples, whose mean the output is: std, sample000 and so on")
    formats: dict[str, Format] = _optional("the same in further formats")
    dicom: Series = _optional("the same as a DICOM series")


class Versions(BaseModel):
    """Distribution -> version; null when it is not installed."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str | None]

    python: str | None
    torch: str | None
    monai: str | None
    monai_diffrecon: str | None


class _Common(_Block):
    created: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="UTC, ISO 8601")
    versions: Versions
    measurement_sha256: Sha256
    weights: dict[str, Sha256] = Field(description="bundle -> sha256")
    config: dict[str, Any] = Field(description="merged configuration, without paths")
    config_sha256: Sha256 = Field(description="of the configuration as canonical JSON")
    seeds: dict[str, int]
    options: dict[str, Any] = Field(description="options of the command")
    output: Output
    record_sha256: Sha256 = Field(description="of all else in the record as canonical JSON")
    case: str = _optional("pseudonym of the case, part of the noise seed")
    identity_sha256: Sha256 = _optional("of everything that determines the voxels, as canonical JSON")


Preparation = Annotated[
    list[Annotated[dict[str, Any], Field(min_length=1, max_length=1)]],
    Field(
        description="what was done, in order, {name: options}: "
        "correct_tilt, floor_padding, resample, simulate, resample_reference"
    ),
]
Inferer = Annotated[dict[str, Any], Field(description="options of the inferer that are not plugins")]


class Record(_Common):
    """How an output volume came about, with hashes that prove it."""

    schema_version: Literal["2"]
    source: Source
    preparation: Preparation
    inferer: Inferer
    report: Report


class Record1(_Common):
    """A record of schema 1, which has parts of the report among its entries; what came later may be missing."""

    schema_version: Literal["1"]
    fallbacks: list[str]
    residuals: list[float | None]
    timings: dict[str, float | None]
    network_calls: Count
    source: Source = _optional()
    preparation: Preparation = _optional()
    inferer: Inferer = _optional()
    execution: dict[str, Any] = _optional()
    notices: list[str] = _optional()


#: Version of a record -> what it consists of.
RECORDS: dict[Any, type[BaseModel]] = {"1": Record1, SCHEMA_VERSION: Record}


def record_schema() -> dict[str, Any]:
    """Return the JSON schema of the records that are written."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"monai_diffrecon/provenance-{SCHEMA_VERSION}.schema.json",
        **Record.model_json_schema(),
        "title": "monai_diffrecon provenance record",
    }
