# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Files that hold the state of a run: tensors and plain values, written in one step, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.errors import IntegrityError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.numerics.hashing import sha256_tensor


def write_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a state atomically: the previous file stays until the new one is complete.

    Args:
        path: file to write; its folder must exist.
        state: nested dicts and lists of tensors, strings, numbers, booleans and None.

    Raises:
        InputError: the folder may not be written.
        ResourceError: the disk is full.
    """
    content = {"sha256": state_sha256(state), "state": dict(state)}
    atomic_write(path, lambda temporary: torch.save(content, temporary))


def read_state(path: str | Path) -> dict[str, Any]:
    """Return the state in a file, on the CPU; no code in the file is run.

    Raises:
        InputError: no such file, or one that is truncated.
        IntegrityError: the content differs from what was written, or is not valid in a state.
    """
    content = load_checkpoint(path)
    state = content.get("state")
    if not isinstance(state, dict) or content.get("sha256") != state_sha256(state):
        raise IntegrityError("the state was damaged or changed", where=Path(path).name, mend="delete the file")
    return state


def state_sha256(value: Any) -> str:
    """Return a hash of nested plain values and tensors; the order of keys does not matter, strides of tensors do.

    Strides are part of the state, since the last bit of a sum over a tensor depends on them.
    """
    return hashlib.sha256(json.dumps(_described(value), sort_keys=True).encode()).hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ["tensor", sha256_tensor(value), list(value.stride())]
    if isinstance(value, Mapping):
        return {str(name): _described(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_described(inner) for inner in value]
    return value
