# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading a scan with the reader that recognizes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError, PluginError
from monai_diffrecon.io.inner_folders import folders_with, name_one
from monai_diffrecon.io.measurement.checks import check_measurement
from monai_diffrecon.io.straight import check_straight
from monai_diffrecon.protocols import Measurement, MeasurementReader

#: The spec that asks every installed reader.
AUTO = "auto"

_WHERE = "reader"


def find_reader(path: str | Path, spec: Any = AUTO) -> MeasurementReader:
    """Return the reader of a file or folder.

    Args:
        path: the scan.
        spec: ``auto`` asks each installed reader whether it recognises the scan; or a reader, its name, or
            ``{"name": ..., **options}``, which is not asked.

    Raises:
        InputError: no such file, or none or several of the installed readers recognise it.
        PluginError: no such reader.
        ConfigError: an option that the reader does not have.
    """
    return _choose(Path(path), spec)[1]


def read_scan(path: str | Path, spec: Any = AUTO, *, leaning: bool = False) -> tuple[str, Measurement]:
    """Return the name of the reader of a file or folder, and what it read.

    Args:
        path: the scan.
        spec: as for :func:`find_reader`.
        leaning: do not refuse a sheared (gantry-tilted) stack: the caller corrects it.

    Raises:
        InputError: as :func:`find_reader`, or the scan is damaged, incomplete, or not of the reader's kind; or what
            was read is no valid measurement, or lies askew.
        PluginError: no such reader.
        ConfigError: an option that the reader does not have.
    """
    path = Path(path)
    name, reader = _choose(path, spec)
    reader.leaning = leaning
    measurement = reader.read(path)
    check_measurement(measurement, path.name)
    if not leaning:
        check_straight(measurement.geometry, path.name, image=measurement.operator is None)
    return name, measurement


def readers_of(spec: Any = AUTO) -> dict[str, MeasurementReader]:
    """Return the readers that a spec allows, by name: all that are installed and not broken for ``auto``."""
    if spec != AUTO:
        spec = registry.current("readers", spec)
        return {_name_of(spec): registry.build("readers", spec, where=_WHERE)}
    readers: dict[str, MeasurementReader] = {}
    for info in registry.available("readers"):
        with suppress(PluginError, ConfigError):
            full = f"{info.distribution}:{info.name}"
            readers[full if info.name in readers else info.name] = registry.create("readers", full)
    return readers


def recognisers(path: Path, readers: Mapping[str, MeasurementReader]) -> list[str]:
    """Return the names of the readers that recognise a scan; one that raises does not."""
    found = []
    for name, reader in readers.items():
        with suppress(Exception):  # whatever a plugin does, it stops nothing else
            if reader.recognises(path):
                found.append(name)
    return found


def _choose(path: Path, spec: Any) -> tuple[str, MeasurementReader]:
    if not path.exists():
        raise InputError("no such file or folder", where=path.name)
    readers = readers_of(spec)
    if spec != AUTO:
        return next(iter(readers.items()))
    found = recognisers(path, readers)
    if len(found) == 1:
        return found[0], readers[found[0]]
    if found:
        raise InputError(
            f"recognized by several readers: {', '.join(found)}", where=path.name, mend=f"--reader {found[0]}"
        )
    if path.is_dir() and not any(path.iterdir()):
        raise InputError("an empty folder", where=path.name, expected="the files of a scan")
    inner = folders_with(path, lambda file: bool(recognisers(file, readers))) if path.is_dir() else []
    if inner:
        raise InputError(
            "not a scan, but a folder of scans",
            where=path.name,
            expected="one scan",
            got=f"{len(inner)} folders with scans",
            mend=name_one(path, inner),
        )
    elsewhere = sorted((n, d) for (kind, n), d in registry.KNOWN_PROVIDERS.items() if kind == "readers")
    missing = ", ".join(f"{n}: {d}" for n, d in elsewhere if n not in readers)
    install = f"install the package that reads it{f' ({missing})' if missing else ''}"
    raise InputError(
        "not recognized by any reader",
        where=path.name,
        expected=f"a scan for {', '.join(sorted(readers)) or 'a reader, but none is installed'}",
        mend=f"{install}, or use --reader NAME to see why it is refused",
    )


def _name_of(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        return str(spec["name"])
    return type(spec).__name__
