# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint must have in common with the run that resumes from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.privacy.redaction import redact


def run_identity(**parts: Any) -> dict[str, str]:
    """Return everything that determines the voxels of a run as dotted name -> JSON value.

    Arrays and files of ``*_file`` options are represented by their hash, and other paths are removed, so a checkpoint
    contains no identifiers.

    Args:
        parts: name -> value: ``config``, ``weights``, ``measurement``, ``seed``, ``versions`` and so on.
    """
    flat: dict[str, str] = {}
    for name, value in redact(_with_files(parts)).items():
        _flatten(name, value, flat)
    return flat


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return one phrase for each entry that differs, for example ``config.sampler.steps (12, now 20)``."""
    phrases = []
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name), now.get(name)
        if was != is_now:
            phrases.append(f"{name} ({_short(was)}, now {_short(is_now)})")
    return phrases


def _with_files(value: Any) -> Any:
    """Return nested options with the hash of every file that an option named ``*_file`` names."""
    if isinstance(value, list | tuple):
        return [_with_files(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    named = {k: v for k, v in value.items() if str(k).endswith("_file") and isinstance(v, str) and Path(v).is_file()}
    return {k: f"sha256:{sha256_file(v)}" if k in named else _with_files(v) for k, v in value.items()}


def _flatten(name: str, value: Any, flat: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, flat)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            _flatten(f"{name}.{index}", inner, flat)
    else:
        flat[name] = json.dumps(value, sort_keys=True)


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    text = value.strip('"')
    return text if len(text) <= 24 else text[:12] + "..."
