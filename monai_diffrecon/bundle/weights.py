# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading a bundle's weights: the bytes that are hashed are the bytes that are loaded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.bundle.checkpoint_file import parse_checkpoint
from monai_diffrecon.bundle.wrapped_weights import state_dict_in
from monai_diffrecon.errors import InputError, IntegrityError


def read_weights(root: str | Path, weights: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a bundle, on the CPU, and the sha256 of their file.

    The file is read once: the hashed bytes are the loaded ones. The weights may be one
    of its entries, such as ``state_dict``; their stored names are kept.

    Args:
        root: root folder of the bundle.
        weights: ``{"file": ..., "sha256": ...}`` of its metadata; ``.safetensors`` by the suffix, else a file of
            ``torch.save``.
        where: the bundle, for messages.

    Raises:
        InputError: no such file, no weights in it, or several state dicts.
        IntegrityError: another file than the metadata says, one outside of the bundle, one that wants to run
            something, or values that are not finite.
        ConfigError: a ``.safetensors`` file, and the library safetensors is not installed.
    """
    name, expected = str(weights["file"]), str(weights["sha256"])
    if not _is_inside(name):
        raise IntegrityError(
            "weights outside the bundle", where=where, expected="a path below its root", got=repr(name)
        )
    path = Path(root) / name
    if not path.is_file():
        raise InputError(
            "no weights",
            where=where,
            expected=name,
            got="no such file",
            mend="train them with configs/train.json, or restore the file",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("cannot be read", where=f"{where}, {name}", got=error.strerror) from None
    digest = hashlib.sha256(data).hexdigest()
    at = f"{where}, {name}"
    if digest != expected.lower():
        raise IntegrityError(
            "weights were changed",
            where=at,
            expected=f"sha256 {expected[:16]}...",
            got=f"{digest[:16]}...",
            mend="restore the file, or update diffrecon#weights#sha256 if the change is yours",
        )
    content = parse_checkpoint(io.BytesIO(data), at, safetensors=path.suffix == ".safetensors")
    return check_state(state_dict_in(content, at), at), digest


def check_state(content: Any, where: str) -> dict[str, Tensor]:
    """Return a state dict if it is one: names, and finite tensors.

    Raises:
        InputError: no dict of tensors.
        IntegrityError: values that are not finite.
    """
    if not isinstance(content, dict):
        got = f"an object of type {type(content).__name__}"
        raise InputError("no weights", where=where, expected="a dict of tensors", got=got)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                "more than weights",
                where=where,
                expected="a plain state dict, names and tensors",
                got=f"{name!r:.60} of type {type(value).__name__}",
                mend="save network.state_dict()",
            )
        if not _is_finite(value):
            raise IntegrityError(
                f"weights that are not finite in {name!r:.80}", where=where, mend="train again, or restore the file"
            )
    return content


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    wide = value.float() if value.dtype.itemsize == 1 else value  # torch does not compare numbers of 8 bits
    return bool(torch.isfinite(wide).all())


def _is_inside(name: str) -> bool:
    """Return whether a path stays below the folder it starts in, on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or bool(windows.root)
    return not absolute and ".." not in (*posix.parts, *windows.parts)
