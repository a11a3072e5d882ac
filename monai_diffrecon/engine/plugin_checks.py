# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins are held to their contract while they run: an error names the one that broke it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from monai_diffrecon.errors import PluginError


def checked_call(call: Callable[[Tensor], object], x: Tensor, where: str) -> Tensor:
    """Return ``call(x)``, which must be a tensor like ``x``, and leave ``x`` as it was.

    Args:
        call: the plugin's method.
        x: a volume (C, X, Y, Z).
        where: the plugin, for messages.

    Raises:
        PluginError: no tensor, another shape, data type or device, or ``x`` was written to.
    """
    version = x._version
    out = call(x)
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
