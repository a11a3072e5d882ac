# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins are held to their contract while they run: an error names the one that broke it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from monai_diffrecon.engine.out_of_memory import is_out_of_memory
from monai_diffrecon.errors import DiffReconError, PluginError

T = TypeVar("T")


def named_call(call: Callable[[], T], where: str) -> T:
    """Return ``call()``; what it raises for no reason of a user's names the plugin.

    Args:
        call: calls a method of the plugin.
        where: the plugin, for messages.

    Raises:
        DiffReconError: what the call raises, as it is; so does want of memory.
        PluginError: any other exception, by its kind and place: its text may quote what it was given.
    """
    try:
        return call()
    except DiffReconError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            "fails",
            where=where,
            got=f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}",
            mend="report it to its author, or name another plugin",
        ) from error


def checked_call(call: Callable[[Tensor], object], x: Tensor, where: str) -> Tensor:
    """Return ``call(x)``, which must be a tensor like ``x``, and leave ``x`` as it was.

    Args:
        call: the plugin's method.
        x: a volume (C, X, Y, Z).
        where: the plugin, for messages.

    Raises:
        PluginError: it fails, no tensor, another shape, data type or device, or ``x`` was written to.
    """
    version = x._version
    out = named_call(lambda: call(x), where)
    if x._version != version:
        raise PluginError(
            "writes into the volume it was given", where=where, mend="work on a copy: x.clone(), or out of place"
        )
    return check_like(out, x, where)


def check_like(out: object, x: Tensor, where: str) -> Tensor:
    """Return ``out`` if it is a tensor of the shape, data type and device of ``x``.

    Raises:
        PluginError: it is not.
    """
    if not isinstance(out, Tensor):
        raise PluginError("returns no tensor", where=where, expected=_kind(x), got=type(out).__name__)
    if out.shape != x.shape or out.dtype != x.dtype or out.device != x.device:
        raise PluginError("returns another kind of volume", where=where, expected=_kind(x), got=_kind(out))
    return out


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"
