# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Provenance records of output volumes, and their verification.

A record holds no path, no name of a user or machine, and no identifier of a patient, so it can be published with
the volume.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.io.atomic import full_suffix, write_json
from monai_diffrecon.io.dicom.writer import series_sha256
from monai_diffrecon.io.nifti import voxels_sha256
from monai_diffrecon.numerics.hashing import sha256_file, sha256_path, sha256_tensor
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.tracking.provenance_schema import RECORDS, SCHEMA_VERSION, Report
from monai_diffrecon.tracking.versions import versions_of


def record_path(output: str | Path) -> Path:
    """Return the path of an output's record: ``<name>.provenance.json`` beside ``<name>.nii.gz``."""
    output = Path(output)
    return output.with_name(output.name.removesuffix(full_suffix(output)) + ".provenance.json")


def build_record(
    report: Any,
    *,
    output: str | Path,
    measurement_sha256: str,
    volume: Tensor | None = None,
    phase: str | Path | None = None,
    spread: Mapping[str, str | Path] | None = None,
    dicom: str | Path | None = None,
    formats: Mapping[str, Path] | None = None,
    options: Mapping[str, Any] | None = None,
    reader: str | None = None,
    preparation: Sequence[Mapping[str, Any]] = (),
    identity: Mapping[str, str] | None = None,
    case: str | None = None,
) -> dict[str, Any]:
    """Return the record of a written output.

    Args:
        report: the report of the run (:class:`~monai_diffrecon.engine.run_report.RunReport`).
        output: the written NIfTI file.
        measurement_sha256: hash of the measurement (:func:`sha256_tensor`).
        volume: (1, X, Y, Z), the volume to be written as float32; the file is read back and compared.
        phase: the written phase of a complex volume, beside the output, whose magnitude that is.
        spread: files of several samples beside the output, which is their mean: name (``std``, ...) -> file.
        dicom: folder of the DICOM series that was written of it, beside the output or below.
        formats: name of a further format -> the file, or the folder, that was written of it.
        options: what the command was called with, where that is not in the report.
        reader: name of the reader of the measurement.
        preparation: the preparation steps between reading and reconstruction, in order.
        identity: everything that determines the voxels; its hash is recorded.
        case: pseudonym of the case, part of the noise seed.

    Raises:
        IntegrityError: the file does not hold ``volume``.
        InputError: the file cannot be read.
    """
    output = Path(output)
    voxels = voxels_sha256(output)
    if volume is not None:
        _require_same("the file does not hold the volume", output.name, sha256_tensor(volume.float()), voxels)
    config, did = redact(report.options), redact({name: getattr(report, name) for name in Report.model_fields})
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"python": platform.python_version(), **versions_of(report.distributions)},
        "measurement_sha256": measurement_sha256,
        "weights": redact(report.weights),
        "config": config,
        "config_sha256": _canonical_sha256(config),
        "seeds": {"noise": int(report.seed)},
        "options": redact(options or {}),
        "preparation": redact([dict(step) for step in preparation]),
        "inferer": redact(report.inferer),
        "source": {"reader": reader, "unit": report.unit, "sha256": report.source_sha256},
        "report": did | {name: round(did[name], 3) for name in did if name.endswith("seconds")},
        "output": {"file": output.name, "sha256": sha256_file(output), "voxels_sha256": voxels},
    }
    if case is not None:
        record["case"] = case
    if identity is not None:
        record["identity_sha256"] = identity_sha256(identity)
    if dicom is not None:
        folder = Path(dicom).relative_to(output.parent).as_posix()
        record["output"]["dicom"] = {"folder": folder, "sha256": series_sha256(dicom)}
    if formats:
        record["output"]["formats"] = {
            name: {"path": path.relative_to(output.parent).as_posix(), "sha256": sha256_path(path)}
            for name, path in formats.items()
        }
    if phase is not None:
        record["output"]["phase"] = {"file": Path(phase).name, "sha256": sha256_file(phase)}
    if spread is not None:
        files = {name: {"file": Path(path).name, "sha256": sha256_file(path)} for name, path in spread.items()}
        record["output"]["spread"] = files
    return record | {"record_sha256": _canonical_sha256(record)}


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically.

    Raises:
        IntegrityError: it does not match the schema.
    """
    _validate(record, Path(path).name)
    write_json(path, dict(record))


def identity_sha256(identity: Mapping[str, str]) -> str:
    """Return the hash of everything that determines the voxels of a reconstruction."""
    return _canonical_sha256(dict(identity))


def read_record(path: str | Path) -> dict[str, Any]:
    """Return a record after checking its own hash; outputs are not checked.

    A record of schema 1 is converted to the current schema, with the report as far as it goes.

    Raises:
        InputError: no such record.
        IntegrityError: it is damaged or of another version.
    """
    path = Path(path)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError("no such record", where=path.name) from None
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON
        raise IntegrityError("not a record", where=path.name, expected="JSON", got=str(error)[:100]) from None
    _validate(record, path.name)
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    _require_same("the record was changed", path.name, record["record_sha256"], _canonical_sha256(rest))
    _require_same("its config was changed", path.name, record["config_sha256"], _canonical_sha256(record["config"]))
    return _with_report(record) if record["schema_version"] == "1" else record


def outputs_in(folder: str | Path) -> set[Path]:
    """Return all output files and folders named by the records in a folder; none is opened.

    Changed records and those of other versions count as well.
    """
    found: set[Path] = set()
    for path in Path(folder).glob("*.provenance.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        said = record.get("output") if isinstance(record, dict) and "record_sha256" in record else None
        if not isinstance(said, dict):
            continue
        spread = said.get("spread")
        formats = said.get("formats")
        several = [part for d in (spread, formats) if isinstance(d, dict) for part in d.values()]
        for part in (said, said.get("phase"), said.get("dicom"), *several):
            if not isinstance(part, dict):
                continue
            name = part.get("file", part.get("folder", part.get("path")))
            if isinstance(name, str):
                found.add((path.parent / name).resolve())
    return found


def verify_record(path: str | Path) -> dict[str, Any]:
    """Verify the hashes of a record and of all outputs beside it, and return the record.

    Raises:
        InputError: no such record.
        IntegrityError: the record is damaged or of another version, or an output is missing or was changed.
    """
    path = Path(path)
    record = read_record(path)
    output = path.with_name(record["output"]["file"])
    if not output.is_file():
        raise IntegrityError("the output is missing", where=output.name, mend="restore it, or reconstruct again")
    _require_same("the output was changed", output.name, record["output"]["sha256"], sha256_file(output))
    _require_same(
        "the output's voxels differ",
        output.name,
        record["output"]["voxels_sha256"],
        voxels_sha256(output),
    )
    if phase := record["output"].get("phase"):
        _check_beside("phase", path.with_name(phase["file"]), phase["sha256"])
    for name, said in record["output"].get("spread", {}).items():
        _check_beside(name, path.with_name(said["file"]), said["sha256"])
    for name, said in record["output"].get("formats", {}).items():
        _check_beside(name, path.parent / said["path"], said["sha256"])
    series = record["output"].get("dicom")
    if series is not None:
        folder = path.parent / series["folder"]
        _require_same("the DICOM series was changed", series["folder"], series["sha256"], series_sha256(folder))
    return record


def _check_beside(name: str, path: Path, expected: str) -> None:
    if not path.exists():
        raise IntegrityError(f"the {name} is missing", where=path.name, mend="restore it, or reconstruct again")
    _require_same(f"the {name} was changed", path.name, expected, sha256_path(path))


def _canonical_sha256(value: Any) -> str:
    """Return the hash of a value as JSON with keys in order, no blanks and ASCII only."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _require_same(what: str, where: str, expected: str, got: str) -> None:
    if expected != got:
        raise IntegrityError(
            what,
            where=where,
            expected=f"sha256 {expected[:16]}...",
            got=f"{got[:16]}...",
            mend="restore the file, or reconstruct again",
        )


def _with_report(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1 with its report entries moved to their current place."""
    moved = ("network_calls", "fallbacks", "execution", "notices")
    report: dict[str, Any] = {name: record.pop(name) for name in moved if name in record}
    report |= record.pop("timings") | {"steps": [{"residual": residual} for residual in record.pop("residuals")]}
    return record | {"report": report}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _validate(record: Any, where: str) -> None:
    version = record.get("schema_version") if isinstance(record, Mapping) else None
    if not isinstance(version, str) or version not in RECORDS:
        known = " or ".join(f"schema_version {name!r}" for name in RECORDS)
        raise IntegrityError("a record of another version", where=where, expected=known, got=repr(version)[:100])
    try:
        RECORDS[version].model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise IntegrityError(
            "not a provenance record",
            where=f"{where}#{'/'.join(map(str, first['loc']))}",
            expected=first["msg"][:200],
            got=redact(repr(first["input"]))[:100],
        ) from None
