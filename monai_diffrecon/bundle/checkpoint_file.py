# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading published checkpoints without running code in them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from monai_diffrecon.bundle.wrapped_weights import state_dict_in, without_prefixes
from monai_diffrecon.bundle.zip_members import check_file
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]

#: Names of the weights in a folder of the library diffusers, the safer format first.
_DIFFUSERS_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# What torch's unpickler says of a global, call or object that its list does not have; the group is the name.
_REFUSALS = (
    r"(?:Unsupported global|unsupported GLOBAL|module): ?(?:GLOBAL )?(\S+) was not an allowed",
    r"unsupported GLOBAL (\S+) whose module",
    r"Trying to call reduce for unrecognized function (.+)",
    r"but got (<class .+?>)",
)


def load_checkpoint(path: str | Path, allowed: Sequence[Allowed] = ()) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU.

    A pickle is always read by torch's restricted unpickler, which accepts tensors, plain containers and ``allowed``
    only. A ``.safetensors`` file holds nothing but tensors.

    Args:
        path: a file of ``torch.save``, a ``.safetensors`` file, or a folder of the library diffusers (also by the
            weights in it).
        allowed: further globals that a pickle may name: callables, or pairs of a callable and its name in the file.

    Returns:
        The dict in the file. For a folder: ``{"config": ..., "state_dict": ..., "scheduler_config": ... or None}``.

    Raises:
        InputError: no such file, truncated, or not a checkpoint.
        IntegrityError: the file calls what a checkpoint does not need; nothing was run.
        ConfigError: a ``.safetensors`` file, and the library safetensors is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, allowed)
    if not path.is_file():
        raise InputError("no such file", where=f"checkpoint {path.name}")
    if path.name in _DIFFUSERS_WEIGHTS and (path.parent / "config.json").is_file():
        return _load_folder(path.parent, allowed, path.name)
    return _load_file(path, allowed)


def parse_checkpoint(file: IO[bytes], where: str, allowed: Sequence[Allowed] = (), *, safetensors: bool) -> object:
    """Return the content of an open file, on the CPU; the file is not reopened by name.

    Args:
        file: open for reading, and seekable.
        where: the file, for messages.
        allowed: as in :func:`load_checkpoint`.
        safetensors: it is a safetensors file, not one of ``torch.save``.

    Raises:
        InputError: truncated, or not a checkpoint.
        IntegrityError: it calls what a checkpoint does not need, or has members that no checkpoint has.
        ConfigError: a ``.safetensors`` file, and the library safetensors is not installed.
    """
    if safetensors:
        return _parse_safetensors(file, where)
    try:
        check_file(file, where)
    except (BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise _unreadable(where, error) from None
    return _parse_pickle(file, where, allowed)


def _load_file(path: Path, allowed: Sequence[Allowed]) -> dict[str, Any]:
    where = f"checkpoint {path.name}"
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError("cannot be read", where=where, got=error.strerror) from None
    with file:
        content = parse_checkpoint(file, where, allowed, safetensors=path.suffix == ".safetensors")
    if not isinstance(content, dict):
        raise InputError(
            "not a checkpoint",
            where=where,
            expected="a dict of weights",
            got=f"an object of type {type(content).__name__}",
        )
    return content


def _parse_pickle(file: IO[bytes], where: str, allowed: Sequence[Allowed]) -> object:
    try:
        with _only(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _refused_global(str(error)):
            raise IntegrityError(
                f"refused: the file calls {refused}, which is not needed for weights",
                where=where,
                mend="do not load it by other means; ask its author for a plain state dict",
            ) from None
        raise _unreadable(where, error) from None
    except MemoryError:
        raise
    # A damaged file may raise anything: EOFError, KeyError, RuntimeError of the zip reader, ...
    except Exception as error:
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(
        "truncated, or not a checkpoint",
        where=where,
        expected="a complete file of torch.save",
        got=f"{type(error).__name__}: {error}"[:160],
        mend="download it again and compare its size and hash",
    )


def _refused_global(message: str) -> str | None:
    """Return what the unpickler refused, or None for another error."""
    for pattern in _REFUSALS:
        if match := re.search(pattern, message):
            return match[1][:120]
    return None


@contextmanager
def _only(allowed: Sequence[Allowed]) -> Iterator[None]:
    """Allow exactly these globals beside torch's own, whatever other libraries have allowed before."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(list(allowed))
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _parse_safetensors(file: IO[bytes], where: str) -> dict[str, Tensor]:
    try:
        library = import_module("safetensors")
        load = import_module("safetensors.torch").load
    except ImportError:
        raise ConfigError(
            "the library safetensors is not installed", where=where, mend="pip install safetensors"
        ) from None
    try:
        return load(file.read())
    except (library.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(where, error) from None


def _load_folder(root: Path, allowed: Sequence[Allowed], weights: str | None = None) -> dict[str, Any]:
    """Read a model, or the U-Net and the scheduler of a pipeline, as diffusers saves them."""
    model = root / "unet" if (root / "unet").is_dir() else root
    names = [weights] if weights else [name for name in _DIFFUSERS_WEIGHTS if (model / name).is_file()]
    if not names or not (model / "config.json").is_file():
        raise InputError(
            "no checkpoint in this folder",
            where=f"checkpoint {root.name}",
            expected=f"config.json and {' or '.join(_DIFFUSERS_WEIGHTS)}, there or in unet/",
            got=", ".join(sorted(p.name for p in model.iterdir())[:10]) or "nothing",
        )
    places = [root / "scheduler", root, model.parent / "scheduler"]
    scheduler = next((p for place in places if (p := place / "scheduler_config.json").is_file()), None)
    return {
        "config": _read_json(model / "config.json"),
        "state_dict": without_prefixes(state_dict_in(_load_file(model / names[0], allowed), names[0])),
        "scheduler_config": None if scheduler is None else _read_json(scheduler),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ones
        raise InputError(f"not JSON: {error}", where=f"checkpoint {path.parent.name}, {path.name}") from None
    if not isinstance(content, dict):
        raise InputError("not a JSON object", where=f"checkpoint {path.parent.name}, {path.name}")
    return content
