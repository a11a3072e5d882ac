# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Removes from stored data whatever may identify a patient, a user or a machine."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from monai_diffrecon.numerics.hashing import keyed_name, sha256_tensor

# A path may contain blanks ("Doe John"), so one inside a sentence runs up to what a path hardly contains.
_REST = r"[^\"'`,;|<>()\[\]{}\n]*?(?=$|[\"'`,;|<>()\[\]{}\n]|:\s)"
_PATH = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]*://" + _REST  # URL: may hold a host or a user
    + r"|(?<![A-Za-z0-9])[A-Za-z]:[\\/]" + _REST  # Windows drive
    + r"|\\\\[A-Za-z0-9]" + _REST  # Windows share
    + r"|(?<![\w./~\-])~[\w.\-]*/" + _REST  # home folder
    + r"|(?<![\w./~\-@%#&)\]])/(?=[\w.~\-])" + _REST  # absolute path
)  # fmt: skip
# The name of a patient's file as a whole value, such as the option geometry_file of an operator; without a folder above
# it, which the expression before would know it by.
_DATA_FILE = re.compile(
    r"[^\n]*[^\n\\/]\.(nii|nii\.gz|h5|hdf5|dcm|ima|mrd|mha|mhd|nrrd|img|hdr|xml|npy|npz|mat|dat|raw|rek|his)",
    re.IGNORECASE,
)


def redact(value: Any, key: str | bytes | None = None) -> Any:
    """Return a value in JSON form, without anything that may identify a patient, a user or a machine.

    Every absolute path, home path and URL is replaced, and a text that is the name of a file of data as a whole.

    Args:
        value: nested mappings and sequences of plain values; paths, enums, data types, devices, arrays and
            tensors (by their hash) are understood, any other object is named by its class.
        key: replaces a path by ``<path 0123456789abcdef>``, the keyed hash of its last part, so that equal files
            can be recognized; None replaces it by ``<path>``.

    Returns:
        Dicts, lists, strings, numbers, booleans and None; a number that is not finite becomes None.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        if _DATA_FILE.fullmatch(value):
            return _replacement(value, key)
        return _PATH.sub(lambda match: _replacement(match.group(), key), value)
    if isinstance(value, PurePath):
        return _replacement(str(value), key) if value.is_absolute() else redact(value.as_posix(), key)
    if isinstance(value, Mapping):
        return {
            str(redact(k if isinstance(k, str | PurePath) else str(k), key)): redact(v, key) for k, v in value.items()
        }
    if isinstance(value, torch.Tensor):
        return redact(value.item(), key) if value.ndim == 0 else f"sha256:{sha256_tensor(value)}"
    if isinstance(value, np.ndarray | np.generic):
        return redact(value.item(), key) if value.ndim == 0 else f"sha256:{sha256_tensor(torch.from_numpy(value))}"
    if isinstance(value, Enum):
        return redact(value.value, key)
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, Sequence):
        return [redact(v, key) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((redact(v, key) for v in value), key=str)
    named = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _replacement(path: str, key: str | bytes | None) -> str:
    if key is None:
        return "<path>"
    name = re.split(r"[\\/]", path.rstrip("/\\"))[-1]
    return f"<path {keyed_name(name, key)}>"
