# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Hashes of files and tensors, and names that identify no one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError

_BLOCK = 1 << 20


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: no such file.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("no such file", where=Path(path).name) from None
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of all files in a folder, in hexadecimal.

    Raises:
        InputError: no such file or folder.
    """
    if not path.is_dir():
        return sha256_file(path)
    files = sorted((p.relative_to(path).as_posix(), sha256_file(p)) for p in path.rglob("*") if p.is_file())
    return hashlib.sha256("\n".join(f"{sha} {name}" for name, sha in files).encode()).hexdigest()


def sha256_tensor(t: Tensor) -> str:
    """Return the sha256 of a tensor's data type, shape and elements (row-major), in hexadecimal.

    Device, strides and subclass do not matter.
    """
    plain = t.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg().contiguous()
    digest = tensor_digest(plain.dtype, tuple(plain.shape))
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_digest(dtype: torch.dtype, shape: tuple[int, ...]) -> hashlib._Hash:
    """Return what :func:`sha256_tensor` updates by the elements."""
    return hashlib.sha256(f"{str(dtype).removeprefix('torch.')}{shape}".encode())


def keyed_name(text: str, key: str | bytes) -> str:
    """Return 16 hexadecimal digits of HMAC-SHA256 (RFC 2104) of a text.

    Unlike a plain hash it cannot be reversed by trying names, for who does not hold the key.

    Raises:
        ConfigError: the key is empty.
    """
    secret = key.encode() if isinstance(key, str) else key
    if not secret:
        raise ConfigError("an empty key gives no privacy", where="keyed_name", mend="set DIFFRECON_CASE_KEY")
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]
